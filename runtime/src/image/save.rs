//! Images to archives and directories that Docker, podman and skopeo read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use oci_spec::image::Descriptor;
use serde_json::{Value, json};
use tar_core::EntryType;
use tar_core::builder::EntryBuilder;

use super::digest::{Algorithm, Digest, Hashed};
use super::document::Blob;
use super::library::{Image, NAME};
use super::reference::Reference;
use super::unpack::uncompressed;
use crate::store::images::Images;

/// The form of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What `docker save` writes: layers uncompressed, `manifest.json`.
    Docker,
    /// An OCI image layout, as a tar archive or a directory.
    Oci,
}

/// An image and the names it is written with.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The image.
    pub image: Image,
    /// The names, which may be none.
    pub names: Vec<Reference>,
}

/// The name and what follows it in full, as containerd and Docker write it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The end of a tar archive: two empty blocks.
const END: [u8; 1024] = [0; 1024];
/// What a tar archive is padded to, in bytes.
const BLOCK: u64 = 512;

/// Where files go, one after the other.
trait Sink {
    /// Takes a directory, before what lies in it.
    fn directory(&mut self, name: &str) -> Result<()>;

    /// Takes a file of `size` bytes.
    fn file(&mut self, name: &str, size: u64, contents: &mut dyn Read) -> Result<()>;
}

/// A tar archive.
struct Tar<W>(W);

impl<W: Write> Tar<W> {
    fn header(&mut self, name: &str, mode: u32, size: u64, kind: EntryType) -> Result<()> {
        let mut entry = EntryBuilder::new_ustar();
        entry.path(name).mode(mode)?.uid(0)?.gid(0)?.size(size)?.mtime(0)?.entry_type(kind);
        self.0.write_all(&entry.finish_bytes()).context("write the archive")
    }
}

impl<W: Write> Sink for Tar<W> {
    fn directory(&mut self, name: &str) -> Result<()> {
        self.header(&format!("{name}/"), 0o755, 0, EntryType::Directory)
    }

    fn file(&mut self, name: &str, size: u64, contents: &mut dyn Read) -> Result<()> {
        self.header(name, 0o644, size, EntryType::Regular)?;
        let written =
            io::copy(&mut contents.take(size), &mut self.0).context("write the archive")?;
        ensure!(written == size, "{name} has {written} bytes, not {size}");
        let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default();
        let zeros = END.get(..padding).unwrap_or_default();
        self.0.write_all(zeros).context("write the archive")
    }
}

/// A directory.
struct Directory(PathBuf);

impl Sink for Directory {
    fn directory(&mut self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        let made = DirBuilder::new().recursive(true).create(&path);
        made.with_context(|| format!("make {}", path.display()))
    }

    fn file(&mut self, name: &str, _size: u64, contents: &mut dyn Read) -> Result<()> {
        let path = self.0.join(name);
        let context = || format!("write {}", path.display());
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(&path).with_context(context)?;
        io::copy(contents, &mut file).with_context(context).map(drop)
    }
}

/// Writes `chosen` as one archive.
///
/// # Errors
///
/// If an image is damaged, and those of writing.
pub fn archive(images: &Images, chosen: &[Chosen], format: Format, to: impl Write) -> Result<()> {
    const STEP: usize = 256 * 1024;
    let mut tar = Tar(BufWriter::with_capacity(STEP, to));
    write(images, chosen, format, &mut tar)?;
    let done = tar.0.write_all(&END).and_then(|()| tar.0.flush());
    done.context("write the archive")
}

/// Writes `chosen` into the directory `path`, which must not be there or must be empty, as an OCI image
/// layout.
///
/// # Errors
///
/// If an image is damaged, and those of writing.
pub fn directory(images: &Images, chosen: &[Chosen], path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .create(path)
        .with_context(|| format!("make {}", path.display()))?;
    let mut entries = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    ensure!(entries.next().is_none(), "{} is not empty", path.display());
    write(images, chosen, Format::Oci, &mut Directory(path.to_owned()))
}

fn write(images: &Images, chosen: &[Chosen], format: Format, sink: &mut dyn Sink) -> Result<()> {
    match format {
        Format::Docker => docker(images, chosen, sink),
        Format::Oci => oci(images, chosen, sink),
    }
}

fn text(sink: &mut dyn Sink, name: &str, value: &Value) -> Result<()> {
    let text = serde_json::to_vec(value)?;
    sink.file(name, text.len() as u64, &mut text.as_slice())
}

