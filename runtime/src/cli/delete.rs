//! `rrun delete`: nothing of a container remains.

use anyhow::{Context as _, Result};

use super::{Global, chosen};
use crate::container::{ContainerId, Runtime};

/// Delete a container
///
/// The writable layer that is kept for a container with a layered root stays, and a new container
/// of the same name gets it again; --purge removes it too.
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// Names of the containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// The names are regular expressions: every container that one of them fits is meant
    #[arg(short, long)]
    regex: bool,
    /// Kill what still runs; what does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Remove the kept writable layer, too; that also works when the container is deleted already
    #[arg(long)]
    purge: bool,
}

impl Delete {
    /// Deletes the containers.
    ///
    /// # Errors
    ///
    /// The first one that could not be deleted.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let runtime = global.runtime()?;
        for id in &chosen(&runtime, &self.ids, self.regex).context("delete")? {
            self.delete(&runtime, id).with_context(|| format!("delete {id}"))?;
        }
        Ok(0)
    }

    fn delete(&self, runtime: &Runtime, id: &ContainerId) -> Result<()> {
        if !self.purge {
            return runtime.delete(id, self.force);
        }
        let is_known = runtime.containers.path(id).exists();
        if is_known {
            runtime.delete(id, self.force)?;
        }
        let purged = runtime.purge(id)?;
        if is_known || purged { Ok(()) } else { runtime.delete(id, self.force) }
    }
}
