//! A root made of layers: from the bundle's annotations, or from the flags that override them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};

use crate::plan::landlock::LANDLOCK;

/// The layers of a root, as paths on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OverlayPlan {
    /// Read-only layers, topmost first; at least one.
    pub lowerdirs: Vec<PathBuf>,
    /// The writable layer; `None` means the one that is kept for the container.
    pub upperdir: Option<PathBuf>,
    /// Where the overlay builds what it renames into `upperdir`.
    pub workdir: Option<PathBuf>,
}

/// The annotation for read-only layers: topmost first, separated by `:`; `\:` is a colon.
pub const LOWERDIR: &str = "dev.rrun.lowerdir";
/// The annotation for the writable layer.
pub const UPPERDIR: &str = "dev.rrun.upperdir";
/// The annotation for the overlay's work directory.
pub const WORKDIR: &str = "dev.rrun.workdir";

/// The annotations that mean something here; another one of ours is a mistake.
const KNOWN: [&str; 4] = [LOWERDIR, UPPERDIR, WORKDIR, LANDLOCK];

/// What the flags `--lowerdir`, `--upperdir` and `--workdir` say.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--lowerdir`
    pub lowerdir: Option<String>,
    /// `--upperdir`
    pub upperdir: Option<String>,
    /// `--workdir`
    pub workdir: Option<String>,
}

/// The layers of the container's root, or `None` if it is a plain directory.
///
/// Relative paths in annotations lie below `bundle`, those in flags below `here`.
///
/// # Errors
///
/// An upper or work directory without a lower one, or only one of the two, an unknown `dev.rrun.`
/// annotation.
pub fn plan(
    annotations: &HashMap<String, String>,
    flags: &Flags,
    bundle: &Path,
    here: &Path,
) -> anyhow::Result<Option<OverlayPlan>> {
    if let Some(unknown) = annotations.keys().find(|name| is_unknown(name)) {
        bail!("/annotations/{unknown}: rrun has {}", KNOWN.join(", "));
    }
    let pick = |flag: &Option<String>, annotation: &str| match flag {
        Some(value) => Some((value.clone(), here)),
        None => annotations.get(annotation).map(|value| (value.clone(), bundle)),
    };
    let directory = |(path, base): (String, &Path)| base.join(path);
    let upperdir = pick(&flags.upperdir, UPPERDIR).map(directory);
    let workdir = pick(&flags.workdir, WORKDIR).map(directory);
    let Some((lower, base)) = pick(&flags.lowerdir, LOWERDIR) else {
        let alone = upperdir.is_none() && workdir.is_none();
        ensure!(alone, "a writable layer needs layers below it: give --lowerdir");
        return Ok(None);
    };
    ensure!(
        upperdir.is_some() == workdir.is_some(),
        "a writable layer needs both --upperdir and --workdir: give both or none"
    );
    let lowerdirs = split(&lower);
    let named = lowerdirs.iter().all(|path| !path.is_empty());
    ensure!(named, "lowerdir {lower:?}: an empty name: want directories separated by colons");
    let lowerdirs = lowerdirs.into_iter().map(|path| base.join(path)).collect();
    Ok(Some(OverlayPlan { lowerdirs, upperdir, workdir }))
}

fn is_unknown(name: &str) -> bool {
    name.starts_with("dev.rrun.") && !KNOWN.contains(&name)
}

/// The paths of a list separated by `:`, in which `\` takes away the meaning of the next character.
fn split(list: &str) -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match (character, paths.last_mut()) {
            (':', _) => paths.push(String::new()),
            ('\\', Some(path)) => path.extend(characters.next()),
            (_, Some(path)) => path.push(character),
            (_, None) => {}
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_at_colons_that_are_not_escaped() {
        for (list, expected) in [
            ("a:b", &["a", "b"][..]),
            ("/a\\:b:/c", &["/a:b", "/c"]),
            ("a\\\\b", &["a\\b"]),
            (":a", &["", "a"]),
            ("", &[""]),
        ] {
            assert_eq!(split(list), expected, "{list:?}");
        }
    }

    fn planned(pairs: &[(&str, &str)], flags: &Flags) -> anyhow::Result<Option<OverlayPlan>> {
        let annotations =
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        plan(&annotations, flags, Path::new("/bundle"), Path::new("/here"))
    }

    #[test]
    fn flags_override_annotations() {
        let annotations = [(LOWERDIR, "top:/base"), (UPPERDIR, "up"), (WORKDIR, "work")];
        let plan = planned(&annotations, &Flags::default()).unwrap().unwrap();
        assert_eq!(plan.lowerdirs, [Path::new("/bundle/top"), Path::new("/base")]);
        assert_eq!(plan.upperdir.as_deref(), Some(Path::new("/bundle/up")));
        let flags = Flags { lowerdir: Some("other".into()), ..Flags::default() };
        let plan = planned(&annotations, &flags).unwrap().unwrap();
        assert_eq!(plan.lowerdirs, [Path::new("/here/other")]);
        assert!(planned(&[], &Flags::default()).unwrap().is_none());
    }

    #[test]
    fn half_a_writable_layer_is_refused() {
        for annotations in [
            &[(LOWERDIR, "a"), (UPPERDIR, "b")][..],
            &[(LOWERDIR, "a"), (WORKDIR, "b")],
            &[(UPPERDIR, "a"), (WORKDIR, "b")],
            &[(LOWERDIR, "a:")],
            &[(LOWERDIR, "")],
            &[(LOWERDIR, "a"), ("dev.rrun.lowerdirs", "b")],
        ] {
            assert!(planned(annotations, &Flags::default()).is_err(), "{annotations:?}");
        }
    }
}
