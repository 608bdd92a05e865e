//! Reading directories, without a `DIR` and its locks and copies.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// Bytes of directory entries fetched by one system call: some 800 entries.
const BUFFER_SIZE: usize = 32 * 1024;
/// Offsets of the fields of `struct linux_dirent64`.
const RECORD_LENGTH: usize = 16;
const KIND: usize = 18;
const NAME: usize = 19;

/// Calls `visit` with name and type (`DT_*`) of every entry but `.` and `..`, from the start.
///
/// # Errors
///
/// Those of getdents64(2); `EIO` if the kernel returned a malformed record.
pub(crate) fn for_each_entry(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(&OsStr, u8) -> nix::Result<()>,
) -> nix::Result<()> {
    nix::unistd::lseek(directory, 0, nix::unistd::Whence::SeekSet)?;
    let mut buffer = vec![0_u8; BUFFER_SIZE];
    loop {
        let filled = fill(directory, &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..filled).ok_or(Errno::EIO)?;
        while !rest.is_empty() {
            let (name, kind, length) = parse(rest).ok_or(Errno::EIO)?;
            if name != "." && name != ".." {
                visit(name, kind)?;
            }
            rest = rest.get(length..).ok_or(Errno::EIO)?;
        }
    }
}

/// One `getdents64` into `buffer`; the number of bytes filled, zero at the end.
fn fill(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    let (start, size) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the kernel writes at most `size` bytes to the buffer, which we borrow mutably.
    let filled = unsafe { libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), start, size) };
    usize::try_from(filled).map_err(|_negative| Errno::last())
}

/// Name, type and length of the record that `bytes` starts with.
fn parse(bytes: &[u8]) -> Option<(&OsStr, u8, usize)> {
    let length = bytes.get(RECORD_LENGTH..RECORD_LENGTH + 2)?;
    let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
    let kind = *bytes.get(KIND)?;
    let name = bytes.get(NAME..length)?.split(|byte| *byte == 0).next()?;
    Some((OsStr::from_bytes(name), kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_records_are_refused() {
        let mut record = vec![0_u8; 24];
        record[RECORD_LENGTH] = 24;
        record[KIND] = 8;
        record[NAME..NAME + 2].copy_from_slice(b"ab");
        assert_eq!(parse(&record), Some((OsStr::new("ab"), 8, 24)));
        for (length, bytes) in [(0, 24), (18, 24), (25, 24), (24, 17), (24, 0)] {
            record[RECORD_LENGTH] = length;
            assert_eq!(parse(&record[..bytes]), None, "{length} of {bytes}");
        }
    }
}
