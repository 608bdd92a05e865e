//! `rrun image`: the images, with Docker's and podman's names, flags and output.

mod history;
mod import;
mod inspect;
mod load;
mod ls;
mod prune;
mod rm;
mod save;
mod tag;
mod verify;

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use clap::Subcommand;

pub(super) use self::ls::Ls;
use super::Global;
use crate::host::Host;
use crate::image::platform::Platform;
use crate::image::worker::Worker;
use crate::store::{self, images::Images};

/// Manage images
#[derive(Debug, clap::Args)]
pub(super) struct Image {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the images
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Add images from an archive or an OCI image layout
    Load(load::Load),
    /// Write images to an archive
    Save(save::Save),
    /// Make an image of an archive of files
    Import(import::Import),
    /// Show everything about images, as JSON
    Inspect(inspect::Inspect),
    /// Show how an image came to be, the last step first
    History(history::History),
    /// Check that images are whole, by their digests
    Verify(verify::Verify),
    /// Give an image another name
    Tag(tag::Tag),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Remove images that have no name
    Prune(prune::Prune),
}

impl Image {
    /// Does what the verb says.
    ///
    /// # Errors
    ///
    /// What failed.
    pub(super) fn run(self, global: &Global) -> Result<u8> {
        match self.verb {
            Verb::Ls(verb) => verb.run(global),
            Verb::Load(verb) => verb.run(global),
            Verb::Save(verb) => verb.run(global),
            Verb::Import(verb) => verb.run(global),
            Verb::Inspect(verb) => verb.run(global),
            Verb::History(verb) => verb.run(global),
            Verb::Verify(verb) => verb.run(global),
            Verb::Prune(verb) => verb.run(global),
            Verb::Tag(verb) => verb.run(global),
            Verb::Rm(verb) => verb.run(global),
        }
    }
}

impl Global {
    /// The images of whoever calls.
    ///
    /// # Errors
    ///
    /// If there is no place for them.
    fn images(&self) -> Result<Images> {
        Images::open(&store::data_root(&Host::probe())?)
    }

    /// The process that unpacks and removes layers.
    ///
    /// # Errors
    ///
    /// If there is no user namespace for it.
    fn worker(&self) -> Result<Worker> {
        Worker::start(&Host::probe())
    }
}

/// The platform that `--platform` names, or this machine's.
///
/// # Errors
///
/// If it is none.
fn platform(text: Option<&str>) -> Result<Platform> {
    let parsed = text.map(|text| text.parse().map_err(anyhow::Error::msg)).transpose();
    Ok(parsed.context("--platform")?.unwrap_or_else(Platform::host))
}

/// Whether somebody looks at standard output.
fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
