//! Whole-file locks that survive a fork.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Takes the exclusive lock of the open file `file` without waiting.
///
/// The lock belongs to the open file, hence to every process that inherits the descriptor, and
/// ends when the last of them closes it. Nobody must unlock it: that would take it from all.
///
/// # Errors
///
/// `EWOULDBLOCK` if another open file holds it.
///
/// Source: flock(2).
pub(crate) fn lock_exclusively(file: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: flock takes numbers only.
    let done = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    Errno::result(done).map(drop)
}
