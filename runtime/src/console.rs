//! The container's terminal.
//!
//! ```text
//! caller's terminal <──> Relay <──> master ═══ pty ═══ peer <──> the container's program
//!                                     └── or handed to an engine through its console socket
//! ```
//! The pseudoterminal comes out of the container's own devpts, so that its name means something inside;
//! it is opened by descriptors alone, since the names in there may be anybody's.

mod foreground;
mod relay;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getpid, getsid, setsid};

pub use self::foreground::Foreground;
pub use self::relay::suit_caller;
use crate::handover;
use crate::sys::terminal::{self, Size};

/// `DEVPTS_SUPER_MAGIC`
const DEVPTS: FsType = FsType(0x1cd1);

/// The device number of every `ptmx`.
const PTMX: (u64, u64) = (5, 2);

/// A pseudoterminal.
#[derive(Debug)]
pub struct Pty {
    /// The side of whoever plays the terminal.
    pub master: OwnedFd,
    /// The side of the program.
    pub peer: OwnedFd,
}

/// Opens a new pseudoterminal of the devpts mounted at the directory `devpts`, with so many columns
/// and rows if they are given.
///
/// The peer belongs to the caller's user until fchown(2) gives it to another.
///
/// # Errors
///
/// A directory that is not devpts, or a `ptmx` in it that is not one; `ENOSPC` for too many.
pub fn open(devpts: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<Pty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = openat(devpts, "ptmx", flags, Mode::empty()).context("open ptmx")?;
    let kind = fstatfs(&master).context("inspect ptmx")?.filesystem_type();
    let device = fstat(&master).context("inspect ptmx")?.st_rdev;
    let genuine = kind == DEVPTS && (major(device), minor(device)) == PTMX;
    ensure!(genuine, "ptmx is not that of a devpts file system (cure: mount devpts on /dev/pts)");
    terminal::unlock(&master).context("unlock the terminal")?;
    let peer = terminal::open_peer(&master).context("open the terminal's other side")?;
    if let Some((columns, rows)) = size {
        terminal::set_size(&master, Size { rows, columns }).context("size the terminal")?;
    }
    Ok(Pty { master, peer })
}

/// Makes `peer` the terminal of the calling process: it leads a new session that the terminal controls,
/// and has it as standard input, output and error. A process that leads a session already keeps that.
///
/// # Errors
///
/// `EPERM` if the caller leads a process group that is no session, or if its session or the terminal is
/// taken otherwise.
pub fn take(peer: &OwnedFd) -> Result<()> {
    match setsid() {
        Ok(_) => {}
        Err(Errno::EPERM) if getsid(None) == Ok(getpid()) => {}
        Err(errno) => return Err(errno).context("begin a new session"),
    }
    terminal::set_controlling(peer).context("take the terminal as the controlling one")?;
    let dup = dup2_stdin(peer).and_then(|()| dup2_stdout(peer)).and_then(|()| dup2_stderr(peer));
    dup.context("put the terminal on standard input, output and error")
}

/// Hands `master` to the engine that listens at `socket`, a path of any length. The message is the
/// terminal's path, as engines expect some text beside the descriptor.
///
/// # Errors
///
/// `ENOENT` or `ECONNREFUSED` if nobody listens, `EPIPE` if the engine has gone.
pub fn send_master(socket: &Path, master: &OwnedFd) -> Result<()> {
    let send = || {
        let name = format!("/dev/pts/{}", terminal::number(master)?);
        handover::send(socket, name.as_bytes(), master.as_fd())
    };
    send().with_context(|| format!("send the terminal to the console socket {}", socket.display()))
}

#[cfg(test)]
mod tests;
