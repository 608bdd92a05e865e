//! Restore: a container's processes come back from files, by CRIU.

use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::Pid;
use rrun_spec::Bundle;
use rrun_spec::oci::{LinuxNamespaceType, Spec};

use crate::confine::cgroup::Cgroup;
use crate::console::{self, Foreground};
use crate::container::checkpoint::{
    DESCRIPTORS, Images, Places, external_mounts, external_namespace, options, refuse_layers,
};
use crate::container::create::{
    self, Attempt, check_console, has_late_hooks, load, state_of_hooks,
};
use crate::container::limits::Undo;
use crate::container::processes::mount_namespace;
use crate::container::run::After;
use crate::container::{Runtime, Status};
use crate::criu::rpc::{self, CgroupRoot, ExternalMount, InheritFd, JoinNamespace, Kind, Notice};
use crate::criu::{self, Criu};
use crate::hooks::{Occasion, Streams};
use crate::host;
use crate::plan::mounts::{MountPlan, What};
use crate::plan::{Plan, RootPlan};
use crate::process::parent::write_pid_file;
use crate::rootfs::mounts::host_directory;
use crate::rootfs::paths::Root;
use crate::rootfs::pivot;
use crate::store::containers::{Entry, ProcessIdentity, Record};
use crate::sys::mount::{attach, clone_tree};
use crate::sys::process::{Child, pidfd_open, pidfd_signal};

/// Where the root is mounted for CRIU, in the container's directory: it wants a mount point.
const ROOT: &str = "criu-root";

/// What the caller of `restore` asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The container to make.
    pub creation: create::Request,
    /// Where from, and how.
    pub images: Images,
    /// The profile of the security module, as `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// The context of mounts.
    pub lsm_mount_context: Option<String>,
}

/// A container that runs again.
struct Restored {
    child: Child,
    record: Record,
    console: Option<OwnedFd>,
}

impl Runtime {
    /// Brings a container back; in the foreground, waits for its program, deletes the container and
    /// returns the exit code.
    ///
    /// # Errors
    ///
    /// If its root is made of layers, or CRIU is missing or refuses; nothing is left of the container
    /// then.
    pub fn restore(&self, request: &Request, after: After) -> Result<u8> {
        if after.detach {
            self.bring_back(request)?;
            return Ok(0);
        }
        prctl::set_child_subreaper(after.subreaper)?;
        let foreground = Foreground::begin()?;
        let restored = self.bring_back(request)?;
        if let Some(master) = &restored.console {
            console::suit_caller(master)?;
        }
        let code = foreground.wait(&restored.child, restored.console);
        self.delete_after_run(&restored.record)?;
        code
    }

    fn bring_back(&self, request: &Request) -> Result<Restored> {
        let bundle = load(&request.creation)?;
        let plan = self.plan(&bundle, &request.creation)?;
        check_console(&plan, &request.creation)?;
        refuse_layers(plan.root.overlay.is_some())?;
        let asks = bundle.spec.linux().as_ref().is_some_and(|linux| linux.intel_rdt().is_some());
        ensure!(
            !asks,
            "/linux/intelRdt: CRIU's processes cannot be put into a class of service: remove it"
        );
        let places = Places::open(&request.images)?;
        let id = &request.creation.id;
        let entry = self.containers.reserve(id)?;
        self.clear_remains(&entry, id)?;
        let mut attempt = Attempt::of(entry);
        attempt.entry()?.write_config(&bundle.text)?;
        let (view, scope) = self.cgroups(&bundle.spec, &plan, id)?;
        ensure!(scope.is_none(), "into a scope of systemd: give --cgroup-manager cgroupfs");
        let cgroup = Undo(view.cgroup);
        let root = MountedRoot::make(attempt.entry()?, &plan.root)?;
        let order = Order { request, bundle: &bundle, plan: &plan, cgroup: cgroup.0.as_ref() };
        let (child, console) = order.carry_out(&places, &root.0)?;
        drop(root);
        let kept = self.keep(&order, &child, &mut attempt);
        let record = kept.inspect_err(|_| {
            let _ended_already = pidfd_signal(child.pidfd.as_fd(), libc::SIGKILL);
        })?;
        cgroup.keep();
        drop(attempt.succeed()?);
        let console = match (&request.creation.console_socket, console) {
            (Some(socket), Some(master)) => {
                console::send_master(socket, &master)?;
                None
            }
            (_, console) => console,
        };
        Ok(Restored { child, record, console })
    }

