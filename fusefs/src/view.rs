//! How the mount shows what the tree has: owners, numbers, and what it leaves out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::unistd::{getegid, geteuid};

use crate::config::Config;
use crate::ids::IdMap;
use crate::tree::{Asker, Attr, Changes};

/// What a mount shows differently.
#[derive(Clone, Debug)]
pub(crate) struct View {
    users: IdMap,
    groups: IdMap,
    static_nlink: bool,
    short_numbers: bool,
    /// Whether there are access control lists.
    pub(crate) acl: bool,
    /// Whether there are extended attributes.
    pub(crate) xattrs: bool,
    /// Whether fsync(2) means anything.
    pub(crate) fsync: bool,
    /// How long the kernel may believe what it was told; `None` for ever.
    pub(crate) timeout: Option<Duration>,
}

impl View {
    /// What `config` asks for.
    pub(crate) fn of(config: &Config) -> Self {
        let Config { acl, xattrs, fsync, static_nlink, short_numbers, timeout, .. } = *config;
        let (users, groups) = (config.users.clone(), config.groups.clone());
        Self { users, groups, static_nlink, short_numbers, acl, xattrs, fsync, timeout }
    }

    /// The metadata as it is shown.
    pub(crate) fn shown(&self, mut attr: Attr) -> Attr {
        attr.uid = self.users.shown(attr.uid);
        attr.gid = self.groups.shown(attr.gid);
        attr.number = self.number(attr.number);
        if self.static_nlink && attr.is_folder() {
            attr.links = 1;
        }
        attr
    }

    /// The inode number as it is shown; never 0, which readers of directories take for no entry.
    pub(crate) fn number(&self, number: u64) -> u64 {
        let short = number & u64::from(u32::MAX);
        if self.short_numbers { short.max(1) } else { number }
    }

    /// Whether the attribute `name` is one of those that are left out.
    pub(crate) fn lacks(&self, name: &OsStr) -> bool {
        !self.acl && name.as_bytes().starts_with(b"system.posix_acl_")
    }

    /// A list of names, each ended by a NUL byte, without those.
    pub(crate) fn listed(&self, list: Vec<u8>) -> Vec<u8> {
        if self.acl {
            return list;
        }
        let names = list.split_inclusive(|byte| *byte == 0);
        names.filter(|name| !self.lacks(OsStr::from_bytes(name))).flatten().copied().collect()
    }

    /// On whose behalf something is made on disk. Where all are shown as one, it belongs to us.
    pub(crate) fn asker(&self, asker: Asker) -> Asker {
        let (users, groups) = (&self.users, &self.groups);
        let uid = users.squash.map_or_else(|| users.disk(asker.uid), |_all| geteuid().as_raw());
        let gid = groups.squash.map_or_else(|| groups.disk(asker.gid), |_all| getegid().as_raw());
        Asker { uid, gid, ..asker }
    }

    /// The changes on disk. Where all are shown as one, nobody else can be given anything, and asking
    /// for it is no error, as in fuse-overlayfs.
    pub(crate) fn changes(&self, mut changes: Changes) -> Changes {
        let (users, groups) = (&self.users, &self.groups);
        changes.uid = changes.uid.filter(|_| users.squash.is_none()).map(|id| users.disk(id));
        changes.gid = changes.gid.filter(|_| groups.squash.is_none()).map(|id| groups.disk(id));
        changes
    }
}
