//! The documents of an image: index, manifest, configuration, read with suspicion.

use anyhow::{Context as _, Result, anyhow, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use super::digest::Digest;
use super::media::{self, Kind};
use super::platform::Platform;

/// The most bytes of a document, as in containerd and podman.
pub const LARGEST: u64 = 4 * 1024 * 1024;
/// The most layers of an image: far more than any has, few enough to look at each.
const MOST_LAYERS: usize = 1024;

/// Some content: what it is called, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Blob {
    /// What a descriptor describes.
    ///
    /// # Errors
    ///
    /// If the digest is none that is known.
    pub fn described(descriptor: &Descriptor) -> Result<Self> {
        let digest = descriptor.digest().to_string().parse().map_err(anyhow::Error::msg)?;
        Ok(Self { digest, size: descriptor.size() })
    }

    /// The descriptor of it.
    ///
    /// # Errors
    ///
    /// None: every digest of ours is one of the specification's.
    pub fn descriptor(&self, media_type: MediaType) -> Result<Descriptor> {
        let digest: oci_spec::image::Digest = self.digest.as_str().parse()?;
        Ok(Descriptor::new(media_type, self.size, digest))
    }
}

/// One of the images in an index.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its manifest, or another index.
    pub descriptor: Descriptor,
    /// What it runs on, if that is told.
    pub platform: Option<Platform>,
}

/// A document that stands for images.
#[derive(Clone, Debug)]
pub enum Document {
    /// Several, for different platforms.
    Index(Vec<Choice>),
    /// One.
    Manifest(Manifest),
}

/// What one image consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What a container starts with.
    pub config: Blob,
    /// The layers, the lowest first.
    pub layers: Vec<Blob>,
}

/// What decides which kind of document it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signs {
    schema_version: Option<u32>,
    media_type: Option<MediaType>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// Reads a document that was called `media_type` by what led to it.
///
/// # Errors
///
/// If it is no document of an image, contradicts its media type, or could be read in two ways
/// (CVE-2021-41190).
pub fn parse(text: &[u8], media_type: &MediaType) -> Result<Document> {
    ensure!(text.len() as u64 <= LARGEST, "a manifest of {} bytes is too long", text.len());
    let signs: Signs = serde_json::from_slice(text).context("understand the manifest")?;
    let kind = media::kind(media_type)?;
    if let Some(own) = &signs.media_type {
        media::want(kind, own).context("the manifest contradicts its descriptor")?;
    }
    let version = signs.schema_version;
    ensure!(version == Some(2), "manifest of schema version {version:?}: want 2");
    ensure!(
        signs.layers.is_none() || signs.manifests.is_none(),
        "the manifest has both layers and manifests: it could mean two things"
    );
    match kind {
        Kind::Index => index(text).map(Document::Index),
        Kind::Manifest => manifest(text).map(Document::Manifest),
        other => Err(anyhow!("{other:?} in place of a manifest")),
    }
}

fn index(text: &[u8]) -> Result<Vec<Choice>> {
    let index: ImageIndex = serde_json::from_slice(text).context("understand the index")?;
    let choice = |descriptor: &Descriptor| Choice {
        platform: descriptor.platform().as_ref().map(Platform::described),
        descriptor: descriptor.clone(),
    };
    Ok(index.manifests().iter().map(choice).collect())
}

fn manifest(text: &[u8]) -> Result<Manifest> {
    let manifest: ImageManifest =
        serde_json::from_slice(text).context("understand the manifest")?;
    media::want(Kind::Config, manifest.config().media_type()).context("configuration")?;
    let config = Blob::described(manifest.config()).context("configuration")?;
    ensure!(config.size <= LARGEST, "a configuration of {} bytes is too long", config.size);
    let layers = manifest.layers();
    ensure!(layers.len() <= MOST_LAYERS, "{} layers: want at most {MOST_LAYERS}", layers.len());
    let layer = |(at, descriptor): (usize, &Descriptor)| {
        media::want(Kind::Layer, descriptor.media_type())
            .and_then(|()| Blob::described(descriptor))
            .with_context(|| format!("layer {at}"))
    };
    Ok(Manifest { config, layers: layers.iter().enumerate().map(layer).collect::<Result<_>>()? })
}

/// The one of `choices` that runs best on `wanted`.
///
/// # Errors
///
/// If none does; it says which there are.
pub fn choose<'a>(choices: &'a [Choice], wanted: &Platform) -> Result<&'a Choice> {
    let distance =
        |choice: &Choice| choice.platform.as_ref().map_or(Some(0), |it| wanted.distance(it));
    let best = choices
        .iter()
        .filter_map(|choice| Some((distance(choice)?, choice)))
        .min_by_key(|(distance, _)| *distance);
    best.map(|(_, choice)| choice).ok_or_else(|| {
        let known = choices.iter().filter_map(|choice| choice.platform.as_ref());
        // What is "unknown/unknown" are attestations.
        let all: Vec<_> = known.filter(|it| it.os != "unknown").map(ToString::to_string).collect();
        anyhow!("there is nothing for {wanted}, only for {}", all.join(", "))
    })
}

