//! What this kernel and this user can do, probed once for a command.
//!
//! Only this module probes; everybody else is told.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context as _;
use nix::unistd::{Gid, Uid, getegid, geteuid};

use crate::confine::cgroup::Hierarchies;

/// The user, the user namespace and the environment that the command runs in.
#[derive(Debug, Clone)]
pub struct Host {
    /// The effective user ID.
    pub uid: Uid,
    /// The effective group ID.
    pub gid: Gid,
    /// Whether we are in a user namespace that somebody made, as inside `podman unshare`.
    pub nested: bool,
}

/// The line of `/proc/self/uid_map` in the first user namespace: every ID, unchanged.
const WHOLE_RANGE: [&str; 3] = ["0", "0", "4294967295"];

impl Host {
    /// Looks at the process and its namespace.
    #[must_use]
    pub fn probe() -> Self {
        let map = read_proc("/proc/self/uid_map").unwrap_or_default();
        Self { uid: geteuid(), gid: getegid(), nested: !map.split_whitespace().eq(WHOLE_RANGE) }
    }

    /// Whether this is root of the whole machine, not of a user namespace.
    #[must_use]
    pub fn is_real_root(&self) -> bool {
        self.uid.is_root() && !self.nested
    }

    /// Whether a new user namespace is needed to do anything at all.
    #[must_use]
    pub fn needs_user_namespace(&self) -> bool {
        !self.uid.is_root()
    }
}

/// Which security modules label processes here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecurityModules {
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
}

impl SecurityModules {
    /// Looks at the kernel, once there is something to be labelled.
    ///
    /// Source: apparmor(7), `/sys/module/apparmor/parameters/enabled`; selinux(8), selinuxfs.
    #[must_use]
    pub fn probe() -> Self {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
        let selinuxfs = nix::sys::statfs::statfs("/sys/fs/selinux");
        Self {
            apparmor: enabled.starts_with(b"Y"),
            selinux: selinuxfs
                .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::SELINUX_MAGIC),
        }
    }
}

impl Host {
    /// The ID of our user outside of the user namespace that we are in, which is how a bus or another
    /// process out there knows us.
    #[must_use]
    pub fn uid_outside(&self) -> u32 {
        let map = read_proc("/proc/self/uid_map").unwrap_or_default();
        let maps = crate::userns::map::parse(&map).unwrap_or_default();
        let own = self.uid.as_raw();
        crate::userns::map::inside_to_outside(&maps, own).unwrap_or(own)
    }
}

/// Whether version 2 of the cgroups stands alone in the usual place.
#[must_use]
pub fn has_only_cgroup_2() -> bool {
    let found = nix::sys::statfs::statfs("/sys/fs/cgroup");
    found.is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

/// The cgroups of this machine, and where in them we are.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn hierarchies() -> anyhow::Result<Hierarchies> {
    let read = |path| read_proc(path).with_context(|| format!("read {path}"));
    Ok(Hierarchies::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
}

/// A variable of the environment that is set and not empty.
///
/// Engines pass some variables empty when they mean that they are not there.
#[must_use]
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The caller's home directory, if the environment names one.
#[must_use]
pub fn home() -> Option<PathBuf> {
    variable("HOME").map(PathBuf::from)
}

/// This boot's identity (`/proc/sys/kernel/random/boot_id`): a process ID means nothing in another.
#[must_use]
pub fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || read_proc("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    BOOT.get_or_init(|| read().trim().to_owned()).clone()
}

/// What most files of `/proc` fit into, in bytes.
const USUAL: usize = 4096;

/// Reads a file of `/proc`. They say that they are empty, so the standard library, which asks them,
/// would begin with 32 bytes and come to the end in many steps.
///
/// # Errors
///
/// Those of `open(2)` and `read(2)`; `InvalidData` if it is not UTF-8.
pub fn read_proc(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL);
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}
