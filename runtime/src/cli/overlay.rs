//! `rrun overlay`: the copy-on-write file system by hand.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rrun_fusefs::Config;

use super::Global;
use crate::process::server::mount_by_hand;

/// Mount layers as one tree, in the caller's user and mount namespace
///
/// Read-only layers and one writable layer become one tree at MOUNTPOINT. Without being root, do it
/// in a user and mount namespace of your own: unshare --user --map-root-user --mount.
#[derive(Debug, clap::Args)]
pub struct Overlay {
    /// Directory to mount on
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// lowerdir=A:B (topmost first), upperdir=U, workdir=W; without an upperdir nobody can write
    #[arg(short, value_name = "OPTIONS", required = true)]
    options: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short)]
    foreground: bool,
}

impl Overlay {
    /// Mounts the tree and serves it, in the background unless asked otherwise.
    ///
    /// # Errors
    ///
    /// What is wrong with the options or the layers, or why the kernel refuses the mount.
    pub fn run(&self, _global: &Global) -> Result<u8> {
        let operation = || format!("overlay {}", self.mountpoint.display());
        let options = self.options.join(&OsString::from(","));
        let config = Config::from_options(&options).context("option -o");
        let config = config.with_context(operation)?;
        mount_by_hand(&config, &self.mountpoint, self.foreground).with_context(operation)?;
        Ok(0)
    }
}
