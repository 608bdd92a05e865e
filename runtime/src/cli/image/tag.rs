//! `rrun image tag`: another name for an image.

use anyhow::{Context as _, Result, ensure};

use super::Global;
use crate::image::library::name;
use crate::image::reference::Reference;

/// Give an image another name
#[derive(Debug, clap::Args)]
pub(super) struct Tag {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// What it is to be called, too; `latest` is the tag if there is none
    #[arg(value_name = "NAME[:TAG]", required = true)]
    names: Vec<String>,
}

impl Tag {
    /// Names it.
    ///
    /// # Errors
    ///
    /// If there is no such image, or the name is none.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("tag {}", self.image);
        self.tag(global).with_context(operation)?;
        Ok(0)
    }

    fn tag(&self, global: &Global) -> Result<()> {
        let names = self.names.iter().map(|text| new_name(text)).collect::<Result<Vec<_>>>()?;
        let images = global.images()?;
        let _nothing_is_removed_meanwhile = images.hold()?;
        let image = images.find(&self.image)?;
        images.change_index(|index| {
            names.iter().for_each(|new| name(index, &image.descriptor, Some(new), None));
            Ok(())
        })
    }
}

/// A name that an image can be given: with a tag, without a digest.
///
/// # Errors
///
/// If it has a digest, or is no name.
pub(super) fn new_name(text: &str) -> Result<Reference> {
    let name: Reference = text.parse().map_err(anyhow::Error::msg)?;
    ensure!(
        name.digest.is_none(),
        "image name {text:?}: refusing to create a tag with a digest reference"
    );
    Ok(name.or_latest())
}
