//! Whether an image is still what its digests say.

use std::fs::File;
use std::io;

use anyhow::{Context as _, Result, ensure};

use super::digest::{Algorithm, Digest, Hashed};
use super::document::Blob;
use super::library::Image;
use super::unpack::uncompressed;
use super::worker::DIFF;
use crate::store::images::Images;

/// What is wrong with an image; nothing if it is whole.
///
/// Every blob is read again, and so is what each layer's blob holds. Unpacked layers have to be there.
#[must_use]
pub fn problems(images: &Images, image: &Image) -> Vec<String> {
    let mut found = Vec::new();
    let mut note =
        |result: Result<()>| found.extend(result.err().map(|error| format!("{error:#}")));
    note(images.document(&image.manifest.config).map(drop));
    let config = match images.config(image) {
        Ok(config) => config,
        Err(error) => {
            note(Err(error));
            return found;
        }
    };
    let layers = image.manifest.layers.iter().zip(&config.diff_ids).zip(config.chain());
    for ((blob, diff), chain) in layers {
        note(whole(images, blob).with_context(|| format!("blob {}", blob.digest)));
        note(holds(images, blob, diff).with_context(|| format!("layer {}", blob.digest.short())));
        note(is_unpacked(images, &chain, diff).with_context(|| format!("layer {}", chain.short())));
    }
    found
}

fn whole(images: &Images, blob: &Blob) -> Result<()> {
    let mut hashed = Hashed::new(File::open(images.blob(&blob.digest))?, blob.digest.algorithm());
    io::copy(&mut hashed, &mut io::sink()).context("read it")?;
    let (_, digest, size) = hashed.finish();
    ensure!(
        (&digest, size) == (&blob.digest, blob.size),
        "it is damaged: {size} bytes with the digest {digest} (cure: remove the image, and get it again)"
    );
    Ok(())
}

fn holds(images: &Images, blob: &Blob, diff: &Digest) -> Result<()> {
    let plain = uncompressed(File::open(images.blob(&blob.digest))?)?;
    let mut hashed = Hashed::new(plain, Algorithm::Sha256);
    io::copy(&mut hashed, &mut io::sink()).context("read it")?;
    let (_, found, _) = hashed.finish();
    ensure!(found == *diff, "it holds {found}, the configuration says {diff}");
    Ok(())
}

fn is_unpacked(images: &Images, chain: &Digest, diff: &Digest) -> Result<()> {
    let Some(record) = images.layer_record(chain)? else {
        // It is unpacked when a container needs it.
        return Ok(());
    };
    ensure!(record.diff_id == *diff, "another layer was unpacked in its place");
    let path = images.layer(chain).join(DIFF);
    ensure!(path.is_dir(), "{} is gone (cure: remove the image, and get it again)", path.display());
    Ok(())
}
