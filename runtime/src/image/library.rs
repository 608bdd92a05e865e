//! Which images there are, and what they are called.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use oci_spec::image::Descriptor;

use super::digest::Digest;
use super::document::{self, Blob, Choice, Config, Document, Manifest};
use super::platform::Platform;
use super::reference::{LOCALHOST, Reference, names_registry};
use crate::store::images::Images;

/// The annotation of index.json that holds an image's name (OCI image-spec, `annotations.md`).
pub const NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that holds what a registry called the image: `REGISTRY/REPOSITORY@DIGEST`.
pub const REMOTE: &str = "dev.rrun.image.remote";

/// An image: what it consists of, and all its names.
#[derive(Clone, Debug)]
pub struct Image {
    /// What people call its ID: the digest of its configuration.
    pub id: Digest,
    /// The descriptor of its manifest.
    pub descriptor: Descriptor,
    /// What it consists of.
    pub manifest: Manifest,
    /// Its names with tags or digests, in order.
    pub names: Vec<Reference>,
    /// What registries call it, in order.
    pub remotes: Vec<Reference>,
}

/// Reads a document whole.
///
/// # Errors
///
/// If it is longer than a document may be, or not the one that is meant.
pub fn read_document(path: &Path, blob: &Blob) -> Result<Vec<u8>> {
    let context = || format!("read {}", path.display());
    let mut text = Vec::new();
    let file = File::open(path).with_context(context)?;
    file.take(document::LARGEST + 1).read_to_end(&mut text).with_context(context)?;
    ensure!(text.len() as u64 <= document::LARGEST, "{}: it is too long", context());
    let found = digest_like(&blob.digest, &text);
    ensure!(found == blob.digest, "{} is damaged: its digest is {found}", path.display());
    Ok(text)
}

/// The digest of `content` by the algorithm of `model`.
#[must_use]
pub fn digest_like(model: &Digest, content: &[u8]) -> Digest {
    let mut hasher = super::digest::Hasher::new(model.algorithm());
    hasher.update(content);
    hasher.finish()
}

/// The manifest for `platform` that `descriptor` leads to, and its descriptor.
///
/// # Errors
///
/// What is wrong with the documents, or that nothing is for this platform.
pub fn resolve(
    descriptor: &Descriptor,
    platform: &Platform,
    read: &dyn Fn(&Blob) -> Result<Vec<u8>>,
) -> Result<(Descriptor, Manifest)> {
    /// An index may lead to another, but not for ever.
    const DEEPEST: usize = 4;
    let mut here = descriptor.clone();
    for _ in 0..DEEPEST {
        let blob = Blob::described(&here)?;
        let text = read(&blob).with_context(|| format!("manifest {}", blob.digest))?;
        let parsed = document::parse(&text, here.media_type());
        match parsed.with_context(|| format!("manifest {}", blob.digest))? {
            Document::Manifest(manifest) => return Ok((here, manifest)),
            Document::Index(choices) => {
                here = document::choose(&choices, platform)?.descriptor.clone();
            }
        }
    }
    bail!("an index within an index within an index")
}

impl Images {
    /// A document among the images.
    ///
    /// # Errors
    ///
    /// If it is not there, or damaged.
    pub fn document(&self, blob: &Blob) -> Result<Vec<u8>> {
        read_document(&self.blob(&blob.digest), blob)
    }

    /// Every image. What other programs left half in the layout is passed over with a warning.
    ///
    /// # Errors
    ///
    /// If the index cannot be read.
    pub fn all(&self) -> Result<Vec<Image>> {
        let mut all: Vec<Image> = Vec::new();
        let mut known: HashMap<Digest, usize> = HashMap::new();
        for entry in self.index()? {
            let found = resolve(&entry, &Platform::host(), &|blob| self.document(blob));
            let (descriptor, manifest) = match found {
                Ok(found) => found,
                Err(error) => {
                    log::warn!("image {} is left out: {error:#}", entry.digest());
                    continue;
                }
            };
            let id = manifest.config.digest.clone();
            let at = *known.entry(id.clone()).or_insert_with(|| {
                let (names, remotes) = (Vec::new(), Vec::new());
                all.push(Image { id, descriptor, manifest, names, remotes });
                all.len() - 1
            });
            if let Some(image) = all.get_mut(at) {
                image.names.extend(name_in(&entry));
                image.remotes.extend(remote_in(&entry));
            }
        }
        for image in &mut all {
            image.names.sort();
            image.names.dedup();
            image.remotes.sort();
            image.remotes.dedup();
        }
        Ok(all)
    }

