//! `rrun kill`: a signal for a container.

use anyhow::{Context as _, Result};

use super::{Global, chosen};
use crate::container::kill::parse_signal;

/// Send a signal to a container
#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Number or name, with or without SIG
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
    /// The name is a regular expression: every container that it fits is meant
    #[arg(short, long)]
    regex: bool,
}

impl Kill {
    /// Sends the signal.
    ///
    /// # Errors
    ///
    /// If the container does not run, or there is no such signal.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("kill {}", self.id);
        let signal = parse_signal(&self.signal).with_context(operation)?;
        let runtime = global.runtime()?;
        let ids = std::slice::from_ref(&self.id);
        for id in &chosen(&runtime, ids, self.regex).with_context(operation)? {
            runtime.kill(id, signal, self.all).with_context(|| format!("kill {id}"))?;
        }
        Ok(0)
    }
}
