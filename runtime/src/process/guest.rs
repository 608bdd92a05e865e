//! A further process in a container that exists: what `exec` makes.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::setsid;

use crate::confine::cgroup::{Cgroup, Entrance};
use crate::confine::labels::Opened;
use crate::console;
use crate::plan::identity::Program;
use crate::process::channel::{Channel, Gone, pair};
use crate::process::enter;
use crate::process::init::{become_root, expect, set_oom_score};
use crate::process::keyring;
use crate::process::listener::Asked;
use crate::process::parent::{await_exec, usher};
use crate::process::protocol::{ToInit, ToParent, chain};
use crate::procfs::Procfs;
use crate::sys::process::{
    Child, Clone, close_all_but, join_namespaces, pidfd_signal, reset_signals,
};

/// The process to be made.
#[derive(Debug)]
pub struct Order<'a> {
    /// What it becomes.
    pub program: &'a Program,
    /// The container's first process.
    pub init: BorrowedFd<'a>,
    /// The container's namespaces that are not ours.
    pub namespaces: CloneFlags,
    /// The container's cgroups.
    pub cgroup: Option<&'a Cgroup>,
    /// The name of the container's session keyring, if it has one of its own.
    pub keyring: Option<CString>,
    /// The first descriptor that the program does not get.
    pub first_closed: u32,
    /// Whether there is nothing to be done between making the process and letting it run: it need not
    /// wait for us then.
    pub at_once: bool,
    /// Whether an agent answers for some of its system calls.
    pub asks_agent: bool,
}

/// A process that waits for its last word. Dropping it kills it.
#[derive(Debug)]
#[must_use = "dropping it kills the process"]
pub struct Made {
    /// The process, a child of ours.
    pub child: Child,
    /// The master side of its terminal.
    pub console: Option<OwnedFd>,
    channel: Channel<ToInit, ToParent>,
    keep: bool,
}

/// Makes the process, up to where it waits for its last word.
///
/// # Errors
///
/// What failed, here or inside.
pub fn make(order: &Order<'_>) -> anyhow::Result<Made> {
    let (channel, to_parent) = pair()?;
    // Where systemd moves processes, it does so when this one is there.
    let (by_systemd, by_itself) = match order.cgroup {
        Some(cgroup) if cgroup.moves_by_itself() => (Some(cgroup), None),
        cgroup => (None, cgroup),
    };
    let entrance = by_itself.map(|cgroup| cgroup.entrance(false)).transpose().context(ADD)?;
    let unified = by_itself.and_then(Cgroup::unified_dir).map(File::open);
    let unified = unified.transpose().context("open the container's cgroup").context(ADD)?;
    let labels = &order.program.labels;
    let procfs = (!labels.is_empty()).then(Procfs::of_caller).transpose()?;
    // Moving a process that exists already makes the kernel wait for every processor, 5 to 15 ms.
    let cgroup = unified.as_ref().map(AsFd::as_fd);
    let how = Clone { sibling: true, cgroup, ..Clone::default() };
    log::debug!("nsexec container setup: {:?}", order.namespaces);
    order.program.affinity.log();
    let child = usher(|| enter(order), how, || run(order, entrance, procfs, &to_parent))?;
    log::debug!("child process in init(): {}", child.pid);
    drop(to_parent);
    let mut made = Made { child, console: None, channel, keep: false };
    by_systemd.map_or(Ok(()), |cgroup| cgroup.attach(made.child.pid))?;
    made.converse()?;
    Ok(made)
}

/// What is being done when the container's cgroups cannot be joined, as runc says it.
pub const ADD: &str = "adding pid of the new process to cgroups";

/// What is being done when the container's namespaces cannot be joined.
const JOIN: &str = "join the container's namespaces";

impl Made {
    fn converse(&mut self) -> anyhow::Result<()> {
        loop {
            match self.channel.receive_with() {
                Err(error) if error.is::<Gone>() => bail!("the process ended without a word"),
                Err(error) => return Err(error),
                Ok((ToParent::Ready, _)) => return Ok(()),
                Ok((ToParent::Console, master)) => self.console = master,
                Ok((ToParent::Failed { chain } | ToParent::HookFailed { chain }, _)) => {
                    return Err(anyhow!(chain));
                }
                Ok((ToParent::Warning { text }, _)) => log::warn!("{text}"),
                Ok((other, _)) => bail!("not expected: {other:?}"),
            }
        }
    }

