//! The names that `mounts[].options` may hold: one table, shared by the check, the plan of the
//! mounts and `rrun features`.
//!
//! Source: runtime-spec 1.3 `config.md`, "Linux mount options"; values from Linux
//! `include/uapi/linux/mount.h`.

/// What one mount option asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountOption {
    /// Sets or clears these `MS_*` flags of the mount, or of its file system.
    Flag {
        /// Bits of [`ms`]; 0 for `defaults`.
        ms: u64,
        /// Whether the flags are to be taken away.
        clear: bool,
    },
    /// Sets or clears this attribute on the mount and on every mount below it, as
    /// `mount_setattr(2)` does with `AT_RECURSIVE`.
    RecursiveAttr {
        /// A bit of [`attr`], or one value of the field [`attr::ATIME`], which is 0 for `rrelatime`:
        /// whoever sets such a value clears the field first.
        attr: u64,
        /// Whether the attribute is to be taken away.
        clear: bool,
    },
    /// Changes the propagation: one of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` and `MS_UNBINDABLE`,
    /// with `MS_REC` for the names that begin with `r`.
    Propagation(u64),
    /// Binds the source instead of mounting a file system.
    Bind {
        /// Whether the mounts below the source come along.
        recursive: bool,
    },
    /// Work of the runtime itself, which the kernel has no flag for; the name without a value.
    Extension(&'static str),
    /// Handed to the file system as it stands: `size=64k`, `newinstance`, `lowerdir=…`.
    Data,
}

/// Flags of `mount(2)`.
pub mod ms {
    /// `MS_RDONLY`
    pub const RDONLY: u64 = 1;
    /// `MS_NOSUID`
    pub const NOSUID: u64 = 1 << 1;
    /// `MS_NODEV`
    pub const NODEV: u64 = 1 << 2;
    /// `MS_NOEXEC`
    pub const NOEXEC: u64 = 1 << 3;
    /// `MS_SYNCHRONOUS`, of the file system
    pub const SYNCHRONOUS: u64 = 1 << 4;
    /// `MS_REMOUNT`
    pub const REMOUNT: u64 = 1 << 5;
    /// `MS_MANDLOCK`, of the file system
    pub const MANDLOCK: u64 = 1 << 6;
    /// `MS_DIRSYNC`, of the file system
    pub const DIRSYNC: u64 = 1 << 7;
    /// `MS_NOSYMFOLLOW`, since Linux 5.10
    pub const NOSYMFOLLOW: u64 = 1 << 8;
    /// `MS_NOATIME`
    pub const NOATIME: u64 = 1 << 10;
    /// `MS_NODIRATIME`
    pub const NODIRATIME: u64 = 1 << 11;
    /// `MS_REC`
    pub const REC: u64 = 1 << 14;
    /// `MS_SILENT`, of the file system
    pub const SILENT: u64 = 1 << 15;
    /// `MS_UNBINDABLE`
    pub const UNBINDABLE: u64 = 1 << 17;
    /// `MS_PRIVATE`
    pub const PRIVATE: u64 = 1 << 18;
    /// `MS_SLAVE`
    pub const SLAVE: u64 = 1 << 19;
    /// `MS_SHARED`
    pub const SHARED: u64 = 1 << 20;
    /// `MS_RELATIME`
    pub const RELATIME: u64 = 1 << 21;
    /// `MS_I_VERSION`, of the file system
    pub const I_VERSION: u64 = 1 << 23;
    /// `MS_STRICTATIME`
    pub const STRICTATIME: u64 = 1 << 24;
    /// `MS_LAZYTIME`, of the file system
    pub const LAZYTIME: u64 = 1 << 25;
}

