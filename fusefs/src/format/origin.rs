//! Names of the inodes of lower layers, for the index of copied-up hard links.

use std::ffi::{CStr, OsString};
use std::fmt::Write as _;

/// How many names the merged tree has for an indexed file, as the difference to the number of
/// links of the file in the upper directory.
pub(crate) const LINKS_ATTRIBUTE: &CStr = c"user.overlay.nlink";

/// The name in the index of a lower file: file system, handle type, handle bytes, in hexadecimal.
///
/// Nothing of it changes with the order of layers, a remount or a reboot.
pub(crate) fn index_name(file_system: u64, kind: i32, handle: &[u8]) -> OsString {
    let mut name = format!("{file_system:016x}{kind:08x}");
    for byte in handle {
        // Writing to a String cannot fail.
        let _infallible = write!(name, "{byte:02x}");
    }
    name.into()
}

/// Reads the value of [`LINKS_ATTRIBUTE`], for example `U-1`.
pub(crate) fn parse_links(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.strip_prefix('U')?.parse().ok()
}

/// Writes the value of [`LINKS_ATTRIBUTE`], in overlayfs' form relative to the upper file.
pub(crate) fn format_links(difference: i64) -> String {
    format!("U{difference:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_inodes_apart() {
        assert_eq!(index_name(0x1a, 1, &[0, 0xff]), "000000000000001a0000000100ff");
        assert_ne!(index_name(1, 1, &[2]), index_name(1, 2, &[1]));
    }

    #[test]
    fn link_counts_read_back() {
        for difference in [0, 1, -1, 70_000] {
            assert_eq!(parse_links(format_links(difference).as_bytes()), Some(difference));
        }
        for broken in ["", "U", "1", "L+1", "U1x", "U+99999999999999999999"] {
            assert_eq!(parse_links(broken.as_bytes()), None, "{broken:?}");
        }
    }
}
