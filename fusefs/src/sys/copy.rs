//! Sharing blocks between files.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Makes `target` share all blocks of `source`, so that a copy costs no data.
///
/// # Errors
///
/// `EOPNOTSUPP`, `EXDEV` or `EINVAL` where the file systems cannot; `target` is then unchanged.
///
/// Source: `ioctl_ficlone(2)`.
pub(crate) fn share_blocks(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: FICLONE takes a descriptor by value and no memory of ours.
    let done = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONE, source.as_raw_fd()) };
    Errno::result(done).map(drop)
}
