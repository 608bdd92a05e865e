//! Init: the container's first process, from `clone3` to its program.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::socket::{SockFlag, accept4};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, fchdir, getpid, sethostname, setresgid, setresuid, setsid};

use crate::confine::attributes::use_all_processors;
use crate::confine::cgroup::Entrance;
use crate::console;
use crate::container::Status;
use crate::hooks::{HookFailed, Occasion};
use crate::namespaces::{NEWTIME, enter_new_time};
use crate::netdevices;
use crate::plan::Plan;
use crate::process::Site;
use crate::process::channel::{Channel, Gone};
use crate::process::enter::{self, Ready};
use crate::process::keyring;
use crate::process::protocol::{FromServer, ToInit, ToParent, ToServer, chain};
use crate::rootfs::sources::{self, Sources};
use crate::rootfs::{self, Materials, paths::Root};
use crate::sys::network;
use crate::sys::process::{close_all_but, end_on_signals, reset_signals};

/// Init's ends of its conversations.
#[derive(Debug)]
pub struct Ends {
    /// With `create` or `run`.
    pub parent: Channel<ToParent, ToInit>,
    /// With the server of a layered root.
    pub server: Option<Channel<ToServer, FromServer>>,
    /// Where `start` connects, if that is what lets the program run.
    pub listener: Option<OwnedFd>,
    /// Through which init moves itself into the container's cgroups.
    pub entrance: Option<Entrance>,
    /// What the parent has opened for the mounts.
    pub sources: Sources,
    /// Device nodes that the parent has made.
    pub nodes: Option<OwnedFd>,
}

/// Runs as init; returns, with an exit code, only if it could not become its program.
pub fn run(plan: &Plan, site: &Site<'_>, ends: Ends) -> u8 {
    let Ends { parent, server, listener, entrance, sources, nodes } = ends;
    let inside = entrance.map_or(Ok(()), |entrance| entrance.pass());
    use_all_processors();
    let Err(error) = inside
        .and_then(|()| set_up(plan, site, &parent, server, listener.as_ref(), (sources, nodes)));
    if !error.is::<Gone>() {
        let _nobody_is_left_to_tell = parent.send(&failure(&error));
    }
    1
}

fn failure(error: &anyhow::Error) -> ToParent {
    let chain = chain(error);
    if error.is::<HookFailed>() {
        ToParent::HookFailed { chain }
    } else {
        ToParent::Failed { chain }
    }
}

fn set_up(
    plan: &Plan,
    site: &Site<'_>,
    parent: &Channel<ToParent, ToInit>,
    server: Option<Channel<ToServer, FromServer>>,
    listener: Option<&OwnedFd>,
    (mut sources, nodes): (Sources, Option<OwnedFd>),
) -> anyhow::Result<Infallible> {
    let opened = sources::descriptors(&sources).chain(nodes.as_ref().map(OwnedFd::as_fd));
    isolate(site, parent, server.as_ref(), listener, opened)?;
    expect(parent, &ToInit::Go)?;
    let cgroups = site.cgroups.seen_by_init()?;
    take_namespaces(plan, site, &mut sources)?;
    let root = rootfs::build(
        &plan.root,
        Materials {
            server,
            sources,
            spare_place: site.directory,
            may_make_devices: !site.own_user_namespace,
            nodes,
            cgroups: cgroups.as_ref().unwrap_or(&site.cgroups),
        },
    )?;
    run_hooks(plan, site, &root, parent)?;
    let terminal = terminal(plan, &root, parent)?;
    // Before the root becomes read-only.
    let directory = make_working_directory(&root, &plan.program.directory);
    rootfs::close(&root, &plan.root)?;
    write_sysctl(plan)?;
    let labels = plan.program.labels.open_here()?;
    rootfs::enter(&root, &plan.root)?;
    drop(root);
    match terminal {
        None => drop(setsid().context("start a session")?),
        Some(terminal) => console::take(&terminal).context("take the terminal")?,
    }
    // Entering it says more exactly what is wrong, unless making it failed.
    let mut ready =
        enter::prepare(&plan.program, labels).map_err(|error| directory.err().unwrap_or(error))?;
    if plan.root.overlay.is_some() {
        ready.read_ahead();
    }
    wait_and_become(plan, site, &mut ready, parent, listener)
}

