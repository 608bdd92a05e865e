//! An image of one layer, from an archive of files.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::change;
use super::digest::{Algorithm, Digest, Hashed};
use super::document::{Blob, Manifest};
use super::install::Install;
use super::load::manifest_of;
use super::media::Compression;
use super::platform::Platform;
use super::reference::Reference;
use super::unpack::uncompressed;
use super::worker::Worker;
use crate::store::images::Images;
use crate::store::incoming::Incoming;

/// What the image is to be.
#[derive(Debug)]
pub struct Wanted {
    /// Its names, which may be none.
    pub names: Vec<Reference>,
    /// Changes of its configuration, as in a Dockerfile.
    pub changes: Vec<String>,
    /// What is said of it.
    pub message: String,
    /// What it runs on.
    pub platform: Platform,
    /// When it is said to be made: RFC 3339.
    pub created: String,
}

/// Makes an image of the files in `archive`, which may be compressed; its ID.
///
/// # Errors
///
/// What is wrong with the archive or the changes.
pub fn import(
    images: &Images,
    worker: &Worker,
    mut archive: impl io::Read,
    wanted: &Wanted,
) -> Result<Digest> {
    let incoming = Incoming::new(images)?;
    let mut config = Map::new();
    for instruction in &wanted.changes {
        change::apply(&mut config, instruction)?;
    }
    let (file, path) = incoming.draft()?;
    let mut hashed = Hashed::new(file, Algorithm::Sha256);
    io::copy(&mut archive, &mut hashed).context("read the archive")?;
    let (_, digest, size) = hashed.finish();
    ensure!(size > 0, "the archive is empty");
    incoming.keep(&path, &digest)?;
    let layer = Blob { digest, size };
    let path = incoming.find(&layer.digest).context("the archive is gone")?;
    let mut plain = Hashed::new(uncompressed(File::open(&path)?)?, Algorithm::Sha256);
    io::copy(&mut plain, &mut io::sink()).context("read the archive")?;
    let (_, diff, _) = plain.finish();
    let config = write(&incoming, &described(wanted, &config, &diff))?;
    let mut start = Vec::new();
    File::open(&path)?.take(8).read_to_end(&mut start)?;
    let layers = [layer.descriptor(Compression::of(&start)?.layer())?];
    let (descriptor, text) = manifest_of(&config, &layers)?;
    let (mut file, path) = incoming.draft()?;
    file.write_all(&text).context("write the manifest")?;
    incoming.keep(&path, &Digest::of(&text))?;
    let id = config.digest.clone();
    let manifest = Manifest { config, layers: vec![layer] };
    let install = Install::new(images, worker, &incoming, manifest)?;
    install.unpack_all(|_, _| Ok(()))?;
    install.finish(&descriptor, &wanted.names, None)?;
    Ok(id)
}

fn described(wanted: &Wanted, config: &Map<String, Value>, diff: &Digest) -> Value {
    let mut described = json!({
        "created": wanted.created,
        "architecture": wanted.platform.architecture,
        "os": wanted.platform.os,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created": wanted.created, "comment": wanted.message}],
    });
    if let Some(variant) = &wanted.platform.variant {
        described["variant"] = json!(variant);
    }
    described
}

fn write(incoming: &Incoming, value: &Value) -> Result<Blob> {
    let text = serde_json::to_vec(value)?;
    let (mut file, path) = incoming.draft()?;
    file.write_all(&text).context("write the configuration")?;
    let blob = Blob { digest: Digest::of(&text), size: text.len() as u64 };
    incoming.keep(&path, &blob.digest)?;
    Ok(blob)
}