    /// The image that `text` means: a name, an ID, or the beginning of an ID.
    ///
    /// # Errors
    ///
    /// If it means none, or more than one.
    pub fn find(&self, text: &str) -> Result<Image> {
        self.find_named(text).map(|(image, _)| image)
    }

    /// The image that `text` means, and the name by which it was found, if it was one.
    ///
    /// # Errors
    ///
    /// As [`Self::find`].
    pub fn find_named(&self, text: &str) -> Result<(Image, Option<Reference>)> {
        let all = self.all()?;
        for wanted in meanings(text) {
            let is = |image: &&Image| image.is_called(&wanted);
            if let Some(image) = all.iter().find(is) {
                return Ok((image.clone(), Some(wanted)));
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = all.into_iter().filter(|image| is_hex && image.id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some(image), None) => Ok((image, None)),
            (None, _) => Err(anyhow!("no such image: {text}")),
            (Some(_), Some(_)) => bail!("{text} is the beginning of several images' IDs"),
        }
    }

    /// What a container of the image starts with.
    ///
    /// # Errors
    ///
    /// If the configuration is damaged.
    pub fn config(&self, image: &Image) -> Result<Config> {
        let text = self.document(&image.manifest.config)?;
        Config::parse(&text, image.manifest.layers.len())
    }
}

impl Image {
    /// Whether it has this name; one with a tag and a digest wants the digest.
    #[must_use]
    pub fn is_called(&self, name: &Reference) -> bool {
        let own = |known: &Reference| {
            known.registry == name.registry && known.repository == name.repository
        };
        match &name.digest {
            Some(digest) => {
                let named = self.names.iter().chain(&self.remotes);
                let remote =
                    |known: &Reference| own(known) && known.digest.as_ref() == Some(digest);
                let manifest = self.descriptor.digest().to_string() == digest.as_str();
                named.clone().any(remote) || (manifest && named.clone().any(own))
            }
            None => self.names.iter().any(|known| own(known) && known.tag == name.tag),
        }
    }
}

/// What a name may mean, the likeliest first: Docker's meaning, podman's for what belongs to no registry.
#[must_use]
pub fn meanings(text: &str) -> Vec<Reference> {
    let docker = text.parse::<Reference>().ok();
    let local = format!("{LOCALHOST}/{text}");
    let local = if names_registry(text) { None } else { local.parse::<Reference>().ok() };
    docker.into_iter().chain(local).map(Reference::or_latest).collect()
}

/// The name in an entry of index.json. What other programs put there may be none of ours.
#[must_use]
pub fn name_in(entry: &Descriptor) -> Option<Reference> {
    let name = entry.annotations().as_ref()?.get(NAME)?;
    written_name(name)
}

/// The reference that a name in a layout or an archive means: short ones belong to no registry.
#[must_use]
pub fn written_name(name: &str) -> Option<Reference> {
    let full = if names_registry(name) { name.to_owned() } else { format!("{LOCALHOST}/{name}") };
    full.parse::<Reference>().ok().map(Reference::or_latest)
}

fn remote_in(entry: &Descriptor) -> Option<Reference> {
    entry.annotations().as_ref()?.get(REMOTE)?.parse().ok()
}

/// Names an image: the name leaves whatever had it before, which stays as an image without a name.
pub fn name(
    index: &mut Vec<Descriptor>,
    descriptor: &Descriptor,
    name: Option<&Reference>,
    remote: Option<&Reference>,
) {
    let nameless = |entry: &Descriptor| name_in(entry).is_none();
    if let Some(name) = name {
        remove_name(index, name);
    }
    let same = |entry: &Descriptor| entry.digest() == descriptor.digest();
    if name.is_none() && index.iter().any(same) {
        return;
    }
    index.retain(|entry| !(same(entry) && nameless(entry)));
    let mut entry = descriptor.clone();
    let name = name.map(|name| (NAME.to_owned(), name.to_string()));
    let remote = remote.map(|remote| (REMOTE.to_owned(), remote.to_string()));
    let annotations: HashMap<_, _> = name.into_iter().chain(remote).collect();
    entry.set_annotations(Some(annotations).filter(|map| !map.is_empty()));
    index.push(entry);
}

/// Takes a name away. The last entry of an image stays, without one; says whether the name was there.
pub fn remove_name(index: &mut Vec<Descriptor>, name: &Reference) -> bool {
    let Some(at) = index.iter().position(|entry| name_in(entry).as_ref() == Some(name)) else {
        return false;
    };
    let mut entry = index.remove(at);
    if !index.iter().any(|other| other.digest() == entry.digest()) {
        let mut annotations = entry.annotations().clone().unwrap_or_default();
        annotations.remove(NAME);
        entry.set_annotations(Some(annotations).filter(|map| !map.is_empty()));
        index.push(entry);
    }
    true
}

/// All blobs and chain IDs that the index leads to. An image that cannot be read is an error: what it
/// refers to must not be lost.
///
/// # Errors
///
/// What is wrong with an image.
pub fn referenced(images: &Images) -> Result<(Vec<Digest>, Vec<Digest>)> {
    let (mut blobs, mut chains) = (Vec::new(), Vec::new());
    let mut waiting = images.index()?;
    while let Some(descriptor) = waiting.pop() {
        let blob = Blob::described(&descriptor)?;
        blobs.push(blob.digest.clone());
        // An index that was pulled names manifests for other platforms, which are not here.
        if !images.blob(&blob.digest).exists() {
            continue;
        }
        let text = images.document(&blob)?;
        match document::parse(&text, descriptor.media_type())? {
            Document::Index(choices) => {
                waiting.extend(choices.into_iter().map(|Choice { descriptor, .. }| descriptor));
            }
            Document::Manifest(manifest) => {
                let text = images.document(&manifest.config)?;
                let config = Config::parse(&text, manifest.layers.len())?;
                chains.extend(config.chain());
                blobs.push(manifest.config.digest);
                blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            }
        }
    }
    Ok((blobs, chains))
}

#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;

