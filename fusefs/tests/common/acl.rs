//! Access control lists as the kernel stores them.

use std::path::Path;

use super::xattr;

/// Tags of entries that have no id.
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// Tag of an entry for one user.
const USER: u16 = 0x02;
const NO_ID: u32 = u32::MAX;

/// A list that gives `user` the permissions `granted`, and everybody else what `mode` says.
pub(crate) fn list(mode: u16, user: u32, granted: u16) -> Vec<u8> {
    let entries = [
        (USER_OBJ, mode >> 6 & 7, NO_ID),
        (USER, granted, user),
        (GROUP_OBJ, mode >> 3 & 7, NO_ID),
        (MASK, 7, NO_ID),
        (OTHER, mode & 7, NO_ID),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Sets the list of `path` itself.
pub(crate) fn set_access(path: &Path, list: &[u8]) {
    xattr::set(path, "system.posix_acl_access", list).unwrap();
}

/// Sets the list that new entries of `path` get.
pub(crate) fn set_default(path: &Path, list: &[u8]) {
    xattr::set(path, "system.posix_acl_default", list).unwrap();
}
