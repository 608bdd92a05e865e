//! The process that serves a layered root: opens the layers as the container's user namespace sees
//! them, hands `/dev/fuse` to init, and answers until the mount is gone.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Context as _;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use rrun_fusefs::{Config, Overlay};

use crate::plan::overlay::OverlayPlan;
use crate::process::channel::Channel;
use crate::process::init::become_root;
use crate::process::protocol::{FromServer, ToServer};
use crate::sys::process::{close_all_but, fork, join_namespaces, reset_signals};

/// The first descriptor that is not one of the standard three.
const FIRST: u32 = 3;

/// Starts the server for `layers`, in the user namespace of the process behind `user_namespace`
/// if that is another than ours.
///
/// It opens the layers in our mount namespace, so their paths mean what the caller meant.
///
/// # Errors
///
/// Those of `fork(2)`; what goes wrong later is told to init.
pub fn spawn(
    layers: &OverlayPlan,
    user_namespace: Option<BorrowedFd<'_>>,
    init: Channel<FromServer, ToServer>,
) -> anyhow::Result<Pid> {
    fork(|| match run(layers, user_namespace, &init) {
        Ok(()) => 0,
        Err(error) => {
            let chain = format!("{error:#}");
            let _init_has_gone = init.send(&FromServer::Failed { chain });
            1
        }
    })
    .context("start the overlay's server")
}

fn run(
    layers: &OverlayPlan,
    user_namespace: Option<BorrowedFd<'_>>,
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

/// Parts from the command: no descriptor, terminal, directory or user ID of it is left.
fn detach(
    user_namespace: Option<BorrowedFd<'_>>,
    init: &Channel<FromServer, ToServer>,
) -> anyhow::Result<()> {
    let mut keep = vec![init.as_fd()];
    keep.extend(user_namespace);
    close_all_but(FIRST, &keep).context("close the caller's descriptors")?;
    reset_signals().context("reset the signals")?;
    setsid().context("start a session")?;
    prctl::set_name(c"rrun-overlay").context("take a name")?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .context("open /dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    if let Some(namespace) = user_namespace {
        join_namespaces(namespace, CloneFlags::CLONE_NEWUSER)
            .context("join the container's user namespace")?;
        become_root()?;
    }
    umask(Mode::empty());
    chdir("/").context("leave the working directory")
}