    use super::*;

    fn descriptor(content: &str) -> Descriptor {
        let blob = Blob { digest: Digest::of(content.as_bytes()), size: 1 };
        blob.descriptor(MediaType::ImageManifest).unwrap()
    }

    #[test]
    fn a_name_moves_and_what_had_it_stays_nameless() {
        let (old, new) = (descriptor("old"), descriptor("new"));
        let (a, b): (Reference, Reference) = ("a:1".parse().unwrap(), "b:1".parse().unwrap());
        let mut index = Vec::new();
        name(&mut index, &old, Some(&a), None);
        name(&mut index, &old, Some(&b), Some(&a.with_digest(&Digest::of(b"x"))));
        assert_eq!(index.len(), 2);
        name(&mut index, &new, Some(&a), None);
        assert_eq!(index.len(), 2, "another name is left");
        name(&mut index, &new, Some(&b), None);
        let names: Vec<_> = index.iter().map(name_in).collect();
        assert_eq!(names, [Some(a.clone()), None, Some(b.clone())], "{index:?}");
        assert!(index[1].annotations().as_ref().unwrap().contains_key(REMOTE));
        name(&mut index, &old, None, None);
        assert_eq!(index.len(), 3);
        name(&mut index, &old, Some(&b), None);
        assert_eq!(index.len(), 2, "the nameless entry got a name: {index:?}");
        assert!(remove_name(&mut index, &a) && !remove_name(&mut index, &a));
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn short_names_may_be_local() {
        let names: Vec<_> = meanings("a/b").iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/a/b:latest", "localhost/a/b:latest"]);
        assert_eq!(meanings("a.b/c:1").len(), 1);
        assert!(meanings("A").is_empty());
        assert_eq!(written_name("12").unwrap().to_string(), "localhost/12:latest");
    }
}
