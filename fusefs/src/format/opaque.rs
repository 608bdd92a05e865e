//! Directories that hide everything beneath them.

use std::ffi::CStr;

/// The attribute that this crate writes.
pub const ATTRIBUTE: &CStr = c"user.overlay.opaque";
/// The attributes that are honoured: ours, that of overlayfs mounted by real root, and
/// fuse-overlayfs's.
pub(crate) const ATTRIBUTES: [&CStr; 3] =
    [ATTRIBUTE, c"trusted.overlay.opaque", c"user.fuseoverlayfs.opaque"];
/// The value that means opaque (`x` means something else since Linux 6.7).
pub const VALUE: &[u8] = b"y";

/// Whether an attribute of one of [`ATTRIBUTES`]' names with this value hides the layers below.
pub(crate) fn hides(value: &[u8]) -> bool {
    value == VALUE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_y_hides() {
        for (value, expected) in [(&b"y"[..], true), (b"x", false), (b"", false), (b"yy", false)] {
            assert_eq!(hides(value), expected, "{value:?}");
        }
    }
}
