//! What a command in the foreground does while its program runs: passes the terminal and the
//! signals on, and reports how the program ended.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;

use crate::console::{self, RawTerminal, Relay};
use crate::sys::process::Child;
use crate::sys::terminal;

/// A command that will stay with its program. From its beginning no signal is lost.
#[derive(Debug)]
#[must_use = "dropping it unblocks the signals"]
pub struct Foreground {
    signals: SignalFd,
    before: SigSet,
}

impl Foreground {
    /// Lets signals wait until there is a program to pass them on to.
    ///
    /// # Errors
    ///
    /// Those of `sigprocmask(2)` and `signalfd(2)`.
    pub fn begin() -> anyhow::Result<Self> {
        let awaited = console::awaited_signals();
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&awaited), Some(&mut before))
            .context("block the signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&awaited, flags).context("wait for signals")?;
        Ok(Self { signals, before })
    }

    /// Stays until `child` has ended; returns its exit code, or 128 and the number of the signal
    /// that ended it. `master` is its terminal, if it has one of its own.
    ///
    /// # Errors
    ///
    /// A terminal that fails in other ways than by hanging up.
    pub fn wait(&self, child: &Child, master: Option<OwnedFd>) -> anyhow::Result<u8> {
        let Some(master) = master else {
            return Ok(code(console::accompany(child.pid, &self.signals, None)?));
        };
        let (input, output) = (std::io::stdin(), std::io::stdout());
        let _raw_until_the_end = RawTerminal::enter(&input)?;
        let mut relay = Relay::new(input.as_fd(), output.as_fd(), master)?;
        relay.resize();
        Ok(code(console::accompany(child.pid, &self.signals, Some(&mut relay))?))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _nothing_to_be_done = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

fn code(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Exited(_, code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        WaitStatus::Signaled(_, signal, _) => u8::try_from(128 + signal as i32).unwrap_or(u8::MAX),
        _ => u8::MAX,
    }
}

/// Gives the master side of a terminal to the engine that listens at `socket`.
///
/// # Errors
///
/// If nobody listens there.
pub fn hand_over(socket: &Path, master: &OwnedFd) -> anyhow::Result<()> {
    let path = format!("/dev/pts/{}", terminal::number(master).context("number the terminal")?);
    console::send_master(console::connect(socket)?, &path, master)
}
