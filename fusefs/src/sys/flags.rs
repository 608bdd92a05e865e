//! The flags that chattr(1) sets.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Reads the flags of an open file or directory.
///
/// # Errors
///
/// `ENOTTY` or `EOPNOTSUPP` where the file system has none.
///
/// Source: `FS_IOC_GETFLAGS(2const)`.
pub(crate) fn get(file: BorrowedFd<'_>) -> nix::Result<u32> {
    // The kernel writes an `int`, though the number of the call says `long`.
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes no more than one `long` to `flags`.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    Errno::result(done)?;
    u32::try_from(flags & libc::c_long::from(u32::MAX)).map_err(|_too_big| Errno::EIO)
}

/// Bytes of `struct fsxattr`.
pub(crate) const EXTENDED: usize = 28;
/// Reads a `struct fsxattr`, which the kernel asks for before it sets flags.
pub(crate) const GET_EXTENDED: libc::Ioctl = libc::_IOR::<[u8; EXTENDED]>(b'X' as u32, 31);

/// Reads the same and more, as `struct fsxattr`.
///
/// # Errors
///
/// `ENOTTY` or `EOPNOTSUPP` where the file system has none.
///
/// Source: Linux `include/uapi/linux/fs.h`, `FS_IOC_FSGETXATTR`.
pub(crate) fn get_extended(file: BorrowedFd<'_>) -> nix::Result<[u8; EXTENDED]> {
    let mut found = [0; EXTENDED];
    // SAFETY: the kernel writes no more than the 28 bytes of `found`.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), GET_EXTENDED, found.as_mut_ptr()) };
    Errno::result(done)?;
    Ok(found)
}

/// Sets them.
///
/// # Errors
///
/// `EPERM` for flags that real root alone may set; `EOPNOTSUPP` for those that the file system lacks.
pub(crate) fn set(file: BorrowedFd<'_>, flags: u32) -> nix::Result<()> {
    let flags = libc::c_long::from(flags);
    // SAFETY: the kernel reads no more than one `long` from `flags`.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    Errno::result(done).map(drop)
}
