//! `rrun resume`: the processes of a paused container go on.

use anyhow::{Context as _, Result};

use super::Global;
use crate::container::ContainerId;

/// Let the processes of a paused container go on
#[derive(Debug, clap::Args)]
pub(super) struct Resume {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

impl Resume {
    /// Resumes the container.
    ///
    /// # Errors
    ///
    /// If it is not paused.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        global.runtime()?.resume(&self.id).with_context(|| format!("resume {}", self.id))?;
        Ok(0)
    }
}
