//! Mounts that come and go while a container runs: `mounts add` and `mounts remove`, as crun has them.
//!
//! ```text
//! rrun mounts add
//!  ├─ (root)                   opens the sources in the host's namespaces
//!  └─ usher                    joins the container's namespaces, makes the helper, ends; on the way,
//!      │                       if we are not root, it opens the sources: as root of the container's
//!      │                       user namespace, in a copy of the host's mount namespace
//!      └─ helper               finds the destinations, mounts or unmounts, says what came of it
//! ```
//! The container runs meanwhile, so every name in it is looked up as hostile, and no source is ever
//! looked up inside. Nothing is locked: the lock is a descriptor of the host's, which a privileged
//! program inside could find in the helper before it is closed there.

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::fchdir;
use rrun_spec::mount_options::ms;
use rrun_spec::oci::Mount;

use crate::container::exec::namespaces;
use crate::container::{ContainerId, Runtime, Status};
use crate::plan::idmap::OwnIds;
use crate::plan::mounts::{self as plans, MountPlan, Surroundings, What};
use crate::process::channel::{Channel, pair};
use crate::process::init::become_root;
use crate::process::parent::usher;
use crate::rootfs::mounts::{self, host_directory};
use crate::rootfs::paths::{Root, is_directory, is_root, stat};
use crate::rootfs::pivot::part_from_host;
use crate::rootfs::sources::{self, Source, Sources};
use crate::store::containers::Record;
use crate::sys::process::{Clone, close_all_but, join_namespaces};

/// The first descriptor after the standard three.
const FIRST: u32 = 3;

/// What the helper says before it ends.
type Answer = Result<(), String>;

/// The container whose mounts are to change.
struct Target {
    init: OwnedFd,
    namespaces: CloneFlags,
    record: Record,
}

impl Runtime {
    /// Makes the mounts of the list in `file` in the container `id`, all of them or none.
    ///
    /// # Errors
    ///
    /// A list that is wrong, a container that does not run, what the kernel refuses.
    pub fn add_mounts(&self, id: &ContainerId, file: &Path) -> anyhow::Result<()> {
        let list = rrun_spec::load_mounts(file)?;
        rrun_spec::check_mounts(&list)?;
        let target = self.target(id)?;
        let caller_is_root = !self.host.needs_user_namespace();
        let plans = target.plan(&list, caller_is_root)?;
        let sources = RefCell::new(if caller_is_root { open(&plans)? } else { Sources::new() });
        let enter = || {
            if caller_is_root {
                return target.join(target.namespaces);
            }
            target.join(CloneFlags::CLONE_NEWUSER)?;
            unshare(CloneFlags::CLONE_NEWNS).context("copy the mount namespace")?;
            part_from_host(0)?;
            *sources.borrow_mut() = open(&plans)?;
            target.join(target.namespaces - CloneFlags::CLONE_NEWUSER)
        };
        target.by_helper(enter, &sources, |root, sources| add_all(root, &plans, sources))
    }

    /// Takes away what is mounted at the destinations of the list in `file`, the last one first.
    ///
    /// # Errors
    ///
    /// A list that is wrong, a container that does not run, a destination where nothing is mounted.
    pub fn remove_mounts(&self, id: &ContainerId, file: &Path) -> anyhow::Result<()> {
        let list = rrun_spec::load_mounts(file)?;
        let target = self.target(id)?;
        list.iter().enumerate().try_for_each(|(at, mount)| refuse_root(at, mount))?;
        let nothing = RefCell::new(Sources::new());
        target.by_helper(
            || target.join(target.namespaces),
            &nothing,
            |root, _| list.iter().rev().try_for_each(|mount| detach(root, mount.destination())),
        )
    }

    fn target(&self, id: &ContainerId) -> anyhow::Result<Target> {
        let record = self.containers.read(id)?;
        let lives =
            matches!(self.status(&record), Status::Created | Status::Running | Status::Paused);
        ensure!(lives, "container not running");
        let init = self.pidfd(&record).context("container not running")?;
        let namespaces = namespaces(&self.containers.config(id)?, &record);
        Ok(Target { init, namespaces, record })
    }
}

impl Target {
    /// What is to be done, with every source that is the host's left to be opened there.
    fn plan(&self, list: &[Mount], caller_is_root: bool) -> anyhow::Result<Vec<MountPlan>> {
        let path = PathBuf::from(format!("/proc/{}/ns/user", self.record.init.pid()));
        let own = self.record.own_user_namespace.then_some(OwnIds::Joined(path));
        let around =
            Surroundings { bundle: &self.record.bundle, ids: own.as_ref(), caller_is_root };
        let plan = |(at, mount): (usize, &Mount)| {
            refuse_root(at, mount)?;
            let mut plan = plans::plan(mount, around).with_context(|| format!("/{at}"))?;
            refuse_late(&plan).with_context(|| format!("/{at}"))?;
            plan.by_parent |= is_the_host_s(&plan.what);
            Ok(plan)
        };
        list.iter().enumerate().map(plan).collect()
    }

