//! Landlock: the three system calls of `landlock(7)`.

#![allow(unsafe_code, reason = "the one place for calls that no library wraps")]

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::Result;
use nix::errno::Errno;

/// `struct landlock_ruleset_attr`: all that a ruleset forbids where no rule allows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// `LANDLOCK_ACCESS_FS_*`
    pub files: u64,
    /// `LANDLOCK_ACCESS_NET_*` (version 4)
    pub network: u64,
    /// `LANDLOCK_SCOPE_*` (version 6)
    pub scopes: u64,
}

/// The version of the interface that this kernel has, from 1.
///
/// # Errors
///
/// `ENOSYS` if it was built without Landlock, `EOPNOTSUPP` if that was not enabled at boot.
pub fn version() -> Result<i64> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<Handled>();
    // SAFETY: with this flag the kernel wants no structure and a size of 0.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
    Errno::result(version)
}

/// A new ruleset without a rule.
///
/// # Errors
///
/// `E2BIG` or `EINVAL` for what this kernel's version does not have, `ENOMSG` for nothing at all.
pub fn create_ruleset(handled: Handled) -> Result<OwnedFd> {
    // Older versions know only the beginning, and take the rest if it is zero.
    let size = size_of::<Handled>();
    let ruleset = &raw const handled;
    // SAFETY: the kernel reads `size` bytes, as many as the structure has, which outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ruleset, size, 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_no_descriptor| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Allows `access` to `file`, and to all below if it is a directory.
///
/// # Errors
///
/// `EINVAL` for access that the ruleset does not handle, or that a file cannot have; `EBADFD` for a file
/// of no file system.
pub fn allow_path(ruleset: BorrowedFd<'_>, file: BorrowedFd<'_>, access: u64) -> Result<()> {
    /// `struct landlock_path_beneath_attr`
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        file: i32,
    }
    const PATH_BENEATH: i32 = 1;
    let rule = PathBeneath { access, file: file.as_raw_fd() };
    add_rule(ruleset, PATH_BENEATH, &rule)
}

/// Allows `access` to TCP port `port`.
///
/// # Errors
///
/// `EINVAL` for access that the ruleset does not handle, `EAFNOSUPPORT` without TCP in the kernel.
pub fn allow_port(ruleset: BorrowedFd<'_>, port: u16, access: u64) -> Result<()> {
    /// `struct landlock_net_port_attr`
    #[repr(C)]
    struct NetPort {
        access: u64,
        port: u64,
    }
    const NET_PORT: i32 = 2;
    add_rule(ruleset, NET_PORT, &NetPort { access, port: port.into() })
}

fn add_rule<T>(ruleset: BorrowedFd<'_>, kind: i32, rule: &T) -> Result<()> {
    let (ruleset, rule) = (ruleset.as_raw_fd(), std::ptr::from_ref(rule));
    // SAFETY: `rule` is the structure that goes with `kind`, which the two callers above give, and
    // outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, kind, rule, 0) };
    Errno::result(done).map(drop)
}

/// Puts the calling thread and its children to come under `ruleset`, for ever.
///
/// # Errors
///
/// `EPERM` without `no_new_privs` or `CAP_SYS_ADMIN` in the user namespace, `E2BIG` beyond 16 rulesets
/// one upon the other.
pub fn restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: only numbers are passed.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    Errno::result(done).map(drop)
}
