//! Stages for tests: layers, identities, mounts.

pub(crate) mod acl;
mod checksum;
pub(crate) mod fork;
mod identity;
mod layers;
pub(crate) mod look;
mod map;
mod mounted;
mod text;
pub(crate) mod watch;
pub(crate) mod xattr;

pub(crate) use checksum::checksum;
pub(crate) use fork::{child, succeeded};
pub(crate) use identity::{Identity, everywhere, in_user_namespace};
pub(crate) use layers::{Layers, names, without_devices};
pub(crate) use map::Map;
pub(crate) use mounted::Mounted;
pub(crate) use text::tree_text;