    /// Lets it become its program, unless it may already.
    ///
    /// # Errors
    ///
    /// What it says if it cannot.
    pub fn start(
        &mut self,
        order: &Order<'_>,
        tell: &mut dyn FnMut(Asked<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        log::debug!("setns_init: about to exec");
        if !order.at_once {
            self.channel.send(&ToInit::Start)?;
        }
        let (pid, pidfd) = (self.child.pid, self.child.pidfd.as_fd());
        await_exec(&self.channel, &mut |fd| tell(Asked { pid, pidfd, fd }))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.keep {
            let _ended_already = pidfd_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
            let _reaped_already = waitpid(self.child.pid, None);
        }
    }
}

/// What is done where `/proc` is still the caller's: what the process has of it, and the container's
/// namespaces, from which nobody may look into it before it is the program.
fn enter(order: &Order<'_>) -> anyhow::Result<()> {
    if let Some(value) = order.program.oom_score_adj {
        set_oom_score(value)?;
    }
    prctl::set_dumpable(false).context("become undumpable")?;
    order.program.affinity.before_cgroup()?;
    // A process that has the container's cgroup namespace could not be made in a cgroup from outside.
    join_namespaces(order.init, order.namespaces - CloneFlags::CLONE_NEWCGROUP).context(JOIN)
}

fn run(
    order: &Order<'_>,
    entrance: Option<Entrance>,
    procfs: Option<Procfs>,
    parent: &Channel<ToParent, ToInit>,
) -> u8 {
    let inside = entrance
        .map_or(Ok(()), |entrance| entrance.pass().context(ADD))
        .and_then(|()| order.program.affinity.after_cgroup());
    let Err(error) = inside.and_then(|()| set_up(order, procfs, parent));
    if !error.is::<Gone>() {
        let _nobody_is_left_to_tell = parent.send(&ToParent::Failed { chain: chain(&error) });
    }
    1
}

fn set_up(
    order: &Order<'_>,
    procfs: Option<Procfs>,
    parent: &Channel<ToParent, ToInit>,
) -> anyhow::Result<Infallible> {
    if order.namespaces.contains(CloneFlags::CLONE_NEWCGROUP) {
        join_namespaces(order.init, CloneFlags::CLONE_NEWCGROUP).context(JOIN)?;
    }
    let labels = match procfs {
        None => Opened::default(),
        Some(procfs) => order.program.labels.open(&procfs)?,
    };
    let keep: Vec<_> = labels.descriptors().chain([parent.as_fd()]).collect();
    close_all_but(order.first_closed, &keep).context("close descriptors")?;
    drop(keep);
    reset_signals().context("reset the signals")?;
    if order.namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        become_root()?;
    }
    if let Some(name) = &order.keyring {
        keyring::join(name)?;
    }
    if order.program.terminal {
        terminal(order, parent)?;
    } else {
        setsid().context("start a session")?;
    }
    let mut ready = enter::prepare(order.program, labels)?;
    parent.send(&ToParent::Ready)?;
    if !order.at_once {
        expect(parent, &ToInit::Start)?;
    }
    if order.asks_agent {
        // Whoever starts us takes a descriptor out of this process, which has nothing any more that the
        // program will not have too.
        prctl::set_dumpable(true).context("become dumpable")?;
    }
    Err(ready.become_program(order.first_closed, parent))
}

fn terminal(order: &Order<'_>, parent: &Channel<ToParent, ToInit>) -> anyhow::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(Path::new("/dev/pts"), flags, Mode::empty()).context("open /dev/pts")?;
    let pty = console::open(directory.as_fd(), order.program.console_size)
        .context("open a terminal in /dev/pts")?;
    parent.send_with(&ToParent::Console, pty.master.as_fd())?;
    console::take(&pty.peer).context("take the terminal")
}