fn docker(images: &Images, chosen: &[Chosen], sink: &mut dyn Sink) -> Result<()> {
    let mut written = BTreeSet::new();
    let (mut listed, mut repositories) = (Vec::new(), BTreeMap::new());
    for Chosen { image, names } in chosen {
        let config = images.config(image)?;
        let mut layers = Vec::new();
        let chain = config.chain();
        for (at, (blob, diff)) in image.manifest.layers.iter().zip(&config.diff_ids).enumerate() {
            let name = format!("{}.tar", diff.hex());
            if written.insert(name.clone()) {
                let record = chain.get(at).map(|chain| images.layer_record(chain)).transpose()?;
                let size = record.flatten().map(|record| record.archive_size);
                layer(images, blob, diff, size, &name, sink)
                    .with_context(|| format!("layer {}", blob.digest.short()))?;
            }
            layers.push(name);
        }
        let name = format!("{}.json", image.id.hex());
        if written.insert(name.clone()) {
            let text = images.document(&image.manifest.config)?;
            sink.file(&name, text.len() as u64, &mut text.as_slice())?;
        }
        let tags: Vec<_> = names.iter().map(Reference::familiar).collect();
        for name in names {
            let top = config.diff_ids.last().map(Digest::hex).unwrap_or_default();
            let tags: &mut BTreeMap<_, _> = repositories.entry(name.familiar_name()).or_default();
            tags.insert(name.tag.clone().unwrap_or_default(), top.to_owned());
        }
        listed.push(json!({
            "Config": name,
            "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
            "Layers": layers,
        }));
    }
    text(sink, "manifest.json", &Value::Array(listed))?;
    if repositories.is_empty() { Ok(()) } else { text(sink, "repositories", &json!(repositories)) }
}

/// Writes a layer uncompressed. Its size has to come first: if nobody knows it, it is counted.
fn layer(
    images: &Images,
    blob: &Blob,
    diff: &Digest,
    size: Option<u64>,
    name: &str,
    sink: &mut dyn Sink,
) -> Result<()> {
    let open = || {
        let path = images.blob(&blob.digest);
        uncompressed(File::open(&path).with_context(|| format!("open {}", path.display()))?)
    };
    let size = match size {
        Some(size) => size,
        None => io::copy(&mut open()?, &mut io::sink()).context("read the layer")?,
    };
    let mut plain = Hashed::new(open()?, Algorithm::Sha256);
    sink.file(name, size, &mut plain)?;
    io::copy(&mut plain, &mut io::sink()).context("read the layer")?;
    let (_, found, length) = plain.finish();
    ensure!(found == *diff && length == size, "it is damaged: it holds {found}, not {diff}");
    Ok(())
}

fn oci(images: &Images, chosen: &[Chosen], sink: &mut dyn Sink) -> Result<()> {
    let mut written = BTreeSet::new();
    text(sink, "oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
    // Not every reader makes directories that it was not told of.
    for directory in ["blobs", "blobs/sha256", "blobs/sha512"] {
        sink.directory(directory)?;
    }
    let mut entries = Vec::new();
    for Chosen { image, names } in chosen {
        let manifest = Blob::described(&image.descriptor)?;
        let parts = [&manifest, &image.manifest.config];
        for blob in parts.into_iter().chain(&image.manifest.layers) {
            if written.insert(blob.digest.clone()) {
                copy(images, blob, sink).with_context(|| format!("blob {}", blob.digest))?;
            }
        }
        entries.extend(names.iter().map(|name| entry(&image.descriptor, Some(name))));
        if names.is_empty() {
            entries.push(entry(&image.descriptor, None));
        }
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": super::media::OCI_INDEX, "manifests": entries,
    });
    text(sink, "index.json", &index)
}

/// The entry of an image in index.json.
fn entry(descriptor: &Descriptor, name: Option<&Reference>) -> Value {
    let mut entry = json!({
        "mediaType": descriptor.media_type(), "digest": descriptor.digest().to_string(),
        "size": descriptor.size(),
    });
    if let Some(name) = name {
        entry["annotations"] = json!({NAME: name.to_string(), CONTAINERD_NAME: name.to_string()});
    }
    entry
}

fn copy(images: &Images, blob: &Blob, sink: &mut dyn Sink) -> Result<()> {
    let (algorithm, hex) = blob.digest.parts();
    let path = images.blob(&blob.digest);
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let mut hashed = Hashed::new(file, blob.digest.algorithm());
    sink.file(&format!("blobs/{algorithm}/{hex}"), blob.size, &mut hashed)?;
    let (_, found, size) = hashed.finish();
    ensure!((&found, size) == (&blob.digest, blob.size), "it is damaged: its digest is {found}");
    Ok(())
}
