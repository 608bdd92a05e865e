//! Marks that a name of the layers below is gone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What the name of a marker file starts with, in image layers and on file systems that refuse
/// device nodes.
const PREFIX: &[u8] = b".wh.";
/// The marker file that makes its directory opaque.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs' own files start with; layers that it made still carry some.
const INTERNAL: &[u8] = b".wh..wh.";

/// What a name in a layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker<'a> {
    /// An ordinary name.
    None,
    /// The name that is gone.
    Whiteout(&'a OsStr),
    /// The directory hides all layers below.
    Opaque,
    /// Nothing for us; never shown.
    Internal,
}

/// Reads a name of a layer.
#[must_use]
pub fn marker(name: &OsStr) -> Marker<'_> {
    let bytes = name.as_bytes();
    if bytes == OPAQUE {
        return Marker::Opaque;
    }
    match bytes.strip_prefix(PREFIX) {
        None => Marker::None,
        Some(_) if bytes.starts_with(INTERNAL) => Marker::Internal,
        Some(b"" | b"." | b"..") => Marker::Internal,
        Some(gone) => Marker::Whiteout(OsStr::from_bytes(gone)),
    }
}

/// The name of the marker file that hides `name`.
#[must_use]
pub fn marker_for(name: &OsStr) -> OsString {
    let mut marker = OsString::from(OsStr::from_bytes(PREFIX));
    marker.push(name);
    marker
}

/// Whether names that start like this one belong to the format, so that nobody may make them.
pub(crate) fn reserved(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX)
}

/// Whether a file of this mode and device number is a whiteout: a character device 0:0.
#[must_use]
pub fn is_whiteout(mode: u32, device: u64) -> bool {
    mode & libc::S_IFMT == libc::S_IFCHR && device == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_image_layers_mean_them() {
        for (name, expected) in [
            ("file", Marker::None),
            (".wh", Marker::None),
            ("a.wh.b", Marker::None),
            (".wh.gone", Marker::Whiteout(OsStr::new("gone"))),
            (".wh..hidden", Marker::Whiteout(OsStr::new(".hidden"))),
            (".wh..wh..opq", Marker::Opaque),
            (".wh..wh.plnk", Marker::Internal),
            (".wh.", Marker::Internal),
            (".wh..", Marker::Internal),
            (".wh...", Marker::Internal),
        ] {
            assert_eq!(marker(OsStr::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_marker_reads_back_as_the_name_it_hides() {
        let hidden = OsStr::from_bytes(b"\xff odd \n");
        assert_eq!(marker(&marker_for(hidden)), Marker::Whiteout(hidden));
    }
}