    /// Makes the container known.
    fn keep(&self, order: &Order<'_>, child: &Child, attempt: &mut Attempt) -> Result<Record> {
        let namespaces = &order.plan.namespaces;
        let record = Record {
            id: order.request.creation.id.clone(),
            init: ProcessIdentity::of(child.pid)?,
            boot_id: host::boot_id(),
            bundle: order.bundle.dir.clone(),
            rootfs: order.plan.root.path.clone(),
            created: Timestamp::now().to_string(),
            owner: self.host.uid.as_raw(),
            annotations: order.bundle.spec.annotations().clone().unwrap_or_default(),
            cgroup: order.cgroup.cloned(),
            server: None,
            own_user_namespace: namespaces.has(CloneFlags::CLONE_NEWUSER),
            own_pid_namespace: namespaces.makes(CloneFlags::CLONE_NEWPID),
            mount_namespace: mount_namespace(child.pid),
            late_hooks: has_late_hooks(&order.plan.hooks),
            // CRIU gives every process the caller's session keyring.
            own_keyring: false,
            resctrl: None,
        };
        attempt.entry()?.draft(&record)?.publish()?;
        if let Some(path) = &order.request.creation.pid_file {
            write_pid_file(path, child.pid)?;
            attempt.pid_file = Some(path.clone());
        }
        Ok(record)
    }
}

/// What is to be restored, and into what.
struct Order<'a> {
    request: &'a Request,
    bundle: &'a Bundle,
    plan: &'a Plan,
    cgroup: Option<&'a Cgroup>,
}

