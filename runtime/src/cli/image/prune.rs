//! `rrun image prune`: images that have no name.

use std::io::{BufRead as _, stdin};

use anyhow::{Context as _, Result};

use super::Global;
use super::ls::Filter;
use crate::cli::format::human;
use crate::cli::print;
use crate::image::remove::{Removed, collect, forget_partial, remove, size};

/// Remove images that have no name
#[derive(Debug, clap::Args)]
pub(super) struct Prune {
    /// Remove all images
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only images for which it holds: until=, label=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

impl Prune {
    /// Removes them.
    ///
    /// # Errors
    ///
    /// If the images cannot be read, or a filter is none.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        if !self.force && !self.is_confirmed()? {
            return Ok(0);
        }
        print(&self.prune(global).context("prune")?)?;
        Ok(0)
    }

    fn is_confirmed(&self) -> Result<bool> {
        let what = if self.all {
            "all images without at least one container associated to them"
        } else {
            "all dangling images"
        };
        print(&format!(
            "WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "
        ))?;
        let mut answer = String::new();
        stdin().lock().read_line(&mut answer).context("read the answer")?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    fn prune(&self, global: &Global) -> Result<String> {
        let (images, worker) = (global.images()?, global.worker()?);
        let filters: Vec<_> =
            self.filter.iter().map(|text| Filter::parse(text, &images)).collect::<Result<_>>()?;
        let (mut text, mut freed) = (String::new(), 0);
        for image in images.all()? {
            let shown = super::ls::Shown::of(&images, image)?;
            let chosen = self.all || shown.image.names.is_empty();
            if !chosen || !filters.iter().all(|filter| filter.holds(&shown)) {
                continue;
            }
            freed += size(&images, &shown.image)?;
            for removed in remove(&images, shown.image.id.as_str(), true)? {
                text += &match removed {
                    Removed::Untagged(name) => format!("untagged: {}\n", name.familiar()),
                    Removed::Deleted(id) => format!("deleted: {id}\n"),
                };
            }
        }
        forget_partial(&images)?;
        collect(&images, worker)?;
        let list = if text.is_empty() { text } else { format!("Deleted Images:\n{text}\n") };
        Ok(format!("{list}Total reclaimed space: {}\n", human::size(freed)))
    }
}
