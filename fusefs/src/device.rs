//! The FUSE device and the mount that belongs to it, without fusermount3.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid};

use crate::overlay::OpenError;
use crate::sys::mount::Configuring;

/// Opens `/dev/fuse`: in the user namespace in which it will be mounted, and before any fork that
/// separates the one who mounts from the one who serves.
///
/// # Errors
///
/// [`OpenError::Device`], with the cure.
pub fn open_device() -> Result<OwnedFd, OpenError> {
    open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| OpenError::Device { errno })
}

/// What to do when `/dev/fuse` cannot be opened.
pub(crate) fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            "the kernel module is not loaded; as root: modprobe fuse"
        }
        Errno::EACCES | Errno::EPERM => {
            "no permission; as root: chmod 0666 /dev/fuse (udev rule: KERNEL==\"fuse\", MODE=\"0666\")"
        }
        _ => "the kernel refuses",
    }
}

/// Makes a FUSE mount that `device` will serve, attached nowhere: the caller moves it to its place
/// with `move_mount(2)`.
///
/// The caller must be in the user namespace in which `device` was opened and own its mount
/// namespace (or be real root). Root of the mount belongs to the caller's effective ids; everybody
/// may use it, and the kernel checks permissions.
///
/// # Errors
///
/// `ENOSYS` before Linux 5.2; `EPERM` without the right to mount; `EINVAL` if `device` belongs to
/// another user namespace or is mounted already; `ENODEV` if the kernel has no FUSE.
pub fn mount_detached(device: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    mount_detached_with(device, &MountOptions::default())
}

/// How a mount differs from the usual one (mount(8)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// The `SELinux` context of everything in it.
    pub context: Option<OsString>,
    /// Others than who mounts may use it. Makes a difference only for fusermount3: mounted by ourselves
    /// it is always so, as the kernel checks permissions.
    pub allow_other: bool,
    /// Nobody can write.
    pub read_only: bool,
    /// Set-id bits and file capabilities mean nothing.
    pub no_suid: bool,
    /// Devices cannot be opened.
    pub no_dev: bool,
    /// Programs cannot be run.
    pub no_exec: bool,
    /// Times of access stay.
    pub no_atime: bool,
    /// Those of directories do.
    pub no_dir_atime: bool,
}

impl MountOptions {
    /// As attributes of fsmount(2).
    fn attributes(&self) -> u64 {
        [
            (self.read_only, libc::MOUNT_ATTR_RDONLY),
            (self.no_suid, libc::MOUNT_ATTR_NOSUID),
            (self.no_dev, libc::MOUNT_ATTR_NODEV),
            (self.no_exec, libc::MOUNT_ATTR_NOEXEC),
            (self.no_atime, libc::MOUNT_ATTR_NOATIME),
            (self.no_dir_atime, libc::MOUNT_ATTR_NODIRATIME),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |all, (_, attribute)| all | attribute)
    }
}

/// As [`mount_detached`], with `options`.
///
/// # Errors
///
/// Those of [`mount_detached`]; `EINVAL` for a context where there is no `SELinux`.
pub fn mount_detached_with(device: BorrowedFd<'_>, options: &MountOptions) -> nix::Result<OwnedFd> {
    let number = |value: String| CString::new(value).map_err(|_nul| Errno::EINVAL);
    let settings: [(&CStr, CString); 4] = [
        (c"fd", number(device.as_raw_fd().to_string())?),
        (c"rootmode", number(format!("{:o}", libc::S_IFDIR))?),
        (c"user_id", number(geteuid().to_string())?),
        (c"group_id", number(getegid().to_string())?),
    ];
    let configuring = Configuring::start(c"fuse")?;
    configuring.set(c"source", c"rrun")?;
    configuring.set(c"subtype", c"rrun")?;
    for (key, value) in settings {
        configuring.set(key, &value)?;
    }
    configuring.set_flag(c"allow_other")?;
    configuring.set_flag(c"default_permissions")?;
    if let Some(context) = &options.context {
        let context = CString::new(context.as_bytes()).map_err(|_nul| Errno::EINVAL)?;
        configuring.set(c"context", &context)?;
    }
    configuring.mount(options.attributes())
}

/// Attaches what [`mount_detached`] made to the directory `target`.
///
/// # Errors
///
/// `EPERM` in a mount namespace of others; `ENOTDIR`, `EINVAL` as `move_mount(2)`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    crate::sys::mount::attach(mount, target)
}
