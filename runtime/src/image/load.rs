//! Images from archives and directories: docker-archive, oci-archive, OCI image layouts.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use oci_spec::image::{Descriptor, ImageIndex, MediaType};
use serde::Deserialize;

use super::archive::{Archive, Kind};
use super::digest::{Algorithm, Digest, Hashed};
use super::document::{self, Blob, Config, Manifest};
use super::install::Install;
use super::library::{self, NAME, read_document, written_name};
use super::media::Compression;
use super::platform::Platform;
use super::reference::Reference;
use super::unpack::uncompressed;
use super::worker::Worker;
use crate::store::images::Images;
use crate::store::incoming::Incoming;

/// The most files of an archive of images: one with a hundred layers has some hundred.
const MOST_FILES: usize = 10_000;
/// The name that containerd and Docker give an image in an archive, in full.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Where images come from.
#[derive(Debug)]
pub enum Source {
    /// A tar archive, which may be compressed.
    Archive(File),
    /// A directory that is an OCI image layout.
    Layout(PathBuf),
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The image's ID.
    pub id: Digest,
    /// The names it got.
    pub names: Vec<Reference>,
}

/// Adds all images of `source`, as they are called there.
///
/// # Errors
///
/// What is wrong with the source; images that were complete by then stay.
pub fn load(
    images: &Images,
    worker: &Worker,
    source: Source,
    platform: &Platform,
) -> Result<Vec<Loaded>> {
    let incoming = Incoming::new(images)?;
    let files = match source {
        Source::Archive(file) => Files::unpack(&incoming, file)?,
        Source::Layout(path) => Files::layout(&path)?,
    };
    let loading = Loading { images, worker, incoming: &incoming, files, platform };
    if loading.files.has("index.json") {
        loading.layout()
    } else if loading.files.has("manifest.json") {
        loading.docker()
    } else {
        bail!("neither index.json nor manifest.json is in it: want an archive of images")
    }
}

/// The files of a source, by path.
#[derive(Debug)]
enum Files {
    /// They were all taken out of an archive.
    Unpacked { blobs: HashMap<Vec<u8>, (PathBuf, Blob)>, links: HashMap<Vec<u8>, Vec<u8>> },
    /// They lie in a directory of somebody else's.
    Layout(OwnedFd),
}

impl Files {
    fn unpack(incoming: &Incoming, file: File) -> Result<Self> {
        let mut archive = Archive::new(uncompressed(file)?);
        let (mut blobs, mut links) = (HashMap::new(), HashMap::new());
        while let Some(entry) = archive.next_entry()? {
            ensure!(blobs.len() + links.len() < MOST_FILES, "more than {MOST_FILES} files");
            let path = plain(&entry.path);
            match &entry.kind {
                Kind::File => {
                    let (file, place) = incoming.draft()?;
                    let mut hashed = Hashed::new(file, Algorithm::Sha256);
                    io::copy(&mut archive, &mut hashed)
                        .with_context(|| format!("unpack {}", String::from_utf8_lossy(&path)))?;
                    let (_, digest, size) = hashed.finish();
                    blobs.insert(path, (place, Blob { digest, size }));
                }
                // Docker before 25 has links for layers that are there twice.
                Kind::Symlink(target) => drop(links.insert(path.clone(), joined(&path, target))),
                Kind::HardLink(target) => drop(links.insert(path, plain(target))),
                _ => {}
            }
        }
        Ok(Self::Unpacked { blobs, links })
    }

    fn layout(path: &Path) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty());
        Ok(Self::Layout(directory.with_context(|| format!("open {}", path.display()))?))
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Unpacked { .. } => self.unpacked(name.as_bytes()).is_some(),
            Self::Layout(directory) => open_beneath(directory, name).is_ok(),
        }
    }

    fn unpacked(&self, name: &[u8]) -> Option<&(PathBuf, Blob)> {
        let Self::Unpacked { blobs, links } = self else { return None };
        let name = plain(name);
        let name = links.get(&name).unwrap_or(&name);
        blobs.get(name)
    }

    /// A document whole.
    fn text(&self, name: &str) -> Result<Vec<u8>> {
        let file = match self {
            Self::Unpacked { .. } => {
                let (path, _) = self.unpacked(name.as_bytes()).context("it is missing")?;
                File::open(path)?
            }
            Self::Layout(directory) => open_beneath(directory, name)?,
        };
        let mut text = Vec::new();
        file.take(document::LARGEST + 1).read_to_end(&mut text)?;
        ensure!(text.len() as u64 <= document::LARGEST, "it is too long");
        Ok(text)
    }
}