/// What a container starts with, and which layers it stands on.
#[derive(Clone, Debug)]
pub struct Config {
    /// All that the specification has.
    pub image: ImageConfiguration,
    /// The digests of the layers' archives, uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// If it is none, or is not that of `layers` layers.
    pub fn parse(text: &[u8], layers: usize) -> Result<Self> {
        let image: ImageConfiguration =
            serde_json::from_slice(text).context("understand the image's configuration")?;
        let kind = image.rootfs().typ();
        ensure!(kind == "layers", "configuration with a root of type {kind:?}: want layers");
        let digest = |id: &String| id.parse().map_err(anyhow::Error::msg);
        let diff_ids: Vec<Digest> =
            image.rootfs().diff_ids().iter().map(digest).collect::<Result<_>>()?;
        ensure!(
            diff_ids.len() == layers,
            "the manifest has {layers} layers, the configuration {}",
            diff_ids.len()
        );
        Ok(Self { image, diff_ids })
    }

    /// The chain ids of the layers, the lowest first: each stands for a layer and all below it.
    ///
    /// Source: OCI image-spec, `config.md`, "Layer `ChainID`".
    #[must_use]
    pub fn chain(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff in &self.diff_ids {
            let next = match chain.last() {
                None => diff.clone(),
                Some(below) => Digest::of(format!("{below} {diff}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }

    /// What it runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.image.os().to_string(),
            architecture: self.image.architecture().to_string(),
            variant: self.image.variant().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::image::media::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn good() -> Value {
        json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest('c'), "size": 7,
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "digest": digest('1'), "size": 9,
            }],
        })
    }

    fn read(value: &Value, media_type: &str) -> Result<Document> {
        parse(value.to_string().as_bytes(), &MediaType::from(media_type))
    }

    #[test]
    fn manifests_say_what_an_image_consists_of() {
        for media_type in [OCI_MANIFEST, DOCKER_MANIFEST] {
            let Document::Manifest(manifest) = read(&good(), media_type).unwrap() else { panic!() };
            assert_eq!(manifest.config.digest.as_str(), digest('c'));
            assert_eq!(manifest.layers.len(), 1);
        }
    }

    #[test]
    fn what_is_ambiguous_or_wrong_is_refused() {
        for (pointer, value, cause) in [
            ("/manifests", json!([]), "two things"),
            ("/mediaType", json!(OCI_INDEX), "contradicts"),
            ("/mediaType", json!("application/json"), "contradicts"),
            ("/schemaVersion", json!(1), "schema version"),
            ("/layers/0/digest", json!("sha256:12"), "manifest"),
            ("/layers/0/digest", json!(format!("md5:{}", "a".repeat(64))), "layer 0"),
            ("/layers/0/mediaType", json!("text/plain"), "layer 0"),
            ("/layers/0/size", json!(-1), "manifest"),
            ("/config/mediaType", json!("text/plain"), "configuration"),
            ("/config/size", json!(1_u64 << 40), "too long"),
            ("/layers", Value::Null, "manifest"),
        ] {
            let mut changed = good();
            let place = changed.pointer_mut(pointer);
            match place {
                Some(place) => *place = value,
                None => changed[&pointer[1..]] = value,
            }
            let error = format!("{:#}", read(&changed, OCI_MANIFEST).unwrap_err());
            assert!(error.contains(cause), "{pointer}: {error}");
        }
        assert!(read(&good(), OCI_INDEX).is_err());
        assert!(read(&json!([]), OCI_MANIFEST).is_err());
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let entry = |arch: &str, os: &str, digit| {
            json!({
                "mediaType": OCI_MANIFEST, "digest": digest(digit), "size": 1,
                "platform": {"architecture": arch, "os": os},
            })
        };
        let index = json!({
            "schemaVersion": 2,
            "manifests": [
                entry("unknown", "unknown", '0'), entry("arm64", "linux", '1'), entry("amd64", "linux", '2'),
            ],
        });
        let Document::Index(choices) = read(&index, OCI_INDEX).unwrap() else { panic!() };
        let chosen = |text: &str| choose(&choices, &text.parse().unwrap());
        let amd = chosen("linux/amd64").unwrap();
        assert_eq!(amd.descriptor.digest().to_string(), digest('2'));
        let error = chosen("linux/s390x").unwrap_err().to_string();
        assert_eq!(error, "there is nothing for linux/s390x, only for linux/arm64, linux/amd64");
    }

    #[test]
    fn chains_stand_for_a_layer_and_all_below() {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Env": null, "Healthcheck": {}},
            "rootfs": {"type": "layers", "diff_ids": [digest('a'), digest('b')]},
        });
        let text = config.to_string();
        let config = Config::parse(text.as_bytes(), 2).unwrap();
        let chain = config.chain();
        assert_eq!(chain[0].as_str(), digest('a'));
        let both = format!("{} {}", digest('a'), digest('b'));
        assert_eq!(chain[1], Digest::of(both.as_bytes()));
        assert_eq!(config.platform().to_string(), "linux/amd64");
        let error = Config::parse(text.as_bytes(), 3).unwrap_err().to_string();
        assert!(error.contains("3 layers") && error.contains('2'), "{error}");
    }
}
