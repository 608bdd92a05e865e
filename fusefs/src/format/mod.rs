//! What lies on disk: bytes ↔ types, no input or output.
//!
//! The form is the one of kernel overlayfs with `userxattr`, so that it, fuse-overlayfs and this
//! crate read each other's upper directories; image layers' `.wh.` markers are understood too.

pub(crate) mod opaque;
pub(crate) mod origin;
pub(crate) mod partial;
pub(crate) mod permissions;
pub(crate) mod redirect;
pub(crate) mod whiteout;
pub(crate) mod xattr;
