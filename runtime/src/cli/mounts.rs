//! `rrun mounts`: mounts that come and go while a container runs.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::Global;
use crate::container::ContainerId;
use crate::sys::seal::ensure_sealed;

/// Add mounts to a container that runs, or remove them
///
/// FILE holds a list of mounts, as the member "mounts" of a config.json has it. Relative sources lie
/// below the bundle. Either all mounts are added or none. To remove them only their destinations
/// count; what is mounted last goes first.
#[derive(Debug, clap::Args)]
pub(super) struct Mounts {
    /// What to do
    #[arg(value_name = "ACTION")]
    action: Action,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// File with the list of mounts, as JSON
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Mount them
    Add,
    /// Unmount them
    Remove,
}

impl Mounts {
    /// Adds or removes the mounts.
    ///
    /// # Errors
    ///
    /// If the container does not run, the list is wrong, or the kernel refuses.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let action = match self.action {
            Action::Add => "add",
            Action::Remove => "remove",
        };
        let operation = || format!("mounts {action} {}", self.id);
        ensure_sealed().context("keep rrun from being overwritten").with_context(operation)?;
        let runtime = global.runtime()?;
        match self.action {
            Action::Add => runtime.add_mounts(&self.id, &self.file),
            Action::Remove => runtime.remove_mounts(&self.id, &self.file),
        }
        .with_context(operation)?;
        Ok(0)
    }
}
