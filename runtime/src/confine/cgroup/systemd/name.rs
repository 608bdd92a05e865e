//! What the scope and its slice are called.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::Instance;

/// Names of a scope and of the slice it is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) slice: String,
    pub(super) unit: String,
}

/// `UNIT_NAME_MAX` of systemd, without the NUL.
const LONGEST: usize = 255;

impl Names {
    /// `slice:prefix:name` is `prefix-name.scope` in `slice`; without a path, `rrun-ID.scope` in the slice
    /// that is usual for the instance.
    ///
    /// # Errors
    ///
    /// Another form, or what systemd would not take as a name.
    ///
    /// Source: runc `docs/systemd.md`; systemd `src/basic/unit-name.c`.
    pub(super) fn new(id: &str, path: Option<&Path>, instance: Instance) -> Result<Self> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let given = path.map(|path| path.to_string_lossy().into_owned());
        let (slice, prefix, name) = match &given {
            None => ("", "rrun", id),
            Some(given) => match given.split(':').collect::<Vec<_>>()[..] {
                [slice, prefix, name] => (slice, prefix, name),
                _ => bail!(
                    "/linux/cgroupsPath: {given:?}: expected cgroupsPath to be of format \
                     \"slice:prefix:name\" for systemd cgroups"
                ),
            },
        };
        let slice = match (slice, instance) {
            ("", Instance::System) => "system.slice",
            ("", Instance::User(_)) => "user.slice",
            ("-", _) => "-.slice",
            (slice, _) => slice,
        };
        ensure!(
            is_slice(slice),
            "/linux/cgroupsPath: {slice:?} is no name of a slice: want one as in machine.slice"
        );
        ensure!(
            !name.ends_with(".slice"),
            "/linux/cgroupsPath: {name:?}: a slice holds no process"
        );
        let unit = format!("{prefix}-{name}.scope");
        ensure!(
            unit.len() <= LONGEST && unit.bytes().all(is_legal),
            "/linux/cgroupsPath: {unit:?} is no name of a unit: want at most {LONGEST} of \
             A-Z a-z 0-9 : - _ . \\ (cure: another cgroupsPath or id)"
        );
        Ok(Self { slice: slice.to_owned(), unit })
    }
}

fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte)
}

/// Dashes nest: `a-b.slice` is in `a.slice`, so no part may be empty; `-.slice` is the root.
fn is_slice(slice: &str) -> bool {
    let Some(name) = slice.strip_suffix(".slice") else { return false };
    let parts_are_full = name.split('-').all(|part| !part.is_empty());
    slice.len() <= LONGEST && name.bytes().all(is_legal) && (name == "-" || parts_are_full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_as_by_runc() {
        for (path, instance, slice, unit) in [
            (None, Instance::System, "system.slice", "rrun-web.scope"),
            (Some(""), Instance::User(5), "user.slice", "rrun-web.scope"),
            (Some("machine.slice:libpod:4f"), Instance::System, "machine.slice", "libpod-4f.scope"),
            (Some(":a:b"), Instance::User(5), "user.slice", "a-b.scope"),
            (Some("-:a:b"), Instance::System, "-.slice", "a-b.scope"),
            (Some("a-b.slice::c"), Instance::System, "a-b.slice", "-c.scope"),
        ] {
            let names = Names::new("web", path.map(Path::new), instance).unwrap();
            assert_eq!((names.slice.as_str(), names.unit.as_str()), (slice, unit), "{path:?}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for (path, complaint) in [
            ("/a/b", "expected cgroupsPath to be of format"),
            ("a.slice:b", "expected cgroupsPath to be of format"),
            ("a:b:c", "\"a\" is no name of a slice"),
            ("a/b.slice:b:c", "no name of a slice"),
            ("a--b.slice:b:c", "no name of a slice"),
            ("a.slice:b:c+d", "no name of a unit"),
            ("a.slice:b:../c", "no name of a unit"),
            ("a.slice:b:c.slice", "a slice holds no process"),
        ] {
            let error = Names::new("web", Some(Path::new(path)), Instance::System).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("/linux/cgroupsPath: "), "{error}");
            assert!(error.contains(complaint), "{path}: {error}");
        }
    }
}
