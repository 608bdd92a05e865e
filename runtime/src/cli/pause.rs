//! `rrun pause`: the processes of a container stand still.

use anyhow::{Context as _, Result};

use super::Global;
use crate::container::ContainerId;

/// Stop every process of a container where it is
#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

impl Pause {
    /// Pauses the container.
    ///
    /// # Errors
    ///
    /// If it does not run, or has no cgroup with a freezer.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        global.runtime()?.pause(&self.id).with_context(|| format!("pause {}", self.id))?;
        Ok(0)
    }
}
