//! A command that stays until its program has ended.

use std::io::{stdin, stdout};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::relay::{RawTerminal, Relay};
use crate::sys::process::{self, Child};

/// Faults of our own must not wait, and `SIGPROF` is nobody else's business.
const NOT_AWAITED: [Signal; 8] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGPROF,
];

/// Stays with a program: passes signals and bytes on, reaps, and knows how it ended.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// From here on signals wait, so that none is missed: those that come before there is a program go
    /// to it later. Every child begins with them blocked and has to let them in again.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`.
    pub fn begin() -> Result<Self> {
        let mut awaited = SigSet::all();
        NOT_AWAITED.into_iter().for_each(|fault| awaited.remove(fault));
        awaited.thread_block().context("hold signals back")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&awaited, flags).context("wait for signals")?;
        Ok(Self { signals })
    }

    /// Stays until `child` has ended and returns its exit code, or 128 and the signal that killed it.
    ///
    /// `SIGWINCH` resizes the terminal, `SIGCHLD` reaps (every child that has ended: orphans come to a
    /// subreaper), `SIGURG` and `SIGPIPE` are dropped, all others go to the child. With `master`, standard
    /// input and output are its terminal meanwhile, raw if they are one themselves, and what is left of the
    /// output is passed on at the end.
    ///
    /// # Errors
    ///
    /// A terminal that fails in other ways than by hanging up.
    pub fn wait(self, child: &Child, master: Option<OwnedFd>) -> Result<u8> {
        let (input, output) = (stdin(), stdout());
        let Some(master) = master else {
            return self.accompany(child, None).map(exit_code);
        };
        let mut relay = Relay::new(input.as_fd(), output.as_fd(), master)?;
        let raw = RawTerminal::enter(input.as_fd())?;
        let ended = self.accompany(child, Some(&mut relay));
        drop(raw);
        ended.map(exit_code)
    }

    /// What [`Self::wait`] does, with any relay.
    pub(super) fn accompany(
        &self,
        child: &Child,
        mut relay: Option<&mut Relay<'_>>,
    ) -> Result<WaitStatus> {
        loop {
            // First, since the child may have ended before we began to listen.
            if let Some(ended) = reap(child.pid)? {
                relay.map_or(Ok(()), Relay::finish)?;
                return Ok(ended);
            }
            let ready = self.wait_for(relay.as_deref())?;
            if let Some(relay) = relay.as_deref_mut() {
                relay.handle(ready)?;
            }
            self.pass_on(child, relay.as_deref())?;
        }
    }

    /// Waits until there is a signal or something to relay, and says what the latter is.
    fn wait_for(&self, relay: Option<&Relay<'_>>) -> Result<[PollFlags; 3]> {
        let wanted = relay.map_or([PollFlags::empty(); 3], Relay::interest);
        let mut waiting = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let descriptors = relay.map(Relay::descriptors).into_iter().flatten();
        let awaited = descriptors.zip(wanted).filter(|(_fd, flags)| !flags.is_empty());
        waiting.extend(awaited.map(|(fd, flags)| PollFd::new(fd, flags)));
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for the container"),
        }
        let mut seen = waiting[1..].iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(wanted.map(|flags| {
            if flags.is_empty() { flags } else { seen.next().unwrap_or(PollFlags::empty()) }
        }))
    }

    fn pass_on(&self, child: &Child, relay: Option<&Relay<'_>>) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            let number = i32::try_from(info.ssi_signo)?;
            match (Signal::try_from(number), relay) {
                (Ok(Signal::SIGCHLD | Signal::SIGURG | Signal::SIGPIPE), _) => {}
                (Ok(Signal::SIGWINCH), Some(relay)) => relay.resize(),
                _ => match process::pidfd_signal(child.pidfd.as_fd(), number) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno).context(format!("pass on signal {number}")),
                },
            }
        }
        Ok(())
    }
}

/// Reaps whoever has ended; says how `pid` did.
fn reap(pid: Pid) -> Result<Option<WaitStatus>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(ended) if ended.pid() == Some(pid) => return Ok(Some(ended)),
            Ok(_another) => {}
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => bail!("wait for the container: process {pid} is not our child"),
            Err(errno) => return Err(errno).context("wait for the container"),
        }
    }
}

/// What a shell would say: the exit code, or 128 and the number of the signal.
pub(super) fn exit_code(ended: WaitStatus) -> u8 {
    const SIGNALLED: i32 = 128;
    let code = match ended {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => SIGNALLED + signal as i32,
        _ => 1,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
