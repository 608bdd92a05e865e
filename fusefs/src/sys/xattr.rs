//! Extended attributes of what a name beneath a directory descriptor stands for.
//!
//! `getxattrat` and its sisters came with Linux 6.13 only. Until then a name beneath a descriptor
//! is spelled as a path through `/proc/self/fd`: its last component is never followed.

use std::ffi::{CStr, CString, OsStr};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Longest value and longest list of names that Linux allows, in bytes.
pub(crate) const LONGEST: usize = 65_536;
/// Bytes tried first: nearly every attribute of real trees is shorter.
const USUAL: usize = 256;

/// Whose attributes are meant. The descriptor stays open as long as this, since its number alone
/// would soon mean something else.
#[derive(Debug)]
pub(crate) struct Subject<'fd> {
    object: Object,
    descriptor: PhantomData<BorrowedFd<'fd>>,
}

/// How the system calls are told.
#[derive(Debug)]
enum Object {
    /// By a descriptor of an open file.
    File(RawFd),
    /// By a path; a symbolic link at its end is followed only if it is one of procfs.
    Path {
        /// The path.
        path: CString,
        /// Whether that is one of procfs.
        follow: bool,
    },
}

impl<'fd> Subject<'fd> {
    /// The object that `name` in `directory` stands for; a symbolic link is meant itself.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `name` contains a NUL byte.
    pub(crate) fn named(directory: BorrowedFd<'fd>, name: &OsStr) -> nix::Result<Self> {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        let path = CString::new(path).map_err(|_nul| Errno::EINVAL)?;
        Ok(Self::of(Object::Path { path, follow: false }))
    }

    /// The file or directory behind `file`, which is open for more than being named.
    pub(crate) fn file(file: BorrowedFd<'fd>) -> Self {
        Self::of(Object::File(file.as_raw_fd()))
    }

    /// The object behind `file`, which may be opened as a mere path.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub(crate) fn open(file: BorrowedFd<'fd>) -> nix::Result<Self> {
        if !is_mere_path(file)? {
            return Ok(Self::file(file));
        }
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let path = path.map_err(|_nul| Errno::EINVAL)?;
        Ok(Self::of(Object::Path { path, follow: true }))
    }

    fn of(object: Object) -> Self {
        Self { object, descriptor: PhantomData }
    }
}

/// Whether a descriptor is good for naming an object only (`O_PATH`).
fn is_mere_path(file: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(fcntl(file, FcntlArg::F_GETFL)? & libc::O_PATH != 0)
}

/// The value of the attribute `name`.
///
/// # Errors
///
/// `ENODATA` if there is none, `EOPNOTSUPP` if the file system knows no such attributes.
pub(crate) fn get(subject: &Subject<'_>, name: &CStr) -> nix::Result<Vec<u8>> {
    let name = name.as_ptr();
    grow(|buffer| {
        let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        match &subject.object {
            // SAFETY: the name is a C string; at most `size` bytes are written to the buffer.
            Object::File(file) => unsafe { libc::fgetxattr(*file, name, start, size) },
            Object::Path { path, follow } => {
                let call = if *follow { libc::getxattr } else { libc::lgetxattr };
                // SAFETY: as above, and the path is one too.
                unsafe { call(path.as_ptr(), name, start, size) }
            }
        }
    })
}

/// The names of all attributes, each ended by a NUL byte.
///
/// # Errors
///
/// `EOPNOTSUPP` if the file system knows no attributes.
pub(crate) fn list(subject: &Subject<'_>) -> nix::Result<Vec<u8>> {
    grow(|buffer| {
        let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        match &subject.object {
            // SAFETY: at most `size` bytes are written to the buffer.
            Object::File(file) => unsafe { libc::flistxattr(*file, start, size) },
            Object::Path { path, follow } => {
                let call = if *follow { libc::listxattr } else { libc::llistxattr };
                // SAFETY: as above, and the path is a C string.
                unsafe { call(path.as_ptr(), start, size) }
            }
        }
    })
}

/// Sets the attribute `name`; `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
///
/// # Errors
///
/// Those of setxattr(2).
pub(crate) fn set(subject: &Subject<'_>, name: &CStr, value: &[u8], flags: i32) -> nix::Result<()> {
    let (name, start, size) = (name.as_ptr(), value.as_ptr().cast(), value.len());
    let done = match &subject.object {
        // SAFETY: the name is a C string; `size` bytes of the value are read.
        Object::File(file) => unsafe { libc::fsetxattr(*file, name, start, size, flags) },
        Object::Path { path, follow } => {
            let call = if *follow { libc::setxattr } else { libc::lsetxattr };
            // SAFETY: as above, and the path is one too.
            unsafe { call(path.as_ptr(), name, start, size, flags) }
        }
    };
    Errno::result(done).map(drop)
}

/// Removes the attribute `name`.
///
/// # Errors
///
/// `ENODATA` if there is none.
pub(crate) fn remove(subject: &Subject<'_>, name: &CStr) -> nix::Result<()> {
    let done = match &subject.object {
        // SAFETY: the name is a C string.
        Object::File(file) => unsafe { libc::fremovexattr(*file, name.as_ptr()) },
        Object::Path { path, follow } => {
            let call = if *follow { libc::removexattr } else { libc::lremovexattr };
            // SAFETY: as above, and the path is one too.
            unsafe { call(path.as_ptr(), name.as_ptr()) }
        }
    };
    Errno::result(done).map(drop)
}

/// Calls with the usual size first, with the largest if that is too small (`ERANGE`).
fn grow(mut call: impl FnMut(&mut [u8]) -> isize) -> nix::Result<Vec<u8>> {
    for size in [USUAL, LONGEST] {
        let mut buffer = vec![0_u8; size];
        match Errno::result(call(&mut buffer)) {
            Ok(length) => {
                buffer.truncate(usize::try_from(length).map_err(|_negative| Errno::EIO)?);
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::E2BIG)
}
