//! The mount API by file descriptor: `fsopen`, `fsconfig`, `fsmount`, `open_tree`, `move_mount`
//! and `mount_setattr` (Linux 5.2 and 5.12).
//!
//! Every descriptor is closed on exec. Errors are those of the system call, whose man page names
//! them; where the kernel says more than the errno, [`FsContext::complaint`] reads it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::{NixPath, Result};

/// A mount being configured, before it exists (`fsopen(2)`).
#[derive(Debug)]
pub struct FsContext(OwnedFd);

fn owned(result: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the system call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl FsContext {
    /// Starts to configure a file system of type `fstype`.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the kernel has no such type, `EPERM` without `CAP_SYS_ADMIN` in the user
    /// namespace that owns the mount namespace.
    pub fn open(fstype: &CStr) -> Result<Self> {
        // SAFETY: `fstype` ends with NUL and outlives the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), libc::FSOPEN_CLOEXEC) })
            .map(Self)
    }

    fn config(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: key and value are NULL or end with NUL, and outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                0,
            )
        };
        Errno::result(result).map(drop)
    }

    /// Sets the option `key` to `value`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the file system does not know the option or refuses the value.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.config(libc::FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Sets the option `key`, which has no value.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the file system does not know the option.
    pub fn set_flag(&self, key: &CStr) -> Result<()> {
        self.config(libc::FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Makes the mount with the `MOUNT_ATTR_*` in `attributes`; it is attached nowhere yet.
    ///
    /// # Errors
    ///
    /// What the file system answers; `EPERM` where the user namespace may not mount it.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd> {
        self.config(libc::FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: only numbers are passed.
        owned(unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes)
        })
    }

    /// Takes up the file system of `mount` to configure it anew (`fspick(2)`).
    ///
    /// # Errors
    ///
    /// `EINVAL` if `mount` is not the root of a mount, `EPERM` without `CAP_SYS_ADMIN` in the user
    /// namespace that owns the mount namespace.
    pub fn pick(mount: BorrowedFd<'_>) -> Result<Self> {
        let flags = libc::FSPICK_CLOEXEC | libc::FSPICK_EMPTY_PATH;
        // SAFETY: the path is the empty C string.
        owned(unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), flags) })
            .map(Self)
    }

    /// Makes what was set count for the file system that was picked.
    ///
    /// # Errors
    ///
    /// What the file system answers.
    pub fn reconfigure(&self) -> Result<()> {
        self.config(libc::FSCONFIG_CMD_RECONFIGURE, None, None)
    }

    /// What the kernel has to say about the last failure, if anything.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let mut message = [0_u8; 512];
        let length = nix::unistd::read(&self.0, &mut message).ok()?;
        let text = String::from_utf8_lossy(message.get(..length)?);
        Some(text.trim_start_matches("e ").trim_start_matches("w ").trim().to_owned())
    }
}

/// Opens what lies at `path` beneath `directory` as a detached copy of its mount (`open_tree(2)`).
///
/// With `recursive` the mounts below come too, which a user namespace demands when they belong to
/// a more privileged one. An empty path means `directory` itself.
///
/// # Errors
///
/// `EINVAL` for a tree with locked mounts below if not `recursive`, `EPERM` without
/// `CAP_SYS_ADMIN`, and those of looking up `path`.
pub fn clone_tree<P: NixPath + ?Sized>(
    directory: BorrowedFd<'_>,
    path: &P,
    recursive: bool,
) -> Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    open_tree(directory, path, libc::AT_EMPTY_PATH | recursive)
}

/// The same, but a symbolic link at the end of `path` is opened itself.
///
/// # Errors
///
/// As [`clone_tree`].
pub fn clone_link<P: NixPath + ?Sized>(
    directory: BorrowedFd<'_>,
    path: &P,
    recursive: bool,
) -> Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    open_tree(directory, path, libc::AT_SYMLINK_NOFOLLOW | recursive)
}

fn open_tree<P: NixPath + ?Sized>(
    directory: BorrowedFd<'_>,
    path: &P,
    flags: libc::c_int,
) -> Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | flags.cast_unsigned();
    let result = path.with_nix_path(|path| {
        // SAFETY: `path` ends with NUL and outlives the call.
        unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) }
    })?;
    owned(result)
}

/// Attaches the detached mount `from` on top of `to` (`move_mount(2)`).
///
/// # Errors
///
/// `ENOTDIR` if one is a directory and the other is not, `EINVAL` if `to` is in another mount
/// namespace.
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are the empty C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Attaches the detached mount `from` on `name`, which lies in `directory` and is no symbolic link.
///
/// # Errors
///
/// Those of [`attach`]; `ENOENT` if there is nothing of that name.
pub fn attach_in<P: NixPath + ?Sized>(
    from: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &P,
) -> Result<()> {
    let result = name.with_nix_path(|name| {
        // SAFETY: both paths end with NUL and outlive the call. Without MOVE_MOUNT_T_SYMLINKS a link
        // is not followed.
        unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                from.as_raw_fd(),
                c"".as_ptr(),
                directory.as_raw_fd(),
                name.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        }
    })?;
    Errno::result(result).map(drop)
}

/// What `mount_setattr(2)` is to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
}

/// Changes the attributes of `mount`, and of all mounts below it if `recursive`.
///
/// # Errors
///
/// `EPERM` if a flag is locked by a more privileged user namespace, `EINVAL` if `mount` is not
/// the root of a mount.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    recursive: bool,
) -> Result<()> {
    let change = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    set(mount, change, recursive)
}

/// Shows the files of the detached `mount`, and of all below it if `recursive`, with the IDs that
/// `namespace`, a user namespace, has for those that the file system stores.
///
/// # Errors
///
/// `EINVAL` if the file system cannot do that, or `namespace` is its own; `EPERM` without
/// `CAP_SYS_ADMIN` in the user namespace that mounted the file system, or if the mount has a mapping.
///
/// Source: `mount_setattr(2)`, `MOUNT_ATTR_IDMAP`, Linux 5.12.
pub fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    let userns_fd = u64::from(namespace.as_raw_fd().cast_unsigned());
    let attr_set = libc::MOUNT_ATTR_IDMAP;
    set(mount, libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd }, recursive)
}

fn set(mount: BorrowedFd<'_>, change: libc::mount_attr, recursive: bool) -> Result<()> {
    let flags =
        if recursive { libc::AT_EMPTY_PATH | libc::AT_RECURSIVE } else { libc::AT_EMPTY_PATH };
    // SAFETY: `change` is a whole `mount_attr`, its size is passed, and it outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of_val(&change),
        )
    };
    Errno::result(result).map(drop)
}

/// Makes the working directory the root of the mount namespace (`pivot_root(2)`).
///
/// The working directory must be the new root; afterwards the old one is mounted on top of it,
/// and the caller detaches it.
///
/// # Errors
///
/// `EINVAL` if the working directory is not a mount point or its parent is shared.
pub fn pivot_to_working_directory() -> Result<()> {
    // SAFETY: both paths are C strings.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    Errno::result(result).map(drop)
}

/// `text` as the C string that the mount calls take.
///
/// # Errors
///
/// `EINVAL` if it contains NUL.
pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

/// The file system magic of what `fd` refers to (`statfs(2)`, `f_type`).
///
/// # Errors
///
/// Those of `fstatfs(2)`.
pub fn magic(fd: impl AsFd) -> Result<nix::sys::statfs::FsType> {
    Ok(nix::sys::statfs::fstatfs(fd)?.filesystem_type())
}
