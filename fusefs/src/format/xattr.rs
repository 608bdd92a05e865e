//! Extended attributes: which belong to the format, which to the user.

use std::ffi::CStr;

/// Attributes of the format start with one of these. The inside neither sees nor sets them.
const PRIVATE: [&[u8]; 4] =
    [b"user.overlay.", b"trusted.overlay.", b"user.containers.", b"user.fuseoverlayfs."];
/// File capabilities, the one attribute of the security modules that belongs to the file.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// What new entries of a directory get as their access control list.
pub(crate) const DEFAULT_ACL: &CStr = c"system.posix_acl_default";
/// The access control list itself.
pub(crate) const ACCESS_ACL: &CStr = c"system.posix_acl_access";

/// Whether the attribute belongs to the format.
pub(crate) fn is_private(name: &[u8]) -> bool {
    PRIVATE.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether copying a file up copies this attribute. Labels of security modules are theirs to
/// give; attributes of the format describe the layer they lie in.
pub(crate) fn is_copied(name: &[u8]) -> bool {
    !is_private(name) && (!name.starts_with(b"security.") || name == CAPABILITY)
}

/// The names in a list as the kernel returns it, each ended by a NUL byte.
pub(crate) fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

/// The list without the names that belong to the format.
pub(crate) fn visible(list: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(list.len());
    for name in names(list).filter(|name| !is_private(name)) {
        shown.extend_from_slice(name);
        shown.push(0);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_keeps_its_attributes_to_itself() {
        for (name, private, copied) in [
            ("user.overlay.opaque", true, false),
            ("trusted.overlay.origin", true, false),
            ("user.containers.override_stat", true, false),
            ("user.fuseoverlayfs.opaque", true, false),
            ("user.overlay", false, true),
            ("user.comment", false, true),
            ("security.capability", false, true),
            ("security.selinux", false, false),
            ("system.posix_acl_access", false, true),
        ] {
            assert_eq!(is_private(name.as_bytes()), private, "{name}");
            assert_eq!(is_copied(name.as_bytes()), copied, "{name}");
        }
    }

    #[test]
    fn lists_lose_private_names_only() {
        let list = b"user.a\0user.overlay.opaque\0security.capability\0";
        assert_eq!(visible(list), b"user.a\0security.capability\0");
        assert_eq!(visible(b""), b"");
    }
}
