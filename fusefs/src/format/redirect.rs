//! Directories whose lower part lies under another name.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The attributes that are honoured: overlayfs mounted in a user namespace, and by real root.
pub(crate) const ATTRIBUTES: [&CStr; 2] = [c"user.overlay.redirect", c"trusted.overlay.redirect"];

/// Where the layers below keep a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// Under this name in the same parent.
    Sibling(Arc<OsStr>),
    /// At these components from the root of each layer.
    FromRoot(Vec<Arc<OsStr>>),
}

/// Reads the value of the attribute. `None` if it is empty or leads outside: hostile or broken.
///
/// Source: Linux `fs/overlayfs/namei.c`, `ovl_check_redirect()`.
pub(crate) fn parse(value: &[u8]) -> Option<Redirect> {
    let name = |bytes: &[u8]| {
        let legal = !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&0);
        legal.then(|| Arc::from(OsStr::from_bytes(bytes)))
    };
    match value.strip_prefix(b"/") {
        Some(path) => path
            .split(|byte| *byte == b'/')
            .map(name)
            .collect::<Option<_>>()
            .map(Redirect::FromRoot),
        None if value.contains(&b'/') => None,
        None => name(value).map(Redirect::Sibling),
    }
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
        }
    }
}