    fn join(&self, namespaces: CloneFlags) -> anyhow::Result<()> {
        join_namespaces(self.init.as_fd(), namespaces).context("join the container's namespaces")
    }

    /// Does `work` in the container, beneath its root, in a process that has done `enter`.
    fn by_helper(
        &self,
        enter: impl FnOnce() -> anyhow::Result<()>,
        sources: &RefCell<Sources>,
        work: impl FnOnce(&mut Root, Sources) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (here, there) = pair::<(), Answer>()?;
        let how = Clone { sibling: true, ..Clone::default() };
        let become_root_inside = self.record.own_user_namespace;
        let enter = || {
            // Nobody inside may look into what comes from the host.
            prctl::set_dumpable(false).context("become undumpable")?;
            enter()
        };
        let body = || {
            let done = help(&there, become_root_inside, sources.take(), work);
            there.send(&done.map_err(|error| format!("{error:#}"))).is_err().into()
        };
        let helper = usher(enter, how, body)?;
        drop(there);
        let answer = here.receive().context("the helper ended without a word");
        waitpid(helper.pid, None).context("wait for the helper")?;
        answer?.map_err(|chain| anyhow!(chain))
    }
}

/// The helper's work, after it has let go of everything that is the caller's.
fn help(
    parent: &Channel<Answer, ()>,
    become_root_inside: bool,
    sources: Sources,
    work: impl FnOnce(&mut Root, Sources) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    {
        let mut keep = vec![parent.as_fd()];
        keep.extend(sources::descriptors(&sources));
        close_all_but(FIRST, &keep).context("close the caller's descriptors")?;
    }
    umask(Mode::from_bits_truncate(0o022));
    if become_root_inside {
        become_root()?;
    }
    let mut root = Root::new(host_directory(Path::new("/")).context("open the root")?);
    work(&mut root, sources)
}

/// Opens what comes from the host; nothing of that may be looked up inside instead.
fn open(plans: &[MountPlan]) -> anyhow::Result<Sources> {
    let sources = sources::open(plans, 0)?;
    let refused = sources.iter().flatten().any(|source| matches!(source, Source::Place { .. }));
    ensure!(!refused, "a mount of the host may not be copied here (cure: run as root)");
    Ok(sources)
}

/// Whether the mount shows something of the host, or makes a file system that belongs to none of the
/// container's namespaces.
fn is_the_host_s(what: &What) -> bool {
    const OF_NAMESPACES: [&str; 5] = ["tmpfs", "proc", "sysfs", "mqueue", "devpts"];
    match what {
        What::Bind { .. } => true,
        What::New(new) => !OF_NAMESPACES.contains(&new.fstype.as_str()),
        What::Cgroup | What::Change { .. } => false,
    }
}

/// What needs the host's `/proc`, or is decided when a container is made.
fn refuse_late(plan: &MountPlan) -> anyhow::Result<()> {
    match &plan.what {
        What::Cgroup => bail!("the cgroups can be mounted only when a container is created"),
        What::New(new) if new.superblock & ms::I_VERSION != 0 => {
            bail!("option \"iversion\": it can be had only when a container is created")
        }
        _ => Ok(()),
    }
}

/// What runs keeps the root that it has: a mount there would reach nobody.
fn refuse_root(at: usize, mount: &Mount) -> anyhow::Result<()> {
    let is_root = is_root(mount.destination());
    ensure!(!is_root, "/{at}/destination: the root of a container that runs stays as it is");
    Ok(())
}

fn add_all(root: &mut Root, plans: &[MountPlan], sources: Sources) -> anyhow::Result<()> {
    let mut sources = sources.into_iter();
    for (done, plan) in plans.iter().enumerate() {
        let added = mounts::mount(root, plan, sources.next().flatten(), None);
        if let Err(error) = added {
            undo(root, plans.get(..done).unwrap_or_default());
            return Err(error);
        }
    }
    mounts::finish(root, plans).inspect_err(|_| undo(root, plans))
}

fn undo(root: &Root, plans: &[MountPlan]) {
    for plan in plans.iter().rev().filter(|plan| !matches!(plan.what, What::Change { .. })) {
        let _gone_already = detach(root, &plan.destination);
    }
}

/// Unmounts what is on top at `path`, and all below it.
fn detach(root: &Root, path: &Path) -> anyhow::Result<()> {
    let detached = || -> anyhow::Result<()> {
        let mount = root.open(path)?;
        if is_directory(&stat(mount.as_fd())?) {
            fchdir(&mount)?;
            return Ok(umount2(".", MntFlags::MNT_DETACH)?);
        }
        let name = path.file_name().context("want a name")?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        fchdir(root.open_as(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?)?;
        Ok(umount2(name, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
    };
    detached().map_err(|error| match error.downcast_ref() {
        Some(Errno::EINVAL) => anyhow!("remove {}: nothing is mounted there", path.display()),
        Some(Errno::EPERM) => anyhow!(
            "remove {}: EPERM: it was mounted by somebody with more rights (cure: run as root)",
            path.display()
        ),
        _ => error.context(format!("remove {}", path.display())),
    })
}
