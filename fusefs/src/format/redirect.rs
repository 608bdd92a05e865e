//! Directories whose lower part lies under another name.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The attribute that this crate writes.
pub(crate) const ATTRIBUTE: &CStr = c"user.overlay.redirect";
/// The attributes that are honoured: ours, and that of overlayfs mounted by real root.
pub(crate) const ATTRIBUTES: [&CStr; 2] = [ATTRIBUTE, c"trusted.overlay.redirect"];
/// Longest value, in bytes; nothing beyond it could be a path of the layer (`PATH_MAX`).
const LONGEST: usize = 4095;

/// Where the layers below keep a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// Under this name in the same parent.
    Sibling(Arc<OsStr>),
    /// At these components from the root of each layer.
    FromRoot(Vec<Arc<OsStr>>),
}

/// Reads the value of the attribute. `None` if it is empty, too long or leads outside: hostile or
/// broken.
///
/// Source: Linux `fs/overlayfs/namei.c`, `ovl_check_redirect()`.
pub(crate) fn parse(value: &[u8]) -> Option<Redirect> {
    let name = |bytes: &[u8]| {
        let legal = !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&0);
        legal.then(|| Arc::from(OsStr::from_bytes(bytes)))
    };
    match value.strip_prefix(b"/") {
        _ if value.len() > LONGEST => None,
        Some(path) => path
            .split(|byte| *byte == b'/')
            .map(name)
            .collect::<Option<_>>()
            .map(Redirect::FromRoot),
        None if value.contains(&b'/') => None,
        None => name(value).map(Redirect::Sibling),
    }
}

/// The value that [`parse`] reads back; `None` if it would be too long.
///
/// Source: Linux `fs/overlayfs/dir.c`, `ovl_get_redirect()`.
pub(crate) fn format(redirect: &Redirect) -> Option<Vec<u8>> {
    let value = match redirect {
        Redirect::Sibling(name) => name.as_bytes().to_vec(),
        Redirect::FromRoot(path) => {
            let mut value = Vec::new();
            for name in path {
                value.push(b'/');
                value.extend_from_slice(name.as_bytes());
            }
            value
        }
    };
    (value.len() <= LONGEST).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lead_to_a_sibling_or_from_the_root_and_never_outside() {
        let name = |name: &str| Arc::from(OsStr::new(name));
        for (value, expected) in [
            ("old", Some(Redirect::Sibling(name("old")))),
            ("/a/b", Some(Redirect::FromRoot(vec![name("a"), name("b")]))),
            ("", None),
            ("/", None),
            ("..", None),
            ("a/b", None),
            ("/a/../b", None),
            ("/a//b", None),
            ("/a/", None),
            ("a\0b", None),
        ] {
            assert_eq!(parse(value.as_bytes()), expected, "{value:?}");
            let back = expected.as_ref().and_then(format);
            assert_eq!(back, expected.map(|_| value.as_bytes().to_vec()), "{value:?}");
        }
        let long = "/n".repeat(LONGEST / 2 + 1);
        assert_eq!(parse(long.as_bytes()), None);
        assert_eq!(format(&Redirect::FromRoot(vec![name("n"); LONGEST / 2 + 1])), None);
    }
}
