//! What outlives a command, and where it lies.
//!
//! ```text
//! ROOT/ID/            0700; locked by flock(2) while a command changes the container
//!   state.json        the container as created; replaced by rename
//!   config.json       the configuration it was created from, byte for byte
//!   start             socket on which the waiting init listens; gone once started
//! ROOT/seccomp,cache/ compiled seccomp profiles of all containers, 0700; may be removed at any time
//! DATA/containers/ID/ a writable layer that outlives the container
//!   upper/ work/      as the overlay keeps them
//!   ids.json          the ID maps that its files belong to, if there are any
//! ```
//! ROOT is `--root`, or `/run/rrun`, or `$XDG_RUNTIME_DIR/rrun` for an ordinary user. DATA is
//! `$RRUN_DATA`, or `/var/lib/rrun`, or `$XDG_DATA_HOME/rrun`.

pub mod containers;
pub mod images;
pub mod incoming;
pub mod layers;
pub mod remove;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::host::{Host, home, variable};

/// Where the runtime keeps its containers, if `--root` does not say.
///
/// # Errors
///
/// If there is no `XDG_RUNTIME_DIR` and the directory that takes its place belongs to another user.
pub fn default_root(host: &Host) -> anyhow::Result<PathBuf> {
    if host.is_real_root() {
        return Ok("/run/rrun".into());
    }
    if let Some(directory) = variable("XDG_RUNTIME_DIR") {
        let directory = PathBuf::from(directory);
        let owner = fs::metadata(&directory).map(|found| found.uid());
        ensure!(
            owner.as_ref().map_or(true, |owner| *owner == host.uid.as_raw()),
            "XDG_RUNTIME_DIR {} belongs to user {}: unset it, or log in as yourself",
            directory.display(),
            owner.unwrap_or_default()
        );
        return Ok(directory.join("rrun"));
    }
    let systemd = PathBuf::from(format!("/run/user/{}", host.uid));
    if fs::metadata(&systemd).is_ok_and(|found| found.uid() == host.uid.as_raw()) {
        return Ok(systemd.join("rrun"));
    }
    let own = PathBuf::from(format!("/tmp/rrun-{}", host.uid));
    make_private(&own)?;
    ensure_own(&own, host)?;
    Ok(own)
}

fn ensure_own(directory: &Path, host: &Host) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    ensure!(
        found.is_dir() && found.uid() == host.uid.as_raw() && found.mode() & 0o077 == 0,
        "{} is not a directory of yours alone: set XDG_RUNTIME_DIR to one that is",
        directory.display()
    );
    Ok(())
}

/// Refuses a place for containers that others can change: what lies there says which processes to signal
/// and which directories to remove. One that is not there yet is made for its owner alone.
///
/// # Errors
///
/// If it belongs to another user, or others may write to it.
pub fn ensure_private(root: &Path, host: &Host) -> anyhow::Result<()> {
    let Ok(found) = fs::metadata(root) else { return Ok(()) };
    let place = root.display();
    let owner = found.uid();
    ensure!(
        owner == host.uid.as_raw(),
        "{place} belongs to user {owner}: choose another place for containers with --root"
    );
    ensure!(
        found.mode() & 0o022 == 0,
        "{place} may be written to by others: chmod go-w {place}, or choose another place with --root"
    );
    Ok(())
}

/// Where writable layers are kept.
///
/// # Errors
///
/// If the environment names no place for data.
pub fn data_root(host: &Host) -> anyhow::Result<PathBuf> {
    if let Some(directory) = variable("RRUN_DATA") {
        return Ok(directory.into());
    }
    if host.is_real_root() {
        return Ok("/var/lib/rrun".into());
    }
    if let Some(directory) = variable("XDG_DATA_HOME") {
        return Ok(Path::new(&directory).join("rrun"));
    }
    match home() {
        Some(home) => Ok(home.join(".local/share/rrun")),
        None => bail!("no place to keep the writable layer: set HOME, XDG_DATA_HOME or RRUN_DATA"),
    }
}

/// Makes `directory` and those above it, for the owner alone; what exists is left as it is.
///
/// # Errors
///
/// Those of `mkdir(2)`.
pub fn make_private(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("make directory {}", directory.display()))
}

/// Puts `contents` in place of `path`, whole or not at all, whatever happens meanwhile.
///
/// # Errors
///
/// Those of writing and renaming, `ENOSPC` among them; `path` is then as it was.
pub fn replace(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    replace_with(path, contents, File::sync_all)
}

/// As [`replace`], but after a loss of power the file may be empty: for what means nothing in the
/// next boot.
///
/// # Errors
///
/// As [`replace`].
pub fn replace_until_reboot(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    replace_with(path, contents, |_in_memory| Ok(()))
}

fn replace_with(
    path: &Path,
    contents: &[u8],
    settle: impl Fn(&File) -> io::Result<()>,
) -> anyhow::Result<()> {
    let draft = Draft::of(path);
    write_new(&draft.beside, contents)
        .and_then(|file| settle(&file))
        .with_context(|| format!("write {}", path.display()))?;
    draft.publish()
}

/// Writes `contents` beside `path`, to take its place when it is [published](Draft::publish); as with
/// [`replace_until_reboot`], a loss of power may leave the file empty.
///
/// # Errors
///
/// As [`replace`].
pub fn draft(path: &Path, contents: &[u8]) -> anyhow::Result<Draft> {
    let draft = Draft::of(path);
    write_new(&draft.beside, contents).with_context(|| format!("write {}", path.display()))?;
    Ok(draft)
}

/// A file that is written but not yet in its place. Dropping it removes it.
#[derive(Debug)]
#[must_use = "dropping it removes the file"]
pub struct Draft {
    path: PathBuf,
    beside: PathBuf,
    published: bool,
}

impl Draft {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), beside: path.with_extension("new"), published: false }
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    ///
    /// Those of `rename(2)`; what was in its place is still there then.
    pub fn publish(mut self) -> anyhow::Result<()> {
        fs::rename(&self.beside, &self.path)
            .with_context(|| format!("write {}", self.path.display()))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            let _was_never_made = fs::remove_file(&self.beside);
        }
    }
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        replace(&path, b"first").unwrap();
        fs::create_dir(path.with_extension("new")).unwrap();
        assert!(replace(&path, b"second").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }
}
