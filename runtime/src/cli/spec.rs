//! `rrun spec`: a config to start from.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{getegid, geteuid};
use rrun_spec::{CONFIG, Template};

use super::Global;
use crate::host;

/// Write a new config.json
///
/// The file is a start to be edited: it runs `sh` on a terminal, in the directory `rootfs` beside
/// it, which must not be written to. A file that is already there is left alone.
#[derive(Debug, clap::Args)]
pub(super) struct Spec {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write it for an ordinary user: a user namespace in which this user is root
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    /// Writes the file.
    ///
    /// # Errors
    ///
    /// The file exists already, in runc's words; the directory is missing, full, or not writable.
    /// A file that could not be written whole is removed.
    pub(super) fn run(&self, _global: &Global) -> Result<u8> {
        let template = if self.rootless {
            Template::Rootless { uid: geteuid().as_raw(), gid: getegid().as_raw() }
        } else {
            Template::Root
        };
        create(&self.bundle.join(CONFIG), &template.text(host::has_only_cgroup_2()))?;
        Ok(0)
    }
}

fn create(path: &Path, text: &str) -> Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("File {CONFIG} exists. Remove it first")
        }
        opened => opened.with_context(|| format!("create {}", path.display()))?,
    };
    file.write_all(text.as_bytes()).with_context(|| {
        let _first_error_counts = fs::remove_file(path);
        format!("write {}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_exists_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG);
        create(&path, "first").unwrap();
        let error = create(&path, "second").unwrap_err();
        assert_eq!(error.to_string(), "File config.json exists. Remove it first");
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    }

    #[test]
    fn a_dangling_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG);
        symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(create(&path, "text").is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
