//! `rrun run`: create and start in one.

use anyhow::{Context as _, Result};

use super::Global;
use super::creation::Creation;
use crate::container::run::After;
use crate::sys::process::ensure_sealed;

/// Create and start a container
///
/// In the foreground, signals and the terminal are passed on, the exit code is that of the program
/// (128 and the number of the signal that ended it), and the container is deleted at the end.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    creation: Creation,
    /// End as soon as the program runs
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container at the end
    #[arg(long)]
    keep: bool,
    /// Do not adopt processes that lose their parent
    #[arg(long)]
    no_subreaper: bool,
}

impl Run {
    /// Runs the container and, in the foreground, waits for its program.
    ///
    /// # Errors
    ///
    /// What failed; nothing is left of the container then.
    pub fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("run {}", self.creation.id);
        ensure_sealed().context("make a sealed copy of rrun").with_context(operation)?;
        let after = After { detach: self.detach, keep: self.keep, subreaper: !self.no_subreaper };
        let runtime = global.runtime()?;
        runtime.run(&self.creation.request(self.detach), after).with_context(operation)
    }
}
