//! Extended attributes: which belong to the format, which to the user.
//!
//! An overlay inside, whose upper directory lies in ours, writes attributes with the same names. They go to
//! disk under other ones, those of kernel overlayfs where it has such, so that they mean nothing to us.

use std::borrow::Cow;
use std::ffi::CStr;

/// Attributes of overlayfs' format start with one of these. Those of an overlay inside have
/// [`NESTED`] after that.
const OVERLAYFS: [&[u8]; 2] = [b"user.overlay.", b"trusted.overlay."];
/// See [`OVERLAYFS`].
///
/// Source: Linux `fs/overlayfs/overlayfs.h`, `OVL_XATTR_ESCAPE_PREFIX`.
const NESTED: &[u8] = b"overlay.";
/// Those of containers/storage and fuse-overlayfs. Those that an overlay inside writes have
/// [`INSIDE`] before that.
const OTHERS: [&[u8]; 2] = [b"user.containers.", b"user.fuseoverlayfs."];
/// See [`OTHERS`].
const INSIDE: &[u8] = b"user.overlay.rrun.inside.";
/// On an empty regular file: to the inside it is a character device 0:0, the whiteout of an overlay
/// there.
pub(crate) const WHITEOUT: &CStr = c"user.overlay.rrun.whiteout";
/// On a directory: such files may be in it; on the topmost one of a layer: somewhere in the layer.
pub(crate) const WHITEOUTS: &CStr = c"user.overlay.rrun.whiteouts";
/// File capabilities, the one attribute of the security modules that belongs to the file.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// What new entries of a directory get as their access control list.
pub(crate) const DEFAULT_ACL: &CStr = c"system.posix_acl_default";
/// The access control list itself.
pub(crate) const ACCESS_ACL: &CStr = c"system.posix_acl_access";

/// The name on disk of what the inside calls `name`.
pub(crate) fn on_disk(name: &[u8]) -> Cow<'_, [u8]> {
    for prefix in OVERLAYFS {
        if let Some(rest) = name.strip_prefix(prefix) {
            return Cow::Owned([prefix, NESTED, rest].concat());
        }
    }
    if OTHERS.iter().any(|prefix| name.starts_with(prefix)) {
        return Cow::Owned([INSIDE, name].concat());
    }
    Cow::Borrowed(name)
}

/// What the inside calls the attribute `name` on disk; `None` if it belongs to the format.
pub(crate) fn shown(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    for prefix in OVERLAYFS {
        if let Some(rest) = name.strip_prefix(prefix) {
            if let Some(rest) = rest.strip_prefix(NESTED) {
                return Some(Cow::Owned([prefix, rest].concat()));
            }
            let inside = name.strip_prefix(INSIDE)?;
            return OTHERS.iter().any(|p| inside.starts_with(p)).then_some(Cow::Borrowed(inside));
        }
    }
    let is_private = OTHERS.iter().any(|prefix| name.starts_with(prefix));
    (!is_private).then_some(Cow::Borrowed(name))
}

/// Whether the attribute means something to an overlay, ours or one inside: no archive may set it.
#[must_use]
pub fn is_reserved(name: &[u8]) -> bool {
    OVERLAYFS.iter().chain(&OTHERS).any(|prefix| name.starts_with(prefix))
}

/// Whether copying a file up copies this attribute. Labels of security modules are theirs to
/// give; attributes of the format describe the layer they lie in.
pub(crate) fn is_copied(name: &[u8]) -> bool {
    let is_label = name.starts_with(b"security.") && name != CAPABILITY;
    let is_whiteout = name == WHITEOUT.to_bytes() || name == WHITEOUTS.to_bytes();
    is_whiteout || (shown(name).is_some() && !is_label)
}

/// The names in a list as the kernel returns it, each ended by a NUL byte.
pub(crate) fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

/// The list as the inside sees it, without the names that belong to the format.
pub(crate) fn visible(list: &[u8]) -> Vec<u8> {
    let mut visible = Vec::with_capacity(list.len());
    for name in names(list).filter_map(shown) {
        visible.extend_from_slice(&name);
        visible.push(0);
    }
    visible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_keeps_its_attributes_to_itself() {
        for (name, seen, copied) in [
            ("user.overlay.opaque", None, false),
            ("trusted.overlay.origin", None, false),
            ("user.containers.override_stat", None, false),
            ("user.fuseoverlayfs.opaque", None, false),
            ("user.overlay", Some("user.overlay"), true),
            ("user.comment", Some("user.comment"), true),
            ("security.capability", Some("security.capability"), true),
            ("security.selinux", Some("security.selinux"), false),
            ("system.posix_acl_access", Some("system.posix_acl_access"), true),
            ("user.overlay.overlay.opaque", Some("user.overlay.opaque"), true),
            ("trusted.overlay.overlay.overlay.x", Some("trusted.overlay.overlay.x"), true),
            ("user.overlay.rrun.inside.user.containers.x", Some("user.containers.x"), true),
            ("user.overlay.rrun.inside.user.comment", None, false),
            ("user.overlay.rrun.whiteout", None, true),
        ] {
            let found = shown(name.as_bytes());
            assert_eq!(found.as_deref(), seen.map(str::as_bytes), "{name}");
            assert_eq!(is_copied(name.as_bytes()), copied, "{name}");
        }
    }

    #[test]
    fn every_name_of_the_inside_comes_back() {
        for name in [
            "user.comment",
            "user.overlay.opaque",
            "user.overlay.overlay.opaque",
            "user.overlay.rrun.inside.user.containers.x",
            "user.overlay.rrun.whiteout",
            "trusted.overlay.redirect",
            "user.containers.override_stat",
            "user.fuseoverlayfs.origin",
        ] {
            let disk = on_disk(name.as_bytes());
            assert_eq!(shown(&disk).as_deref(), Some(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn lists_lose_private_names_only() {
        let list = b"user.a\0user.overlay.opaque\0security.capability\0user.overlay.overlay.x\0";
        assert_eq!(visible(list), b"user.a\0security.capability\0user.overlay.x\0");
        assert_eq!(visible(b""), b"");
    }
}
