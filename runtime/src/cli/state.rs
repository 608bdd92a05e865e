//! `rrun state`: what a container is doing.

use anyhow::{Context as _, Result};

use super::{Global, print};
use crate::container::ContainerId;

/// Show the state of a container, as JSON
#[derive(Debug, clap::Args)]
pub struct State {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

impl State {
    /// Prints the state.
    ///
    /// # Errors
    ///
    /// If there is no such container.
    pub fn run(&self, global: &Global) -> Result<u8> {
        let runtime = global.runtime()?;
        let record = runtime.containers.read(&self.id);
        let record = record.with_context(|| format!("state {}", self.id))?;
        print(&format!("{}\n", serde_json::to_string_pretty(&runtime.report(record))?))?;
        Ok(0)
    }
}
