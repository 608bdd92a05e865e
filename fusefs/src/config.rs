//! What to merge: layers, upper and work directory, options.

use std::path::PathBuf;
use std::time::Duration;

use crate::ids::IdMap;

/// The layers of an overlay and how it behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The read-only layers, topmost first; at least one.
    pub lowerdirs: Vec<PathBuf>,
    /// Where changes go. Without it the tree is read-only.
    pub upperdir: Option<PathBuf>,
    /// An empty directory on the same mount as `upperdir`, and required with it.
    pub workdir: Option<PathBuf>,
    /// Whether the kernel gathers writes before it sends them. Small and random writes gain;
    /// large streams lose, and a stat after a write asks the server again.
    pub writeback: bool,
    /// Whether directories of lower layers can be renamed: the upper directory then says where they
    /// come from, which kernel overlayfs with `userxattr` refuses to follow (`EPERM`), and of which
    /// fuse-overlayfs knows nothing. Without, they are `EXDEV`, and mv(1) copies.
    pub redirect_dir: bool,
    /// Where owners and permissions of the upper directory lie.
    pub permissions: PermissionsKept,
    /// How users on disk are shown.
    pub users: IdMap,
    /// How groups on disk are shown.
    pub groups: IdMap,
    /// Whether there are access control lists.
    pub acl: bool,
    /// Whether there are extended attributes.
    pub xattrs: bool,
    /// Whether fsync(2) means anything. Without, a machine that stops may lose what was synced.
    pub fsync: bool,
    /// Whether every directory has one link, which means "unknown"; else those of the upper directory
    /// alone have the right number.
    pub static_nlink: bool,
    /// Whether inode numbers are cut to 32 bits, for programs that know no longer ones; then two files
    /// may have the same.
    pub short_numbers: bool,
    /// How long the kernel may believe what it was told; `None` for ever. Only if somebody else changes
    /// the layers, which is not meant to be, is there anything to learn.
    pub timeout: Option<Duration>,
}

/// Where owners and permissions lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionsKept {
    /// On disk.
    OnDisk,
    /// On disk, but for set-id bits: those of files lie in `user.containers.override_stat`, so that
    /// nobody outside can make use of them.
    WithoutSetId,
    /// In `security.fuseoverlayfs.override_stat`, which real root alone may set.
    Privileged,
    /// In `user.fuseoverlayfs.override_stat`.
    User,
    /// In `user.containers.override_stat`.
    Containers,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lowerdirs: Vec::new(),
            upperdir: None,
            workdir: None,
            writeback: false,
            redirect_dir: true,
            permissions: PermissionsKept::WithoutSetId,
            users: IdMap::default(),
            groups: IdMap::default(),
            acl: true,
            xattrs: true,
            fsync: true,
            static_nlink: false,
            short_numbers: false,
            timeout: None,
        }
    }
}
