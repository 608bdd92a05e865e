//! Extended attributes by the C library.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// The names of all attributes of `path` itself.
pub(crate) fn list(path: &Path) -> nix::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0_u8; 65_536];
    let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: at most `size` bytes are written to the buffer.
    let length = unsafe { libc::llistxattr(c_path(path).as_ptr(), start, size) };
    buffer.truncate(usize::try_from(Errno::result(length)?).unwrap());
    let names = buffer.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// One attribute of `path` itself.
pub(crate) fn get(path: &Path, name: &str) -> nix::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; 65_536];
    let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    // SAFETY: at most `size` bytes are written to the buffer.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), start, size) };
    buffer.truncate(usize::try_from(Errno::result(length)?).unwrap());
    Ok(buffer)
}

/// Sets one attribute of `path` itself.
pub(crate) fn set(path: &Path, name: &str, value: &[u8]) -> nix::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    let (start, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: `size` bytes of the value are read.
    let done = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), start, size, 0) };
    Errno::result(done).map(drop)
}

/// Removes one attribute of `path` itself.
pub(crate) fn remove(path: &Path, name: &str) -> nix::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    // SAFETY: both are C strings.
    let done = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    Errno::result(done).map(drop)
}

/// All attributes of `path` itself, sorted.
pub(crate) fn all(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let names = list(path).unwrap();
    let value = |name: &[u8]| get(path, std::str::from_utf8(name).unwrap()).unwrap();
    let mut all: Vec<_> = names.into_iter().map(|name| (name.clone(), value(&name))).collect();
    all.sort();
    all
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}
