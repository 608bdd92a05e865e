//! `rrun create`: a container that waits for its start.

use anyhow::{Context as _, Result};

use super::Global;
use super::creation::Creation;
use crate::sys::process::ensure_sealed;

/// Create a container
///
/// Everything of the container is made; its program waits for `rrun start`.
#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    creation: Creation,
}

impl Create {
    /// Creates the container.
    ///
    /// # Errors
    ///
    /// What failed; nothing is left of the container then.
    pub fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("create {}", self.creation.id);
        ensure_sealed().context("make a sealed copy of rrun").with_context(operation)?;
        let created = global.runtime()?.create(&self.creation.request(true));
        created.with_context(operation).map(|()| 0)
    }
}
