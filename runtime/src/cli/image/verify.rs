//! `rrun image verify`: whether images are what their digests say.

use anyhow::{Context as _, Result, bail};

use super::Global;
use crate::cli::print;
use crate::image::reference::Reference;
use crate::image::verify::problems;

/// Check that images are whole, by their digests
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Names or IDs of images [default: all]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

impl Verify {
    /// Checks them, and prints what is wrong.
    ///
    /// # Errors
    ///
    /// If an image is not whole.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let images = global.images()?;
        let chosen = if self.images.is_empty() {
            images.all().context("verify")?
        } else {
            let find = |name: &String| images.find(name).with_context(|| format!("verify {name}"));
            self.images.iter().map(find).collect::<Result<_>>()?
        };
        let mut damaged = 0;
        for image in &chosen {
            let name = image.names.first().map(Reference::familiar);
            let name = name.unwrap_or_else(|| image.id.to_string());
            let found = problems(&images, image);
            damaged += usize::from(!found.is_empty());
            let text = if found.is_empty() { format!("{name}: ok\n") } else { String::new() };
            let lines = found.iter().map(|problem| format!("{name}: {problem}\n"));
            print(&(text + &lines.collect::<String>()))?;
        }
        if damaged > 0 {
            bail!("verify: {damaged} of {} images are damaged", chosen.len());
        }
        Ok(0)
    }
}