impl Order<'_> {
    /// Lets CRIU work, and returns the first process and the master side of its terminal.
    fn carry_out(&self, places: &Places, root: &Path) -> Result<(Child, Option<OwnedFd>)> {
        let namespaces = shared_namespaces(&self.bundle.spec)?;
        let fds: Vec<_> = namespaces.inherited.iter().map(|(_key, file)| file.as_fd()).collect();
        let criu = Criu::start(&fds, criu::Streams::Ours, places.log("restore.log"))?;
        let cgroup_roots = self.enter_cgroup(&criu)?;
        let wanted = rpc::Request {
            kind: Kind::Restore.into(),
            options: Some(self.options(places, root, &namespaces, cgroup_roots)?),
            notify_success: None,
        };
        let (mut init, mut console) = (None, None);
        criu.carry_out(&wanted, |notice, fd| {
            match notice.script() {
                "setup-namespaces" => self.run_hooks(notice)?,
                "post-restore" => init = notice.pid.map(Pid::from_raw),
                "orphan-pts-master" => console = fd,
                _ => {}
            }
            Ok(())
        })?;
        let Some(pid) = init else { bail!("criu did not say which process it restored") };
        let pidfd = pidfd_open(pid).context("find the restored process")?;
        Ok((Child { pid, pidfd }, console))
    }

    /// Moves CRIU to where its children are to be, and says where that is.
    fn enter_cgroup(&self, criu: &Criu) -> Result<Vec<CgroupRoot>> {
        let Some(cgroup) = self.cgroup else { return Ok(Vec::new()) };
        let pid = criu.pid()?;
        cgroup.enter(pid)?;
        let path = format!("/proc/{pid}/cgroup");
        let text = host::read_proc(&path).with_context(|| format!("read {path}"))?;
        Ok(cgroup_roots(&text))
    }

    fn run_hooks(&self, notice: &Notice) -> Result<()> {
        let all = &self.plan.hooks;
        let lists = [("prestart", all.prestart()), ("createRuntime", all.create_runtime())];
        if lists.iter().all(|(_kind, list)| list.as_ref().is_none_or(Vec::is_empty)) {
            return Ok(());
        }
        let state = state_of_hooks(self.bundle, &self.request.creation.id);
        let text = state.json(Status::Creating, Pid::from_raw(notice.pid()))?;
        let streams = Streams::open(&state.annotations)?;
        for (kind, list) in lists {
            let occasion = Occasion {
                kind,
                state: &text,
                directory: &self.bundle.dir,
                environment: None,
                streams: &streams,
            };
            occasion.run(list.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }

    fn options(
        &self,
        places: &Places,
        root: &Path,
        namespaces: &Shared,
        cgroup_roots: Vec<CgroupRoot>,
    ) -> Result<rpc::Options> {
        let (request, spec) = (self.request, &self.bundle.spec);
        let mut inherit_fds = inherited_streams(&request.images.directory)?;
        inherit_fds.extend(
            namespaces
                .inherited
                .iter()
                .map(|(key, file)| InheritFd { key: (*key).to_owned(), fd: file.as_raw_fd() }),
        );
        let mut mounts = external_mounts(spec, &self.bundle.dir);
        if !self.plan.root.masked.is_empty() {
            mounts.push(("/dev/null".into(), "/dev/null".into()));
        }
        let mounts = mounts.into_iter().map(|(key, value)| ExternalMount { key, value });
        Ok(rpc::Options {
            root: Some(root.to_string_lossy().into_owned()),
            restore_as_sibling: Some(true),
            evasive_devices: Some(true),
            lsm_profile: request.lsm_profile.clone(),
            lsm_mount_context: request.lsm_mount_context.clone(),
            external_mounts: mounts.collect(),
            join_namespaces: namespaces.joined.clone(),
            inherit_fds,
            cgroup_roots,
            ..options(&request.images, places, spec, "restore.log")
        })
    }
}

/// The namespaces that the container shares with others.
#[derive(Default)]
struct Shared {
    /// By CRIU's key: those that it left out of the images.
    inherited: Vec<(&'static str, File)>,
    /// Those that it joins itself.
    joined: Vec<JoinNamespace>,
}

fn shared_namespaces(spec: &Spec) -> Result<Shared> {
    let mut shared = Shared::default();
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    for namespace in all.into_iter().flatten() {
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
        let Some(path) = path else { continue };
        let word = match namespace.typ() {
            kind @ (LinuxNamespaceType::Network | LinuxNamespaceType::Pid) => {
                if let Some((_word, key, path)) = external_namespace(spec, kind) {
                    let open = || format!("open namespace {}", path.display());
                    shared.inherited.push((key, File::open(&path).with_context(open)?));
                }
                continue;
            }
            LinuxNamespaceType::Cgroup => {
                bail!("/linux/namespaces: criu cannot join a cgroup namespace")
            }
            LinuxNamespaceType::Mount => "mnt",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::User => "user",
            LinuxNamespaceType::Time => "time",
        };
        let path = path.to_string_lossy().into_owned();
        shared.joined.push(JoinNamespace { kind: word.to_owned(), path });
    }
    Ok(shared)
}

/// The pipes among the old standard streams: ours take their places.
fn inherited_streams(images: &Path) -> Result<Vec<InheritFd>> {
    let path = images.join(DESCRIPTORS);
    let text = fs::read(&path).with_context(|| {
        format!("read {} (was this made by checkpoint, and not --pre-dump?)", path.display())
    })?;
    let streams: Vec<String> =
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))?;
    let pipes = (0..).zip(streams).filter(|(_fd, stream)| stream.contains("pipe:"));
    Ok(pipes.map(|(fd, key)| InheritFd { key, fd }).collect())
}

