//! The process that serves a layered root: opens the layers as the container's user namespace sees
//! them, hands `/dev/fuse` to init, and answers until the mount is gone.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use rrun_fusefs::{Config, Options, Overlay};

use crate::plan::overlay::OverlayPlan;
use crate::process::channel::{Channel, pair};
use crate::process::fusermount;
use crate::process::init::become_root;
use crate::process::protocol::{FromServer, ToServer, chain};
use crate::rootfs::mounts::host_directory;
use crate::sys::mount::attach;
use crate::sys::process::{close_all_but, fork, reset_signals};

/// The first descriptor that is not one of the standard three.
const FIRST: u32 = 3;

/// Starts the server for `layers`, in `user_namespace` if the container's is another than ours.
///
/// It opens the layers in our mount namespace, so their paths mean what the caller meant.
///
/// # Errors
///
/// Those of `fork(2)`; what goes wrong later is told to init.
pub fn spawn(
    layers: &OverlayPlan,
    user_namespace: Option<&OwnedFd>,
    init: &Channel<FromServer, ToServer>,
) -> anyhow::Result<Pid> {
    fork(|| match run(layers, user_namespace, init) {
        Ok(()) => 0,
        Err(error) => {
            let chain = chain(&error);
            let _init_has_gone = init.send(&FromServer::Failed { chain });
            1
        }
    })
    .context("start the overlay's server")
}

fn run(
    layers: &OverlayPlan,
    user_namespace: Option<&OwnedFd>,
    init: &Channel<FromServer, ToServer>,
) -> anyhow::Result<()> {
    detach(user_namespace, init)?;
    let overlay = Overlay::open(&Config {
        lowerdirs: layers.lowerdirs.clone(),
        upperdir: layers.upperdir.clone(),
        workdir: layers.workdir.clone(),
        ..Config::default()
    })?;
    let device = rrun_fusefs::open_device()?;
    init.send_with(&FromServer::Device, device.as_fd())?;
    let ToServer::Mounted = init.receive()?;
    rrun_fusefs::serve(overlay, device).context("serve the overlay")
}

/// Mounts an overlay at `mountpoint`, in our own user and mount namespace, and serves it: in this
/// process with `foreground`, else in one that stays behind.
///
/// # Errors
///
/// What is wrong with the layers, or why the kernel refuses the mount; with `foreground` also what
/// ends the service early.
pub fn mount_by_hand(options: &Options, mountpoint: &Path, foreground: bool) -> anyhow::Result<()> {
    if foreground {
        let (overlay, device) = mount(options, mountpoint)?;
        return rrun_fusefs::serve(overlay, device).context("serve the overlay");
    }
    let (here, there) = pair::<(), Result<(), String>>()?;
    let mountpoint = std::path::absolute(mountpoint)?;
    fork(|| {
        let mounted = part_from_caller(&[there.as_fd()]).and_then(|()| mount(options, &mountpoint));
        let outcome = mounted.as_ref().map(drop).map_err(|error| format!("{error:#}"));
        let _caller_has_gone = there.send(&outcome);
        let _to_be_unmounted = chdir("/");
        mounted.is_ok_and(|(overlay, device)| rrun_fusefs::serve(overlay, device).is_ok()).into()
    })
    .context("start the overlay's server")?;
    drop(there);
    here.receive()?.map_err(|chain| anyhow!(chain))
}

fn mount(options: &Options, mountpoint: &Path) -> anyhow::Result<(Overlay, OwnedFd)> {
    let overlay = Overlay::open(&options.config)?;
    let device = rrun_fusefs::open_device()?;
    let mount = match rrun_fusefs::mount_detached_with(device.as_fd(), &options.mount) {
        // Not root of a mount namespace.
        Err(Errno::EPERM) => {
            let device = fusermount::mount(&options.mount, mountpoint)?;
            return Ok((overlay, device));
        }
        mount => mount.context("mount through /dev/fuse")?,
    };
    let place = host_directory(mountpoint)
        .with_context(|| format!("open the mount point {}", mountpoint.display()))?;
    attach(mount.as_fd(), place.as_fd()).context("attach")?;
    Ok((overlay, device))
}

/// Parts from the command: no descriptor, terminal, directory or user ID of it is left.
fn detach(
    user_namespace: Option<&OwnedFd>,
    init: &Channel<FromServer, ToServer>,
) -> anyhow::Result<()> {
    let mut keep = vec![init.as_fd()];
    keep.extend(user_namespace.map(|fd| fd.as_fd()));
    part_from_caller(&keep)?;
    if let Some(namespace) = user_namespace {
        setns(namespace, CloneFlags::CLONE_NEWUSER)
            .context("join the container's user namespace")?;
        become_root()?;
    }
    chdir("/").context("leave the working directory")
}

fn part_from_caller(keep: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
    close_all_but(FIRST, keep).context("close the caller's descriptors")?;
    reset_signals().context("reset the signals")?;
    setsid().context("start a session")?;
    prctl::set_name(c"rrun-overlay").context("take a name")?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .context("open /dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    umask(Mode::empty());
    Ok(())
}
