//! Media types: what a blob is.
//!
//! One rule: the media type in the descriptor that led to a blob says what it is, Docker's names mean
//! what OCI's mean, and a document that could be read as two things is none. How a layer is compressed
//! is seen from its first bytes: registries and archives are often wrong about it, and the digest of
//! what comes out is checked in any case.

use anyhow::{Result, bail};
use oci_spec::image::MediaType;

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Manifests for several platforms.
    Index,
    /// One image.
    Manifest,
    /// What a container of the image starts with.
    Config,
    /// A tar archive, which may be compressed.
    Layer,
}

/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifests for several platforms.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYERS: [&str; 6] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
];
/// What is called so is refused by name: it has no digests that could be checked.
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// What a blob of this media type is.
///
/// # Errors
///
/// If it is nothing that an image consists of.
pub fn kind(media_type: &MediaType) -> Result<Kind> {
    Ok(match media_type {
        MediaType::ImageIndex => Kind::Index,
        MediaType::ImageManifest => Kind::Manifest,
        MediaType::ImageConfig => Kind::Config,
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => Kind::Layer,
        MediaType::Other(name) => match name.as_str() {
            DOCKER_INDEX => Kind::Index,
            DOCKER_MANIFEST => Kind::Manifest,
            DOCKER_CONFIG => Kind::Config,
            name if DOCKER_LAYERS.contains(&name) => Kind::Layer,
            name if name.starts_with(DOCKER_SCHEMA_1) => {
                bail!(
                    "Docker's old manifest (schema 1) is not supported: push the image again with a newer Docker"
                )
            }
            name => bail!("media type {name:?} belongs to no image"),
        },
        other => bail!("media type {:?} belongs to no image", other.to_string()),
    })
}

/// Whether a blob of this media type is of the kind that is wanted.
///
/// # Errors
///
/// If it is of another.
pub fn want(wanted: Kind, media_type: &MediaType) -> Result<()> {
    let found = kind(media_type)?;
    if found != wanted {
        bail!("media type {:?} is that of {found:?}, want {wanted:?}", media_type.to_string());
    }
    Ok(())
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// Sees it from the first bytes.
    ///
    /// # Errors
    ///
    /// If it is a compression that layers never have, by name.
    pub fn of(start: &[u8]) -> Result<Self> {
        for (magic, name) in
            [(&b"BZh"[..], "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x04\x22\x4d\x18", "lz4")]
        {
            if start.starts_with(magic) {
                bail!("compressed with {name}, which image layers cannot be: want gzip or zstd");
            }
        }
        // A frame of zstd that only says where things are may come first.
        let skippable = matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ if skippable => Self::Zstd,
            _ => Self::None,
        })
    }

    /// The media type of a layer that is compressed so.
    #[must_use]
    pub fn layer(self) -> MediaType {
        match self {
            Self::None => MediaType::ImageLayer,
            Self::Gzip => MediaType::ImageLayerGzip,
            Self::Zstd => MediaType::ImageLayerZstd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_names_mean_what_ocis_mean() {
        for (name, expected) in [
            (OCI_INDEX, Some(Kind::Index)),
            (DOCKER_INDEX, Some(Kind::Index)),
            (OCI_MANIFEST, Some(Kind::Manifest)),
            (DOCKER_MANIFEST, Some(Kind::Manifest)),
            ("application/vnd.oci.image.config.v1+json", Some(Kind::Config)),
            (DOCKER_CONFIG, Some(Kind::Config)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Kind::Layer)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Kind::Layer)),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", None),
            ("application/vnd.oci.artifact.manifest.v1+json", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(kind(&MediaType::from(name)).ok(), expected, "{name}");
        }
    }

    #[test]
    fn compression_is_seen_from_the_first_bytes() {
        for (start, expected) in [
            (&b"\x1f\x8b\x08"[..], Some(Compression::Gzip)),
            (b"\x28\xb5\x2f\xfd", Some(Compression::Zstd)),
            (b"\x50\x2a\x4d\x18", Some(Compression::Zstd)),
            (b"etc/\0\0", Some(Compression::None)),
            (b"", Some(Compression::None)),
            (b"BZh9", None),
            (b"\xfd7zXZ\0", None),
        ] {
            assert_eq!(Compression::of(start).ok(), expected, "{start:?}");
        }
    }
}