/// Opens a regular file of a directory in which anybody may have put links.
fn open_beneath(directory: &OwnedFd, name: &str) -> Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(directory, name, how).with_context(|| format!("open {name}"))?;
    let kind = fstat(&file)?.st_mode & SFlag::S_IFMT.bits();
    ensure!(kind == SFlag::S_IFREG.bits(), "{name} is no regular file");
    Ok(file.into())
}

/// A path without what does not matter.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn joined(link: &[u8], target: &[u8]) -> Vec<u8> {
    let parent = link.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
    plain(&[link.get(..parent).unwrap_or_default(), target].join(&b'/'))
}

/// One image of a docker-archive (`manifest.json`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Debug)]
struct Loading<'a> {
    images: &'a Images,
    worker: &'a Worker,
    incoming: &'a Incoming,
    files: Files,
    platform: &'a Platform,
}

impl Loading<'_> {
    fn docker(&self) -> Result<Vec<Loaded>> {
        let text = self.files.text("manifest.json").context("manifest.json")?;
        let listed: Vec<Listed> =
            serde_json::from_slice(&text).context("understand manifest.json")?;
        listed.iter().map(|image| self.docker_image(image)).collect()
    }

    fn docker_image(&self, listed: &Listed) -> Result<Loaded> {
        let take = |name: &String| self.take_file(name).with_context(|| name.clone());
        let config = take(&listed.config)?;
        let layers = listed.layers.iter().map(take).collect::<Result<Vec<_>>>()?;
        let text = read_document(&self.found(&config.digest)?, &config)?;
        Config::parse(&text, layers.len())?;
        let descriptors = layers
            .iter()
            .map(|layer| layer.descriptor(self.compression(layer)?.layer()))
            .collect::<Result<Vec<_>>>()?;
        let (descriptor, text) = manifest_of(&config, &descriptors)?;
        self.write(&text)?;
        let tags = listed.repo_tags.iter().flatten();
        let name = |tag: &String| tag.parse::<Reference>().map_err(anyhow::Error::msg);
        let names = tags.map(name).collect::<Result<Vec<_>>>()?;
        self.install(&descriptor, Manifest { config, layers }, names)
    }

    /// Makes a file of the archive a blob.
    fn take_file(&self, name: &str) -> Result<Blob> {
        let (path, blob) = self.files.unpacked(name.as_bytes()).context("it is missing")?;
        if path.exists() {
            self.incoming.keep(path, &blob.digest)?;
        }
        self.found(&blob.digest)?;
        Ok(blob.clone())
    }

    fn found(&self, digest: &Digest) -> Result<PathBuf> {
        self.incoming.find(digest).with_context(|| format!("{digest} is missing"))
    }

    fn compression(&self, blob: &Blob) -> Result<Compression> {
        let mut start = Vec::new();
        File::open(self.found(&blob.digest)?)?.take(8).read_to_end(&mut start)?;
        Compression::of(&start)
    }

    fn write(&self, text: &[u8]) -> Result<()> {
        let (mut file, path) = self.incoming.draft()?;
        io::Write::write_all(&mut file, text).context("write a manifest")?;
        self.incoming.keep(&path, &Digest::of(text))
    }

    fn layout(&self) -> Result<Vec<Loaded>> {
        let text = self.files.text("index.json").context("index.json")?;
        let index: ImageIndex = serde_json::from_slice(&text).context("understand index.json")?;
        ensure!(!index.manifests().is_empty(), "there is no image in it");
        index.manifests().iter().map(|entry| self.layout_image(entry)).collect()
    }

    fn layout_image(&self, entry: &Descriptor) -> Result<Loaded> {
        let read = |blob: &Blob| read_document(&self.take_blob(blob)?, blob);
        let (descriptor, manifest) = library::resolve(entry, self.platform, &read)?;
        self.take_blob(&manifest.config)?;
        for layer in &manifest.layers {
            self.take_blob(layer)?;
        }
        self.install(&descriptor, manifest, names_of(entry)?)
    }

    /// Makes a blob of the layout one of ours, if it is not there already.
    fn take_blob(&self, blob: &Blob) -> Result<PathBuf> {
        let (algorithm, hex) = blob.digest.parts();
        let name = format!("blobs/{algorithm}/{hex}");
        if let Some(path) = self.incoming.find(&blob.digest) {
            return Ok(path);
        }
        self.copy_blob(&name, blob).with_context(|| format!("blob {}", blob.digest))?;
        self.found(&blob.digest)
    }

    fn copy_blob(&self, name: &str, blob: &Blob) -> Result<()> {
        if let (Some((path, found)), Algorithm::Sha256) =
            (self.files.unpacked(name.as_bytes()), blob.digest.algorithm())
        {
            ensure!(
                found == blob,
                "it is damaged: {} bytes with the digest {}",
                found.size,
                found.digest
            );
            return self.incoming.keep(path, &blob.digest);
        }
        let source = match &self.files {
            Files::Layout(directory) => open_beneath(directory, name)?,
            Files::Unpacked { .. } => {
                let (path, _) = self.files.unpacked(name.as_bytes()).context("it is missing")?;
                File::open(path)?
            }
        };
        let (file, path) = self.incoming.draft()?;
        let mut hashed = Hashed::new(file, blob.digest.algorithm());
        io::copy(&mut source.take(blob.size + 1), &mut hashed).context("copy it")?;
        let (_, digest, size) = hashed.finish();
        ensure!(
            (&digest, size) == (&blob.digest, blob.size),
            "it is damaged: {size} bytes with the digest {digest}"
        );
        self.incoming.keep(&path, &digest)
    }

    fn install(
        &self,
        descriptor: &Descriptor,
        manifest: Manifest,
        names: Vec<Reference>,
    ) -> Result<Loaded> {
        let id = manifest.config.digest.clone();
        let install = Install::new(self.images, self.worker, self.incoming, manifest)?;
        install.unpack_all(|_, blob| bail!("{} is missing", blob.digest))?;
        install.finish(descriptor, &names, None)?;
        Ok(Loaded { id, names })
    }
}

