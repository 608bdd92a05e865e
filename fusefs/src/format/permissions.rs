//! Owner and permissions in an attribute, where they are not to lie on disk.

use std::ffi::CStr;

/// Under which names fuse-overlayfs (for real root, for users) and containers/storage keep them.
pub(crate) const PRIVILEGED: &CStr = c"security.fuseoverlayfs.override_stat";
/// See [`PRIVILEGED`].
pub(crate) const USER: &CStr = c"user.fuseoverlayfs.override_stat";
/// Under which name containers/storage keeps owner and permissions.
pub const CONTAINERS: &CStr = c"user.containers.override_stat";
/// All of them, in the order in which fuse-overlayfs looks for one on the topmost directory.
pub(crate) const ATTRIBUTES: [&CStr; 3] = [PRIVILEGED, USER, CONTAINERS];

/// Who may do what with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Permission bits and those above them, without the type.
    pub(crate) mode: u32,
}

impl Permissions {
    /// Reads `UID:GID:MODE`, the mode in octal; what follows, a type in newer layers, is left to the
    /// object itself. `None` if it is broken.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(value).ok()?.trim_end_matches('\0').split(':');
        // Written by `%d`: ids beyond 2³¹ look negative.
        let id = |text: &str| {
            text.parse::<i64>().ok().and_then(|id| match id {
                id if id < 0 => i32::try_from(id).ok().map(i32::cast_unsigned),
                id => u32::try_from(id).ok(),
            })
        };
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
        Some(Self { uid, gid, mode: mode & 0o7777 })
    }

    /// Writes it, for an object of the type `kind`, a mode's bits: fuse-overlayfs writes them too.
    pub(crate) fn format(self, kind: u32) -> String {
        format!("{}:{}:{:o}", self.uid, self.gid, kind | self.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_back() {
        let some = |uid, gid, mode| Some(Permissions { uid, gid, mode });
        for (text, expected) in [
            ("0:0:755", some(0, 0, 0o755)),
            ("1000:100:100644", some(1000, 100, 0o644)),
            ("1:2:04755", some(1, 2, 0o4755)),
            ("1:2:0644:block-8-1", some(1, 2, 0o644)),
            ("1:2:644\0", some(1, 2, 0o644)),
            ("-2:4294967294:600", some(u32::MAX - 1, u32::MAX - 1, 0o600)),
            ("1:2", None),
            ("1:2:888", None),
            ("a:2:644", None),
            ("1:4294967296:644", None),
            ("", None),
        ] {
            assert_eq!(Permissions::parse(text.as_bytes()), expected, "{text:?}");
        }
        let permissions = Permissions { uid: 7, gid: 8, mode: 0o4755 };
        let text = permissions.format(libc::S_IFREG);
        assert_eq!(text, "7:8:104755");
        assert_eq!(Permissions::parse(text.as_bytes()), Some(permissions));
    }
}
