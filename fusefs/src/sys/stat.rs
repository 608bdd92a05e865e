//! What `stat` does not say.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use crate::inode::attr::Timestamp;

/// The id of the mount that `directory` was opened through. Renames never cross mounts, even of
/// one file system.
///
/// # Errors
///
/// Those of statx(2).
pub(crate) fn mount_id(directory: BorrowedFd<'_>) -> nix::Result<u64> {
    Ok(statx(directory, c"", libc::STATX_MNT_ID)?.stx_mnt_id)
}

/// When what `name` in `directory` stands for was made; with an empty name, `directory` itself.
/// `None` if the file system does not keep that.
///
/// # Errors
///
/// Those of statx(2).
pub(crate) fn born(directory: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Option<Timestamp>> {
    let name = CString::new(name.as_bytes()).map_err(|_nul| Errno::EINVAL)?;
    let found = statx(directory, &name, libc::STATX_BTIME)?;
    let born = found.stx_btime;
    let born = Timestamp { seconds: born.tv_sec, nanoseconds: born.tv_nsec };
    Ok((found.stx_mask & libc::STATX_BTIME != 0).then_some(born))
}

fn statx(directory: BorrowedFd<'_>, name: &CStr, wanted: libc::c_uint) -> nix::Result<libc::statx> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let (directory, name, to) = (directory.as_raw_fd(), name.as_ptr(), found.as_mut_ptr());
    // SAFETY: the path is a C string, and the kernel writes one `statx` to `found`.
    let done = unsafe { libc::statx(directory, name, flags, wanted, to) };
    Errno::result(done)?;
    // SAFETY: all bytes were zeroed above, which is a valid `statx`.
    Ok(unsafe { found.assume_init() })
}

/// The UUID of the file system that holds `file`; `None` if it has none or the kernel, before
/// Linux 6.9, does not tell.
///
/// Source: Linux `include/uapi/linux/fs.h`, `FS_IOC_GETFSUUID`.
pub(crate) fn file_system_uuid(file: BorrowedFd<'_>) -> Option<[u8; 16]> {
    /// `struct fsuuid2`: the length of the UUID, and 16 bytes of room for it.
    const SIZE: usize = 17;
    const GET_UUID: libc::Ioctl = libc::_IOR::<[u8; SIZE]>(0x15, 0);
    let mut found = [0_u8; SIZE];
    // SAFETY: the kernel writes at most the 17 bytes of `found`.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), GET_UUID, found.as_mut_ptr()) };
    let (length, uuid) = found.split_first_chunk::<1>()?;
    (done == 0 && *length == [16]).then_some(uuid.try_into().ok()?)
}

/// Longest file handle of any file system, in bytes (`MAX_HANDLE_SZ`).
const HANDLE_SIZE: usize = 128;

#[repr(C)]
struct FileHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; HANDLE_SIZE],
}

/// What tells the inode behind `file` from any other that its file system ever had: the type of
/// the kernel's file handle and its bytes. It survives a remount and a reboot.
///
/// # Errors
///
/// `EOPNOTSUPP` where the file system has no handles.
///
/// Source: `name_to_handle_at(2)`.
pub(crate) fn file_handle(file: BorrowedFd<'_>) -> nix::Result<(i32, Vec<u8>)> {
    let mut handle = FileHandle {
        bytes: libc::c_uint::try_from(HANDLE_SIZE).map_err(|_too_big| Errno::EOVERFLOW)?,
        kind: 0,
        handle: [0; HANDLE_SIZE],
    };
    let mut mount: libc::c_int = 0;
    // SAFETY: `handle` has the layout of `struct file_handle` with room for as many bytes as it
    // says; path and mount id are valid for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(done)?;
    let length = usize::try_from(handle.bytes).map_err(|_too_big| Errno::EOVERFLOW)?;
    let bytes = handle.handle.get(..length).ok_or(Errno::EOVERFLOW)?;
    Ok((handle.kind, bytes.to_vec()))
}
