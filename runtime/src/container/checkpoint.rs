//! Checkpoint: a container's processes become files, by CRIU.

use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::CloneFlags;
use rrun_spec::oci::{LinuxNamespaceType, Mount, Spec};

use crate::container::{Action, ContainerId, Runtime};
use crate::criu::rpc::{self, CgroupMode, ExternalMount, Kind, PageServer};
use crate::criu::{Criu, Streams};
use crate::store::containers::Record;
use crate::sys::process::{duplicate_number, has_ended, pidfd_open};

/// The file in the images that says what the standard streams were, as runc writes it.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// The annotation that names a file of settings for CRIU.
const CONFIG_ANNOTATION: &str = "org.criu.config";

/// The settings for CRIU of all containers, if the annotation names no others.
const CONFIG_FILE: &str = "/etc/criu/rrun.conf";

/// Everything is logged: what fails here is seldom understood with less.
pub(super) const LOG_LEVEL: i32 = 4;

/// How long, in milliseconds, a process that was saved may take to be gone.
const PATIENCE: i32 = 10_000;

/// What `checkpoint` and `restore` are asked for alike.
#[derive(Debug, Clone)]
pub struct Images {
    /// The directory of the images.
    pub directory: PathBuf,
    /// The directory of the log and other files; that of the images if there is none.
    pub work: Option<PathBuf>,
    /// Whether TCP connections are saved.
    pub tcp_established: bool,
    /// Whether unix sockets may have a peer outside.
    pub ext_unix_sk: bool,
    /// Whether session and terminal may be those of a shell outside.
    pub shell_job: bool,
    /// Whether file locks are saved.
    pub file_locks: bool,
    /// Whether memory follows when it is touched.
    pub lazy_pages: bool,
    /// Whether pages are removed from the images that these build on.
    pub auto_dedup: bool,
    /// What becomes of cgroups.
    pub cgroups: CgroupMode,
}

/// What only `checkpoint` is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where to, and what with it.
    pub images: Images,
    /// Whether the container goes on.
    pub leave_running: bool,
    /// Whether only memory is saved, as a beginning.
    pub pre_dump: bool,
    /// Earlier images that these build on, relative to their directory.
    pub parent: Option<PathBuf>,
    /// Where memory goes instead of into the images.
    pub page_server: Option<(String, u16)>,
    /// The descriptor that gets a zero byte when lazy pages can be fetched.
    pub status_fd: Option<RawFd>,
    /// Whether connections that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether removed files may get a name again for the time being.
    pub link_remap: bool,
}

impl Runtime {
    /// Saves the container `id` to files; unless it is to go on, it is deleted.
    ///
    /// # Errors
    ///
    /// If it does not run, its root is made of layers, or CRIU is missing or refuses.
    pub fn checkpoint(&self, id: &ContainerId, request: &Request) -> Result<()> {
        let entry = self.containers.lock(id)?;
        let record = self.containers.read(id)?;
        let status = self.status(&record);
        ensure!(
            status.accepts(Action::Checkpoint),
            "container cannot be checkpointed in the {status} state"
        );
        refuse_layers(record.server.is_some())?;
        let spec = self.containers.config(id)?;
        check_parent(request)?;
        let status_fd = request.status_fd.map(writable).transpose()?;
        let places = Places::make(&request.images)?;
        let options = dump_options(&record, &spec, request, &places)?;
        if !request.pre_dump {
            note_streams(&record, &request.images.directory)?;
        }
        let kind = if request.pre_dump { Kind::PreDump } else { Kind::Dump };
        let wanted =
            rpc::Request { kind: kind.into(), options: Some(options), notify_success: None };
        let criu = Criu::start(&[], Streams::None, places.log("dump.log"))?;
        criu.carry_out(&wanted, |notice, _no_descriptor| match (&status_fd, notice.script()) {
            (Some(file), "status-ready") => {
                (&mut &*file).write_all(&[0]).context("write to --status-fd")
            }
            _ => Ok(()),
        })?;
        if request.leave_running || request.pre_dump {
            return Ok(());
        }
        await_end(&record)?;
        self.end(&record)?;
        self.clean(entry, &record)
    }
}