/// Attributes of `mount_setattr(2)`.
pub mod attr {
    /// `MOUNT_ATTR_RDONLY`
    pub const RDONLY: u64 = 1;
    /// `MOUNT_ATTR_NOSUID`
    pub const NOSUID: u64 = 1 << 1;
    /// `MOUNT_ATTR_NODEV`
    pub const NODEV: u64 = 1 << 2;
    /// `MOUNT_ATTR_NOEXEC`
    pub const NOEXEC: u64 = 1 << 3;
    /// `MOUNT_ATTR__ATIME`: the field that holds one of the next three
    pub const ATIME: u64 = 0x70;
    /// `MOUNT_ATTR_RELATIME`
    pub const RELATIME: u64 = 0;
    /// `MOUNT_ATTR_NOATIME`
    pub const NOATIME: u64 = 0x10;
    /// `MOUNT_ATTR_STRICTATIME`
    pub const STRICTATIME: u64 = 0x20;
    /// `MOUNT_ATTR_NODIRATIME`
    pub const NODIRATIME: u64 = 0x80;
    /// `MOUNT_ATTR_NOSYMFOLLOW`, since Linux 5.14
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// What the option `name` asks for; whatever the table does not know is data for the file system.
///
/// `None` if `name` cannot be an option at all: it is empty, has no key before its `=`, or holds
/// a NUL byte.
///
/// ```
/// use rrun_spec::mount_options::{MountOption, mount_option, ms};
///
/// assert_eq!(mount_option("ro"), Some(MountOption::Flag { ms: ms::RDONLY, clear: false }));
/// assert_eq!(mount_option("size=64k"), Some(MountOption::Data));
/// assert_eq!(mount_option(""), None);
/// ```
#[must_use]
pub fn mount_option(name: &str) -> Option<MountOption> {
    if let Some(option) = in_table(name) {
        return Some(option);
    }
    let key = key(name);
    if key.is_empty() || name.contains('\0') {
        return None;
    }
    // crun writes the mapping behind the name: `idmap=uids=0-1000-1`.
    match in_table(key) {
        Some(extension @ MountOption::Extension("idmap" | "ridmap")) => Some(extension),
        _ => Some(MountOption::Data),
    }
}

/// The part of an option before its `=`.
#[must_use]
pub fn key(option: &str) -> &str {
    option.split_once('=').map_or(option, |(key, _value)| key)
}

/// The names of all options that are not data of a file system, sorted, as `rrun features` lists them.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

fn in_table(name: &str) -> Option<MountOption> {
    let at = TABLE.binary_search_by_key(&name, |(known, _)| known).ok()?;
    TABLE.get(at).map(|(_, option)| *option)
}

const fn set(ms: u64) -> MountOption {
    MountOption::Flag { ms, clear: false }
}

const fn clear(ms: u64) -> MountOption {
    MountOption::Flag { ms, clear: true }
}

const fn set_below(attr: u64) -> MountOption {
    MountOption::RecursiveAttr { attr, clear: false }
}

const fn clear_below(attr: u64) -> MountOption {
    MountOption::RecursiveAttr { attr, clear: true }
}

/// Sorted by name.
const TABLE: &[(&str, MountOption)] = &[
    ("async", clear(ms::SYNCHRONOUS)),
    ("atime", clear(ms::NOATIME)),
    ("bind", MountOption::Bind { recursive: false }),
    ("copy-symlink", MountOption::Extension("copy-symlink")),
    ("defaults", set(0)),
    ("dest-nofollow", MountOption::Extension("dest-nofollow")),
    ("dev", clear(ms::NODEV)),
    ("diratime", clear(ms::NODIRATIME)),
    ("dirsync", set(ms::DIRSYNC)),
    ("exec", clear(ms::NOEXEC)),
    ("idmap", MountOption::Extension("idmap")),
    ("iversion", set(ms::I_VERSION)),
    ("lazytime", set(ms::LAZYTIME)),
    ("loud", clear(ms::SILENT)),
    ("mand", set(ms::MANDLOCK)),
    ("noatime", set(ms::NOATIME)),
    ("nodev", set(ms::NODEV)),
    ("nodiratime", set(ms::NODIRATIME)),
    ("noexec", set(ms::NOEXEC)),
    ("noiversion", clear(ms::I_VERSION)),
    ("nolazytime", clear(ms::LAZYTIME)),
    ("nomand", clear(ms::MANDLOCK)),
    ("norelatime", clear(ms::RELATIME)),
    ("nostrictatime", clear(ms::STRICTATIME)),
    ("nosuid", set(ms::NOSUID)),
    ("nosymfollow", set(ms::NOSYMFOLLOW)),
    ("private", MountOption::Propagation(ms::PRIVATE)),
    ("ratime", clear_below(attr::NOATIME)),
    ("rbind", MountOption::Bind { recursive: true }),
    ("rdev", clear_below(attr::NODEV)),
    ("rdiratime", clear_below(attr::NODIRATIME)),
    ("relatime", set(ms::RELATIME)),
    ("remount", set(ms::REMOUNT)),
    ("rexec", clear_below(attr::NOEXEC)),
    ("ridmap", MountOption::Extension("ridmap")),
    ("rnoatime", set_below(attr::NOATIME)),
    ("rnodev", set_below(attr::NODEV)),
    ("rnodiratime", set_below(attr::NODIRATIME)),
    ("rnoexec", set_below(attr::NOEXEC)),
    ("rnorelatime", clear_below(attr::RELATIME)),
    ("rnostrictatime", clear_below(attr::STRICTATIME)),
    ("rnosuid", set_below(attr::NOSUID)),
    ("rnosymfollow", set_below(attr::NOSYMFOLLOW)),
    ("ro", set(ms::RDONLY)),
    ("rprivate", MountOption::Propagation(ms::PRIVATE | ms::REC)),
    ("rrelatime", set_below(attr::RELATIME)),
    ("rro", set_below(attr::RDONLY)),
    ("rrw", clear_below(attr::RDONLY)),
    ("rshared", MountOption::Propagation(ms::SHARED | ms::REC)),
    ("rslave", MountOption::Propagation(ms::SLAVE | ms::REC)),
    ("rstrictatime", set_below(attr::STRICTATIME)),
    ("rsuid", clear_below(attr::NOSUID)),
    ("rsymfollow", clear_below(attr::NOSYMFOLLOW)),
    ("runbindable", MountOption::Propagation(ms::UNBINDABLE | ms::REC)),
    ("rw", clear(ms::RDONLY)),
    ("shared", MountOption::Propagation(ms::SHARED)),
    ("silent", set(ms::SILENT)),
    ("slave", MountOption::Propagation(ms::SLAVE)),
    ("src-nofollow", MountOption::Extension("src-nofollow")),
    ("strictatime", set(ms::STRICTATIME)),
    ("suid", clear(ms::NOSUID)),
    ("symfollow", clear(ms::NOSYMFOLLOW)),
    ("sync", set(ms::SYNCHRONOUS)),
    ("tmpcopyup", MountOption::Extension("tmpcopyup")),
    ("unbindable", MountOption::Propagation(ms::UNBINDABLE)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn every_kind_of_name_is_told_apart() {
        for (name, expected) in [
            ("ro", Some(set(1))),
            ("rw", Some(clear(1))),
            ("defaults", Some(set(0))),
            ("strictatime", Some(set(1 << 24))),
            ("rro", Some(set_below(1))),
            ("rrelatime", Some(set_below(0))),
            ("rsymfollow", Some(clear_below(0x20_0000))),
            ("rslave", Some(MountOption::Propagation((1 << 19) | (1 << 14)))),
            ("rbind", Some(MountOption::Bind { recursive: true })),
            ("bind", Some(MountOption::Bind { recursive: false })),
            ("tmpcopyup", Some(MountOption::Extension("tmpcopyup"))),
            ("idmap=uids=0-1000-1", Some(MountOption::Extension("idmap"))),
            ("size=64k", Some(MountOption::Data)),
            ("newinstance", Some(MountOption::Data)),
            // mount(2) has a flag for it, but file systems take the word.
            ("noacl", Some(MountOption::Data)),
            ("ro=1", Some(MountOption::Data)),
            ("", None),
            ("=64k", None),
            ("size=\0", None),
        ] {
            assert_eq!(mount_option(name), expected, "{name:?}");
        }
    }

    #[test]
    fn every_name_is_listed() {
        let names: Vec<_> = names().collect();
        for name in ["rbind", "rnosymfollow", "idmap", "remount", "copy-symlink", "iversion"] {
            assert!(names.contains(&name), "{name}");
        }
    }
}