/// Makes the program's working directory, inside its root, if it is missing.
fn make_working_directory(root: &Root, path: &Path) -> anyhow::Result<()> {
    if path == Path::new("/") {
        return Ok(());
    }
    let made = root.make_directory(path);
    made.map(drop).with_context(|| format!("make the working directory {}", path.display()))
}

/// Lets go of everything of the caller's that the container must not have.
fn isolate<'a>(
    site: &'a Site<'_>,
    parent: &'a Channel<ToParent, ToInit>,
    server: Option<&'a Channel<ToServer, FromServer>>,
    listener: Option<&'a OwnedFd>,
    opened: impl Iterator<Item = BorrowedFd<'a>>,
) -> anyhow::Result<()> {
    let mut keep = vec![parent.as_fd()];
    keep.extend(listener.map(OwnedFd::as_fd));
    keep.extend(server.map(Channel::as_fd));
    keep.extend(site.hook_streams.descriptors());
    keep.extend(opened);
    close_all_but(site.first_closed, &keep).context("close the caller's descriptors")?;
    reset_signals().context("reset the signals")?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

fn take_namespaces(plan: &Plan, site: &Site<'_>, sources: &mut Sources) -> anyhow::Result<()> {
    if let Some(value) = plan.program.oom_score_adj {
        set_oom_score(value)?;
    }
    if plan.namespaces.makes(NEWTIME) {
        enter_new_time(&plan.time_offsets)?;
    }
    if site.own_user_namespace {
        become_root()?;
    }
    sources::add_own_namespaces(&plan.root, sources)?;
    // Nobody inside may look into this process before it is the program.
    prctl::set_dumpable(false).context("become undumpable")?;
    if plan.new_keyring {
        plan.program.labels.while_labelling_keys(|| keyring::join(&site.keyring))?;
    }
    if plan.namespaces.makes(CloneFlags::CLONE_NEWCGROUP) {
        unshare(CloneFlags::CLONE_NEWCGROUP).context("make a cgroup namespace")?;
    }
    if plan.namespaces.makes(CloneFlags::CLONE_NEWNET) {
        network::raise_loopback().context("raise the loopback interface")?;
    }
    netdevices::settle(&site.devices)?;
    if let Some(name) = &plan.hostname {
        sethostname(name).with_context(|| format!("set the host name {name}"))?;
    }
    if let Some(name) = &plan.domainname {
        crate::sys::process::set_domain_name(name)
            .with_context(|| format!("set the domain name {name}"))?;
    }
    Ok(())
}

/// Becomes root of the user namespace, as far as it has a root.
///
/// # Errors
///
/// Those of `setresuid(2)`, but not that ID 0 is mapped to nothing.
pub fn become_root() -> anyhow::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    for result in [setresgid(gid, gid, gid), setresuid(uid, uid, uid)] {
        match result {
            Err(Errno::EINVAL) => {}
            result => result.context("become root of the user namespace")?,
        }
    }
    Ok(())
}

/// Sets how soon this process is killed when memory runs out (proc(5), `oom_score_adj`).
///
/// # Errors
///
/// `EACCES` for less than the caller has, without `CAP_SYS_RESOURCE`.
pub fn set_oom_score(value: i32) -> anyhow::Result<()> {
    let path = "/proc/self/oom_score_adj";
    let written = fs::write(path, value.to_string());
    let Err(error) = written else { return Ok(()) };
    let same = fs::read_to_string(path).is_ok_and(|now| now.trim() == value.to_string());
    if same {
        return Ok(());
    }
    Err(error).with_context(|| format!("/process/oomScoreAdj: set {value}"))
}

/// Those of the runtime's namespaces by the parent, then those of the container's, which as with runc
/// run in its root directory while the host's root is still theirs.
fn run_hooks(
    plan: &Plan,
    site: &Site<'_>,
    root: &Root,
    parent: &Channel<ToParent, ToInit>,
) -> anyhow::Result<()> {
    if has_runtime_hooks(&plan.hooks) {
        parent.send(&ToParent::RunHooks)?;
        expect(parent, &ToInit::HooksDone)?;
    }
    match plan.hooks.create_container().as_deref() {
        None | Some([]) => Ok(()),
        Some(list) => {
            let state = site.state.json(Status::Creating, getpid())?;
            fchdir(root).context("go to the root directory")?;
            let occasion = site.occasion("createContainer", &state);
            Occasion { directory: Path::new("."), ..occasion }.run(list)
        }
    }
}