/// CRIU cannot save the server of a layered root, nor bring it back.
///
/// # Errors
///
/// If the root is `layered`.
pub(super) fn refuse_layers(layered: bool) -> Result<()> {
    ensure!(
        !layered,
        "its root is made of layers by a process that CRIU cannot save \
         (cure: a container that is to be moved needs a plain directory as its root)"
    );
    Ok(())
}

/// The directories that CRIU works in.
#[derive(Debug)]
pub(super) struct Places {
    /// That of the images.
    pub(super) images: File,
    /// That of the log.
    pub(super) work: Option<File>,
    log: PathBuf,
}

impl Places {
    /// Makes and opens the directories for new images.
    fn make(wanted: &Images) -> Result<Self> {
        make_directory(&wanted.directory)?;
        Self::open(wanted)
    }

    /// Opens the directories; that of the log is made.
    ///
    /// # Errors
    ///
    /// Those of opening and making a directory.
    pub(super) fn open(wanted: &Images) -> Result<Self> {
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("open directory {}", path.display()))
        };
        let images = open(&wanted.directory)?;
        let work = match &wanted.work {
            None => None,
            Some(path) => {
                make_directory(path)?;
                Some(open(path)?)
            }
        };
        let log = wanted.work.as_ref().unwrap_or(&wanted.directory).clone();
        Ok(Self { images, work, log })
    }

    /// Where CRIU's log called `name` will be.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.log.join(name)
    }
}

fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make directory {}", path.display()))
}

fn check_parent(request: &Request) -> Result<()> {
    let Some(parent) = &request.parent else { return Ok(()) };
    ensure!(!parent.is_absolute(), "--parent-path {}: must be relative", parent.display());
    let place = request.images.directory.join(parent);
    ensure!(place.is_dir(), "--parent-path: {} is not a directory", place.display());
    Ok(())
}

/// The caller's descriptor `fd`, which must be open for writing.
fn writable(fd: RawFd) -> Result<File> {
    let file: OwnedFd = duplicate_number(fd).with_context(|| format!("--status-fd {fd}"))?;
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
    if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        bail!("--status-fd {fd}: is not open for writing");
    }
    Ok(file.into())
}

/// The options that dump and restore have in common.
pub(super) fn options(wanted: &Images, places: &Places, spec: &Spec, log: &str) -> rpc::Options {
    rpc::Options {
        images_dir_fd: places.images.as_raw_fd(),
        work_dir_fd: places.work.as_ref().map(std::os::fd::AsRawFd::as_raw_fd),
        log_level: Some(LOG_LEVEL),
        log_file: Some(log.to_owned()),
        manage_cgroups: Some(true),
        cgroup_mode: Some(wanted.cgroups.into()),
        notify_scripts: Some(true),
        shell_job: Some(wanted.shell_job),
        ext_unix_sk: Some(wanted.ext_unix_sk),
        tcp_established: Some(wanted.tcp_established),
        file_locks: Some(wanted.file_locks),
        lazy_pages: Some(wanted.lazy_pages),
        auto_dedup: Some(wanted.auto_dedup),
        orphan_pts_master: Some(true),
        // Interfaces are the engine's: it fills the namespace again.
        empty_namespaces: Some(CloneFlags::CLONE_NEWNET.bits().cast_unsigned()),
        config_file: config_file(spec),
        ..rpc::Options::default()
    }
}

/// As runc: the annotation names the file, empty for none; without it there is one for all.
fn config_file(spec: &Spec) -> Option<String> {
    let annotations = spec.annotations().as_ref();
    match annotations.and_then(|all| all.get(CONFIG_ANNOTATION)) {
        None => Some(CONFIG_FILE.to_owned()),
        Some(file) if file.is_empty() => None,
        Some(file) => Some(file.clone()),
    }
}

