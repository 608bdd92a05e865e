//! `rrun start`: the program of a created container runs.

use anyhow::{Context as _, Result};

use super::Global;
use crate::container::ContainerId;

/// Start a created container
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

impl Start {
    /// Starts the container.
    ///
    /// # Errors
    ///
    /// If it does not wait for its start, or its program cannot run.
    pub fn run(&self, global: &Global) -> Result<u8> {
        global.runtime()?.start(&self.id).with_context(|| format!("start {}", self.id))?;
        Ok(0)
    }
}