/// Whether the parent has hooks to run in the runtime's namespaces.
#[must_use]
pub fn has_runtime_hooks(hooks: &rrun_spec::oci::Hooks) -> bool {
    [hooks.prestart(), hooks.create_runtime()]
        .into_iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// Opens a terminal in the container, shows it as `/dev/console`, and gives its master to the
/// parent.
fn terminal(
    plan: &Plan,
    root: &Root,
    parent: &Channel<ToParent, ToInit>,
) -> anyhow::Result<Option<OwnedFd>> {
    if !plan.program.terminal {
        return Ok(None);
    }
    let directory = root.open(Path::new("/dev/pts")).context("open /dev/pts")?;
    let pty = console::open(directory.as_fd(), plan.program.console_size)
        .context("open a terminal in /dev/pts")?;
    rootfs::devices::bind_console(root, pty.peer.as_fd())?;
    parent.send_with(&ToParent::Console, pty.master.as_fd())?;
    Ok(Some(pty.peer))
}

/// Writes kernel parameters through the host's own procfs: what is mounted inside may be a fake.
fn write_sysctl(plan: &Plan) -> anyhow::Result<()> {
    for (path, value) in &plan.sysctl {
        let path = Path::new("/proc/sys").join(path);
        fs::write(&path, value)
            .with_context(|| format!("/linux/sysctl: write {value:?} to {}", path.display()))?;
    }
    Ok(())
}

fn wait_and_become(
    plan: &Plan,
    site: &Site<'_>,
    ready: &mut Ready<'_>,
    parent: &Channel<ToParent, ToInit>,
    listener: Option<&OwnedFd>,
) -> anyhow::Result<Infallible> {
    // Nothing is left here that the program will not have too, and whoever manages the container
    // must be able to enter its namespaces before it is started.
    prctl::set_dumpable(true).context("become dumpable")?;
    if listener.is_some() {
        end_on_signals().context("handle signals")?;
    }
    if plan.is_filtered_early() {
        ready.filter(parent)?;
    }
    parent.write(&ToParent::Ready)?;
    let mut become_program = |starter: &Channel<ToParent, ToInit>| -> anyhow::Error {
        match start_hooks(plan, site, ready.environment()) {
            Ok(()) => ready.become_program(site.first_closed, starter),
            Err(error) => HookFailed(format!("{error:#}")).into(),
        }
    };
    match parent.read()? {
        ToInit::Start => Err(become_program(parent)),
        ToInit::Await => {
            let listener = listener.context("there is no socket to wait on")?;
            let starter = await_start(listener.as_fd())?;
            starter.write(&failure(&become_program(&starter)))?;
            bail!(Gone)
        }
        other => Err(anyhow!("expected Start or Await, not {other:?}")),
    }
}

/// A hook that names no environment gets the program's, as with runc: it runs inside.
fn start_hooks(plan: &Plan, site: &Site<'_>, environment: &[CString]) -> anyhow::Result<()> {
    match plan.hooks.start_container().as_deref() {
        None | Some([]) => Ok(()),
        Some(list) => {
            let state = site.state.json(Status::Created, getpid())?;
            let (directory, environment) = (Path::new("."), Some(environment));
            let occasion = site.occasion("startContainer", &state);
            Occasion { directory, environment, ..occasion }.run(list)
        }
    }
}

/// Waits until somebody connects and says that the program is to start; tells who only asks whether
/// this waits. With a filter of system calls in force it needs accept4(2), read(2) and write(2).
fn await_start(listener: BorrowedFd<'_>) -> anyhow::Result<Channel<ToParent, ToInit>> {
    loop {
        let connection = match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            result => crate::sys::process::received(result.context("wait for start")?),
        };
        let starter = Channel::over(connection);
        match starter.read() {
            Ok(ToInit::Start) => return Ok(starter),
            Ok(ToInit::Await) => starter.write(&ToParent::Ready)?,
            _ => {}
        }
    }
}

/// Waits for exactly this message.
///
/// # Errors
///
/// [`Gone`] if the parent ended.
pub fn expect(parent: &Channel<ToParent, ToInit>, expected: &ToInit) -> anyhow::Result<()> {
    let message = parent.receive()?;
    if message == *expected {
        return Ok(());
    }
    bail!("expected {expected:?}, not {message:?}")
}
