//! The mount API by descriptors, as far as a FUSE mount needs it.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// Commands of fsconfig(2) that `libc` does not name on every target.
const SET_FLAG: libc::c_uint = 0;
const SET_STRING: libc::c_uint = 1;
const CREATE: libc::c_uint = 6;
/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_uint = 1;

/// A file system being configured.
#[derive(Debug)]
pub(crate) struct Configuring(OwnedFd);

impl Configuring {
    /// Starts with nothing but the type, for example `fuse`.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the kernel lacks it, `EPERM` without the right to mount.
    pub(crate) fn start(kind: &CStr) -> nix::Result<Self> {
        // SAFETY: the type is a C string.
        let opened = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC) };
        owned(opened).map(Self)
    }

    /// Sets an option that has a value.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the option or its value is not known.
    pub(crate) fn set(&self, key: &CStr, value: &CStr) -> nix::Result<()> {
        self.call(SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets an option that has none.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the option is not known.
    pub(crate) fn set_flag(&self, key: &CStr) -> nix::Result<()> {
        self.call(SET_FLAG, key.as_ptr(), ptr::null())
    }

    /// Makes the file system and a mount of it, with these attributes, that is attached nowhere yet.
    ///
    /// # Errors
    ///
    /// Those of fsconfig(2) and fsmount(2).
    pub(crate) fn mount(self, attributes: u64) -> nix::Result<OwnedFd> {
        self.call(CREATE, ptr::null(), ptr::null())?;
        let fd = self.0.as_raw_fd();
        // SAFETY: fsmount takes numbers only.
        let mounted = unsafe { libc::syscall(libc::SYS_fsmount, fd, CLOSE_ON_EXEC, attributes) };
        owned(mounted)
    }

    fn call(
        &self,
        command: libc::c_uint,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> nix::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: key and value are C strings, or null where the command takes none.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0) };
        Errno::result(done).map(drop)
    }
}

/// Attaches a detached mount over the directory `target`.
///
/// # Errors
///
/// Those of `move_mount(2)`.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    /// `MOVE_MOUNT_F_EMPTY_PATH` and `MOVE_MOUNT_T_EMPTY_PATH`.
    const BOTH_BY_DESCRIPTOR: libc::c_uint = 0x04 | 0x40;
    // SAFETY: both paths are constant C strings.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            BOTH_BY_DESCRIPTOR,
        )
    };
    Errno::result(done).map(drop)
}

/// Owns the descriptor that a system call returned.
fn owned(returned: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(returned)?;
    let fd = i32::try_from(fd).map_err(|_too_big| Errno::EBADF)?;
    // SAFETY: the kernel has just opened this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
