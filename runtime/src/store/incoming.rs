//! What a command is adding to the images, beside them until all of it is on disk.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};

use super::images::{Held, Images, list};
use super::make_private;
use crate::image::digest::Digest;

/// A directory for one command. Dropping it discards what was not published.
#[derive(Debug)]
pub struct Incoming {
    images: Images,
    directory: PathBuf,
    drafts: AtomicU64,
    _held: Held,
}

const BLOBS: &str = "blobs";
const LAYERS: &str = "layers";
const ASIDE: &str = "aside";

impl Incoming {
    /// A new one. Until it is dropped nothing is removed that nobody refers to.
    ///
    /// # Errors
    ///
    /// Those of making directories.
    pub fn new(images: &Images) -> Result<Self> {
        let held = images.hold()?;
        let directory = images.incoming().join(unique()?);
        for name in [BLOBS, LAYERS, ASIDE] {
            make_private(&directory.join(name))?;
        }
        Ok(Self { images: images.clone(), directory, drafts: AtomicU64::new(0), _held: held })
    }

    /// A new file to be filled.
    ///
    /// # Errors
    ///
    /// Those of making a file.
    pub fn draft(&self) -> Result<(File, PathBuf)> {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("draft-{number}"));
        let mut options = OpenOptions::new();
        let file = options.write(true).read(true).create_new(true).mode(0o600).open(&path);
        Ok((file.with_context(|| format!("make {}", path.display()))?, path))
    }

    /// The file at `path` is the blob that is called `digest`.
    ///
    /// # Errors
    ///
    /// Those of `rename(2)`.
    pub fn keep(&self, path: &Path, digest: &Digest) -> Result<()> {
        let target = self.own_blob(digest);
        fs::rename(path, &target).with_context(|| format!("keep {digest}"))
    }

    fn own_blob(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = digest.parts();
        self.directory.join(BLOBS).join(format!("{algorithm}-{hex}"))
    }

    /// The file of a blob, here or among the images.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<PathBuf> {
        [self.own_blob(digest), self.images.blob(digest)].into_iter().find(|path| path.exists())
    }

    /// A new directory for a layer.
    ///
    /// # Errors
    ///
    /// Those of making a directory.
    pub fn make_layer(&self, chain: &Digest) -> Result<PathBuf> {
        let path = self.own_layer(chain);
        make_private(&path)?;
        Ok(path)
    }

    fn own_layer(&self, chain: &Digest) -> PathBuf {
        self.directory.join(LAYERS).join(chain.hex())
    }

    /// The directory of a layer, here or among the images.
    #[must_use]
    pub fn layer(&self, chain: &Digest) -> PathBuf {
        let own = self.own_layer(chain);
        if own.exists() { own } else { self.images.layer(chain) }
    }

    /// A directory for what is replaced while layers are unpacked.
    #[must_use]
    pub fn aside(&self) -> PathBuf {
        self.directory.join(ASIDE)
    }

    /// The directory of all this.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Gives blobs and layers their names. They have to be on disk.
    ///
    /// # Errors
    ///
    /// Those of `rename(2)`.
    pub fn publish(&self) -> Result<()> {
        for path in list(&self.directory.join(BLOBS))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().replacen('-', ":", 1);
            let digest: Digest = name.parse().map_err(anyhow::Error::msg)?;
            let target = self.images.blob(&digest);
            if let Some(directory) = target.parent() {
                make_private(directory)?;
            }
            fs::rename(&path, &target).with_context(|| format!("keep {digest}"))?;
        }
        for path in list(&self.directory.join(LAYERS))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let chain: Digest = format!("sha256:{name}").parse().map_err(anyhow::Error::msg)?;
            match fs::rename(&path, self.images.layer(&chain)) {
                // Another command has unpacked it meanwhile.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                renamed => renamed.with_context(|| format!("keep layer {name}"))?,
            }
        }
        self.images.sync_names()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _taken_away_later = self.images.discard(&self.directory);
    }
}

/// A name that no other command uses.
fn unique() -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(format!("{}-{}", std::process::id(), now.as_nanos()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_not_published_is_discarded() {
        let place = tempfile::tempdir().unwrap();
        let images = Images::open(place.path()).unwrap();
        let (kept, lost) = (Digest::of(b"kept"), Digest::of(b"lost"));
        for (content, digest) in [("kept", &kept), ("lost", &lost)] {
            let incoming = Incoming::new(&images).unwrap();
            assert!(images.alone().unwrap().is_none());
            let (mut file, path) = incoming.draft().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            incoming.keep(&path, digest).unwrap();
            assert!(incoming.find(digest).is_some());
            if content == "kept" {
                incoming.publish().unwrap();
            }
        }
        assert_eq!(fs::read(images.blob(&kept)).unwrap(), b"kept");
        assert!(!images.blob(&lost).exists());
        assert!(images.alone().unwrap().is_some());
        assert!(list(&images.incoming()).unwrap().is_empty());
        assert_eq!(list(&images.trash()).unwrap().len(), 2);
    }
}
