//! `rrun image rm`: images that go.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::Global;
use crate::cli::print;
use crate::image::remove::{Removed, collect, remove};

/// Remove images
///
/// A name is taken away; with its last name the image goes. An ID means the image with all its names.
#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// Names or IDs of images
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an image that has several names; what is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Remove all images
    #[arg(short, long, conflicts_with = "images")]
    all: bool,
    /// What is not there is no error
    #[arg(short, long)]
    ignore: bool,
}

impl Rm {
    /// Removes them.
    ///
    /// # Errors
    ///
    /// If there is no such image; the others are removed all the same.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let images = global.images().context("rm")?;
        let chosen = if self.all {
            images.all()?.iter().map(|image| image.id.to_string()).collect()
        } else {
            ensure!(!self.images.is_empty(), "rm: name an image, or --all");
            self.images.clone()
        };
        let worker = global.worker().context("rm")?;
        let (mut text, mut first_error) = (String::new(), None);
        for name in &chosen {
            match remove(&images, name, self.force || self.all) {
                Ok(done) => text.extend(done.iter().map(line)),
                Err(error) if self.may_be_absent(&error) => {}
                Err(error) => {
                    first_error.get_or_insert(error.context(format!("rm {name}")));
                }
            }
        }
        collect(&images, worker).context("rm")?;
        print(&text)?;
        first_error.map_or(Ok(0), Err)
    }

    fn may_be_absent(&self, error: &anyhow::Error) -> bool {
        (self.force || self.ignore) && error.to_string().starts_with("no such image")
    }
}

/// What Docker says.
fn line(removed: &Removed) -> String {
    let mut text = String::new();
    let _infallible = match removed {
        Removed::Untagged(name) => writeln!(text, "Untagged: {}", name.familiar()),
        Removed::Deleted(id) => writeln!(text, "Deleted: {id}"),
    };
    text
}