/// The names of an entry of index.json.
fn names_of(entry: &Descriptor) -> Result<Vec<Reference>> {
    let Some(annotations) = entry.annotations() else { return Ok(Vec::new()) };
    if let Some(full) = annotations.get(CONTAINERD_NAME) {
        return Ok(vec![full.parse::<Reference>().map_err(anyhow::Error::msg)?.or_latest()]);
    }
    let Some(name) = annotations.get(NAME) else { return Ok(Vec::new()) };
    let name = written_name(name).with_context(|| format!("{name:?} is no name of an image"))?;
    Ok(vec![name])
}

/// A manifest of these, and its descriptor.
///
/// # Errors
///
/// None in practice.
pub fn manifest_of(config: &Blob, layers: &[Descriptor]) -> Result<(Descriptor, Vec<u8>)> {
    let text = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": super::media::OCI_MANIFEST,
        "config": config.descriptor(MediaType::ImageConfig)?,
        "layers": layers,
    }))?;
    let blob = Blob { digest: Digest::of(&text), size: text.len() as u64 };
    Ok((blob.descriptor(MediaType::ImageManifest)?, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_archives_lead_to_files_in_them() {
        for (link, target, expected) in [
            ("a/layer.tar", "../b/layer.tar", "b/layer.tar"),
            ("a/layer.tar", "/b/layer.tar", "a/b/layer.tar"),
            ("layer.tar", "./x", "x"),
            ("a/b", "../../../../etc/passwd", "etc/passwd"),
        ] {
            let found = joined(link.as_bytes(), target.as_bytes());
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{link} {target}");
        }
    }
}
