//! A copy-on-write file system: read-only layers and one writable directory, merged into one
//! tree and served through FUSE by an unprivileged process.
//!
//! ```text
//! /dev/fuse ──► session  receives requests, decodes them, encodes replies
//!               ops      asks the tree
//!               tree     the merged tree: plain arguments, Result<_, Errno>
//!               inode    what the kernel knows: node ids, nodes, descriptors
//!               layer    reads one layer beneath directory descriptors; merges directories
//!               upper    the only place that writes: staging, copy-up, whiteouts
//!               format   what lies on disk, as bytes
//! ```
//!
//! Whoever mounts calls [`Overlay::open`], [`open_device`], [`mount_detached`] and, in a process
//! of its own, [`serve`]. The layers must not change underneath: the kernel is told to remember
//! everything for ever.
//!
//! # Locks
//!
//! 1. `Tree::copying`: one copy-up at a time; held while data is copied.
//! 2. `Tree::state`: nodes, listings, descriptors; held while names and metadata are read or
//!    changed on a layer, never while contents are.
//! 3. `Index::known`: a map; nothing else happens under it.
//!
//! A lock is taken only while those with larger numbers are free.

mod awake;
mod config;
mod device;
mod format;
mod ids;
mod inode;
mod layer;
mod ops;
mod options;
mod overlay;
mod serve;
mod session;
mod sys;
pub mod tree;
mod upper;
mod view;

pub use config::{Config, PermissionsKept};
pub use device::{MountOptions, attach, mount_detached, mount_detached_with, open_device};
pub use ids::{IdMap, IdRange};
pub use options::{ConfigError, Options};
pub use overlay::{OpenError, Overlay};
pub use serve::serve;

/// How layers say on disk what a plain directory cannot, for those who write them.
pub mod marks {
    pub use crate::format::opaque::{ATTRIBUTE as OPAQUE, VALUE as OPAQUE_VALUE};
    pub use crate::format::permissions::CONTAINERS as PERMISSIONS;
    pub use crate::format::whiteout::{
        Marker, OPAQUE as OPAQUE_MARKER, is_whiteout, marker, marker_for,
    };
    pub use crate::format::xattr::is_reserved;
}
