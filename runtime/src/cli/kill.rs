//! `rrun kill`: a signal for a container.

use anyhow::{Context as _, Result};

use super::Global;
use crate::container::ContainerId;
use crate::container::kill::parse_signal;

/// Send a signal to a container
#[derive(Debug, clap::Args)]
pub struct Kill {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Number or name, with or without SIG
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
}

impl Kill {
    /// Sends the signal.
    ///
    /// # Errors
    ///
    /// If the container does not run, or there is no such signal.
    pub fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("kill {}", self.id);
        let signal = parse_signal(&self.signal).with_context(operation)?;
        global.runtime()?.kill(&self.id, signal, self.all).with_context(operation)?;
        Ok(0)
    }
}
