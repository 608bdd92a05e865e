//! Terminals: the ioctls of pseudoterminals.

#![allow(unsafe_code, reason = "the one place for calls that no library wraps")]

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows, 0 if unknown.
    pub rows: u16,
    /// Columns, 0 if unknown.
    pub columns: u16,
}

/// Lets the other side of the pseudoterminal `master` be opened.
///
/// # Errors
///
/// `ENOTTY` if it is none.
pub fn unlock(master: impl AsFd) -> Result<()> {
    let locked: libc::c_int = 0;
    let fd = master.as_fd().as_raw_fd();
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &raw const locked) }).map(drop)
}

/// The N of `/dev/pts/N`.
///
/// # Errors
///
/// `ENOTTY` if it is no pseudoterminal's master.
pub fn number(master: impl AsFd) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    let fd = master.as_fd().as_raw_fd();
    // SAFETY: TIOCGPTN writes one unsigned int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCGPTN, &raw mut number) })?;
    Ok(number)
}

/// Opens the other side of `master` without going through any path, closed on exec.
///
/// # Errors
///
/// `EIO` if it is still locked, `ENOTTY` before Linux 4.13.
pub fn open_peer(master: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = master.as_fd().as_raw_fd();
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let peer = Errno::result(unsafe { libc::ioctl(fd, libc::TIOCGPTPEER, flags.bits()) })?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}

/// Makes `terminal` the controlling terminal of the calling session leader.
///
/// # Errors
///
/// `EPERM` if the caller leads no session or the terminal controls another one.
pub fn set_controlling(terminal: impl AsFd) -> Result<()> {
    let fd = terminal.as_fd().as_raw_fd();
    let steal: libc::c_int = 0;
    // SAFETY: TIOCSCTTY takes an int by value.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCSCTTY, steal) }).map(drop)
}

/// The size of `terminal`.
///
/// # Errors
///
/// `ENOTTY` if it is none.
pub fn size(terminal: impl AsFd) -> Result<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Changes the size of `terminal`, of which its foreground processes hear by `SIGWINCH`.
///
/// # Errors
///
/// `ENOTTY` if it is none.
pub fn set_size(terminal: impl AsFd, size: Size) -> Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Owns a descriptor that a message brought.
    pub(crate) fn own(fd: std::os::fd::RawFd) -> OwnedFd {
        // SAFETY: the kernel made it when the message was received, and the test asks once.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}
