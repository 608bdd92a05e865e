//! Images that go: names taken away, and what nobody refers to any more.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::digest::Digest;
use super::document::Blob;
use super::library::{self, Image, name_in, referenced};
use super::reference::Reference;
use super::worker::Worker;
use crate::store::images::{Images, list};

/// What was done to images, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(Reference),
    /// An image is gone.
    Deleted(Digest),
}

/// Takes the name that `text` is away, and with the last one the image; an ID means the image with all
/// its names.
///
/// # Errors
///
/// If there is no such image; if an ID is given of an image with several names, without `force`.
pub fn remove(images: &Images, text: &str, force: bool) -> Result<Vec<Removed>> {
    let (image, named) = images.find_named(text)?;
    let by_name = named.as_ref().filter(|name| image.names.contains(name));
    let names: Vec<_> = match by_name {
        Some(name) => vec![name.clone()],
        None if image.names.len() > 1 && !force => {
            let all: Vec<_> = image.names.iter().map(Reference::familiar).collect();
            bail!(
                "the image has several names: {} (cure: --force, or remove the names)",
                all.join(", ")
            )
        }
        None => image.names.clone(),
    };
    let lasts = image.names.len() > names.len();
    images.change_index(|index| {
        for name in &names {
            library::remove_name(index, name);
        }
        if !lasts {
            forget(images, index, &image);
        }
        Ok(())
    })?;
    let untagged = names.into_iter().map(Removed::Untagged);
    let remotes = image.remotes.iter().filter(|_| !lasts).cloned().map(Removed::Untagged);
    let deleted = (!lasts).then(|| Removed::Deleted(image.id.clone()));
    Ok(untagged.chain(remotes).chain(deleted).collect())
}

/// Removes every entry without a name that leads to the image.
fn forget(images: &Images, index: &mut Vec<oci_spec::image::Descriptor>, image: &Image) {
    index.retain(|entry| {
        let same = entry.digest() == image.descriptor.digest() || {
            let read = |blob: &Blob| images.document(blob);
            library::resolve(entry, &super::platform::Platform::host(), &read)
                .is_ok_and(|(_, manifest)| manifest.config.digest == image.id)
        };
        !same || name_in(entry).is_some()
    });
}

/// Removes what nobody refers to, behind the command. Nothing is done while somebody adds images: whoever
/// removes something next does it.
///
/// # Errors
///
/// Those of reading the images.
pub fn collect(images: &Images, worker: Worker) -> Result<()> {
    if let Some(_alone) = images.alone()? {
        let (blobs, chains) = referenced(images)?;
        let blobs = blobs.iter().map(|digest| images.blob(digest));
        let layers = chains.iter().map(|chain| images.layer(chain));
        let kept: HashSet<PathBuf> = blobs.chain(layers).collect();
        for path in images.contents()?.iter().filter(|path| !kept.contains(*path)) {
            images.discard(path)?;
        }
        // Whoever made these has ended.
        for path in list(&images.incoming())? {
            images.discard(&path)?;
        }
    }
    if images.has_trash() { worker.clear_behind(&images.trash()) } else { Ok(()) }
}

/// Gives up downloads that were interrupted.
///
/// # Errors
///
/// Those of listing and removing files.
pub fn forget_partial(images: &Images) -> Result<()> {
    if let Some(_alone) = images.alone()? {
        for path in list(&images.partial()?)? {
            images.discard(&path)?;
        }
    }
    Ok(())
}

/// The size of an image: of the files of its layers, in bytes. Layers that are not unpacked count with
/// their blobs.
///
/// # Errors
///
/// If the image cannot be read.
pub fn size(images: &Images, image: &Image) -> Result<u64> {
    let chain = images.config(image)?.chain();
    let mut sum = 0;
    for (blob, chain) in image.manifest.layers.iter().zip(&chain) {
        let record = images.layer_record(chain)?;
        sum += record.map_or(blob.size, |record| record.size);
    }
    Ok(sum)
}