/// One root for each controller, from the text of `/proc/PID/cgroup`.
fn cgroup_roots(text: &str) -> Vec<CgroupRoot> {
    let fields = text.lines().filter_map(|line| {
        let (_number, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let roots = fields.flat_map(|(controllers, path)| {
        controllers.split(',').map(|controller| CgroupRoot {
            controllers: Some(controller.to_owned()),
            path: path.to_owned(),
        })
    });
    roots.collect()
}

/// The root, mounted in a mount namespace of our own where CRIU finds it. Dropping it unmounts it.
struct MountedRoot(PathBuf);

impl MountedRoot {
    /// Mounts the root, and makes the mount points in it that the image lacks.
    fn make(entry: &Entry, plan: &RootPlan) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace for criu")?;
        pivot::part_from_host(0)?;
        let place = entry.path().join(ROOT);
        DirBuilder::new()
            .mode(0o700)
            .create(&place)
            .with_context(|| format!("make directory {}", place.display()))?;
        let mounted = Self(place);
        let mount = || -> nix::Result<OwnedFd> {
            let tree = clone_tree(AT_FDCWD, &plan.path, true)?;
            attach(tree.as_fd(), host_directory(&mounted.0)?.as_fd())?;
            Ok(tree)
        };
        let tree = mount()
            .with_context(|| format!("mount {} on {}", plan.path.display(), mounted.0.display()))?;
        make_mount_points(&Root::new(tree), &plan.mounts)?;
        Ok(mounted)
    }
}

impl Drop for MountedRoot {
    fn drop(&mut self) {
        let _never_mounted = umount2(&self.0, MntFlags::MNT_DETACH);
        if let Err(error) = fs::remove_dir(&self.0) {
            log::warn!("remove {}: {error}", self.0.display());
        }
    }
}

fn make_mount_points(root: &Root, mounts: &[MountPlan]) -> Result<()> {
    let is_tmpfs =
        |plan: &&MountPlan| matches!(&plan.what, What::New(new) if new.fstype == "tmpfs");
    let on_tmpfs = |path: &Path| {
        let mut all = mounts.iter().filter(is_tmpfs);
        all.any(|plan| path != plan.destination && path.starts_with(&plan.destination))
    };
    // What lies on a tmpfs comes back with its content, cgroups with theirs.
    for plan in mounts.iter().filter(|plan| !on_tmpfs(&plan.destination)) {
        match &plan.what {
            What::Cgroup => {}
            What::Bind { source, .. } if !source.is_dir() => {
                root.make_file(&plan.destination)?;
            }
            _ => {
                root.make_directory(&plan.destination)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_controller_has_a_root() {
        let roots = cgroup_roots("5:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c:d\nbroken\n");
        let roots: Vec<_> =
            roots.iter().map(|root| (root.controllers(), root.path.as_str())).collect();
        let expected = [("cpu", "/a"), ("cpuacct", "/a"), ("name=systemd", "/b"), ("", "/c:d")];
        assert_eq!(roots, expected);
    }

    #[test]
    fn pipes_are_inherited_by_their_number() {
        let directory = tempfile::tempdir().unwrap();
        let missing = inherited_streams(directory.path()).unwrap_err();
        assert!(format!("{missing:#}").contains("descriptors.json"), "{missing:#}");
        let text = r#"["/dev/null","pipe:[12]","pipe:[13]"]"#;
        fs::write(directory.path().join(DESCRIPTORS), text).unwrap();
        let fds = inherited_streams(directory.path()).unwrap();
        let fds: Vec<_> = fds.iter().map(|one| (one.key.as_str(), one.fd)).collect();
        assert_eq!(fds, [("pipe:[12]", 1), ("pipe:[13]", 2)]);
    }
}