fn dump_options(
    record: &Record,
    spec: &Spec,
    request: &Request,
    places: &Places,
) -> Result<rpc::Options> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let common = options(&request.images, places, spec, "dump.log");
    let page_server = request.page_server.clone();
    let external_mounts = if request.pre_dump {
        Vec::new()
    } else {
        external_mounts(spec, &record.bundle)
            .into_iter()
            .map(|(inside, _source)| ExternalMount { key: inside.clone(), value: inside })
            .chain(masked_files(record, spec))
            .collect()
    };
    Ok(rpc::Options {
        pid: Some(record.init.pid),
        root: Some(text(&record.rootfs)),
        leave_running: Some(request.leave_running),
        tcp_skip_in_flight: Some(request.tcp_skip_in_flight),
        link_remap: Some(request.link_remap),
        freeze_cgroup: record.cgroup.as_ref().and_then(|all| all.dir_of("freezer")).map(text),
        page_server: page_server
            .map(|(address, port)| PageServer { address: Some(address), port: Some(port.into()) }),
        parent_images: request.parent.as_deref().map(text),
        track_memory: request.parent.is_some().then_some(true),
        external: external_namespaces(spec)?,
        external_mounts,
        ..common
    })
}

/// What of the container is mounted from the host: where inside, and what.
pub(super) fn external_mounts(spec: &Spec, bundle: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let bind = |mount: &Mount| {
        let mut options = mount.options().iter().flatten();
        let is_bind = mount.typ().as_deref() == Some("bind")
            || options.any(|option| matches!(option.as_str(), "bind" | "rbind"));
        let source = mount.source().as_ref().filter(|_| is_bind)?;
        let inside: PathBuf = Path::new("/").join(mount.destination()).components().collect();
        Some((text(&inside), text(&bundle.join(source))))
    };
    let mut all: Vec<_> = spec.mounts().iter().flatten().filter_map(bind).collect();
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let devices = devices.into_iter().flatten().map(|device| device.path().clone());
    let defaults = crate::rootfs::devices::default_paths().map(PathBuf::from);
    for path in defaults.chain(devices) {
        let path = text(&path);
        all.push((path.clone(), path));
    }
    all
}

/// The files that the null device covers.
fn masked_files(record: &Record, spec: &Spec) -> Vec<ExternalMount> {
    let masked = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref());
    let inside = format!("/proc/{}/root", record.init.pid);
    let is_covered = |path: &&String| {
        let looked = fs::symlink_metadata(format!("{inside}/{path}"));
        looked.is_ok_and(|found| !found.is_dir())
    };
    let cover = |path: &String| ExternalMount { key: path.clone(), value: "/dev/null".to_owned() };
    masked.into_iter().flatten().filter(is_covered).map(cover).collect()
}

/// CRIU's name for the namespace of `kind` that the container shares with others, if it has one: its
/// word, its key and its path.
pub(super) fn external_namespace(
    spec: &Spec,
    kind: LinuxNamespaceType,
) -> Option<(&'static str, &'static str, PathBuf)> {
    let (word, key) = match kind {
        LinuxNamespaceType::Network => ("net", "extRootNetNS"),
        LinuxNamespaceType::Pid => ("pid", "extRootPidNS"),
        _ => return None,
    };
    let all = spec.linux().as_ref()?.namespaces().as_ref()?;
    let one = all.iter().find(|namespace| namespace.typ() == kind)?;
    let path = one.path().clone().filter(|path| !path.as_os_str().is_empty())?;
    Some((word, key, path))
}

fn external_namespaces(spec: &Spec) -> Result<Vec<String>> {
    [LinuxNamespaceType::Network, LinuxNamespaceType::Pid]
        .into_iter()
        .filter_map(|kind| external_namespace(spec, kind))
        .map(|(word, key, path)| {
            let found =
                fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?;
            Ok(format!("{word}[{}]:{key}", found.ino()))
        })
        .collect()
}

/// Writes down what the standard streams of the container are: a pipe gets its successor by that.
fn note_streams(record: &Record, images: &Path) -> Result<()> {
    let stream = |number: u8| {
        let link = fs::read_link(format!("/proc/{}/fd/{number}", record.init.pid));
        link.map_or_else(|_closed| "/dev/null".into(), |path| path.to_string_lossy().into_owned())
    };
    let streams = [0, 1, 2].map(stream);
    let path = images.join(DESCRIPTORS);
    fs::write(&path, serde_json::to_vec(&streams)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Waits until the saved process, which CRIU has killed, is gone.
fn await_end(record: &Record) -> Result<()> {
    let Ok(pidfd) = pidfd_open(record.init.pid()) else { return Ok(()) };
    if !record.init.is_there() || has_ended(std::os::fd::AsFd::as_fd(&pidfd), PATIENCE)? {
        return Ok(());
    }
    bail!("process {} was saved but does not end", record.init.pid)
}
