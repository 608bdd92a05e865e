//! Extended attributes of what a name beneath a directory descriptor stands for.
//!
//! `setxattrat` and its sisters came with Linux 6.13 only. Until then such a name is spelled as a path
//! through `/proc/self/fd`: its last component is never followed.

#![allow(unsafe_code, reason = "the one place for calls that no library wraps")]

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::Result;
use nix::errno::Errno;

/// The longest value that Linux allows, in bytes.
const LONGEST: usize = 65_536;

fn path(directory: BorrowedFd<'_>, name: &OsStr) -> Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    CString::new(path).map_err(|_nul| Errno::EINVAL)
}

/// Sets the attribute `attribute` of `name` in `directory`, of a symbolic link itself.
///
/// # Errors
///
/// `EOPNOTSUPP` if the file system has no such attributes, `EPERM` if this kind of file or this user may
/// not have it, `ENOSPC` or `E2BIG` for too many bytes.
pub fn set(directory: BorrowedFd<'_>, name: &OsStr, attribute: &CStr, value: &[u8]) -> Result<()> {
    let path = path(directory, name)?;
    let (start, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: path and name end with NUL, the value has `size` bytes; all outlive the call.
    let done = unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), start, size, 0) };
    Errno::result(done).map(drop)
}

/// The attribute `attribute` of `name` in `directory`.
///
/// # Errors
///
/// `ENODATA` if it has none, `EOPNOTSUPP` if the file system has no such attributes.
pub fn get(directory: BorrowedFd<'_>, name: &OsStr, attribute: &CStr) -> Result<Vec<u8>> {
    let path = path(directory, name)?;
    let mut value = vec![0_u8; LONGEST];
    let (start, size) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: path and name end with NUL, the kernel writes at most `size` bytes; all outlive the call.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), attribute.as_ptr(), start, size) };
    value.truncate(usize::try_from(Errno::result(length)?).unwrap_or_default());
    Ok(value)
}

/// Takes the attribute `attribute` of `name` in `directory` away.
///
/// # Errors
///
/// `ENODATA` if it has none, `EOPNOTSUPP` if the file system has no such attributes.
pub fn remove(directory: BorrowedFd<'_>, name: &OsStr, attribute: &CStr) -> Result<()> {
    let path = path(directory, name)?;
    // SAFETY: both end with NUL and outlive the call.
    let done = unsafe { libc::lremovexattr(path.as_ptr(), attribute.as_ptr()) };
    Errno::result(done).map(drop)
}

/// The names of the attributes of `name` in `directory`.
///
/// # Errors
///
/// `EOPNOTSUPP` if the file system has none.
pub fn list(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<CString>> {
    let path = path(directory, name)?;
    let mut names = vec![0_u8; LONGEST];
    let (start, size) = (names.as_mut_ptr().cast(), names.len());
    // SAFETY: the path ends with NUL, the kernel writes at most `size` bytes; both outlive the call.
    let length = unsafe { libc::llistxattr(path.as_ptr(), start, size) };
    names.truncate(usize::try_from(Errno::result(length)?).unwrap_or_default());
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}
