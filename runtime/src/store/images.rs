//! Images: an OCI image layout, and each layer unpacked once.
//!
//! ```text
//! DATA/images/          an OCI image layout: oci-layout, index.json, blobs/ALGORITHM/HEX
//! DATA/layers/HEX/      a layer, called by the chain of it and all below it
//!   layer.json          what it is; without it there is no layer
//!   diff/               its files, in the overlay's form
//! DATA/incoming/NAME/   what a command is fetching or unpacking
//! DATA/partial/         blobs whose download was interrupted
//! DATA/trash/NAME/      what is being removed
//! DATA/images.lock      shared by who adds, had alone by who removes what nobody refers to
//! DATA/index.lock       had by who changes index.json
//! ```
//! A blob or a layer gets its name when all of it is on disk, by a rename; an image exists when index.json
//! names it. A command that is killed leaves a directory in `incoming`, which the next one that removes
//! anything takes away.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use oci_spec::image::{Descriptor, ImageIndex};
use serde::{Deserialize, Serialize};

use super::{make_private, replace};
use crate::image::digest::Digest;
use crate::userns::map::IdMaps;

/// All images of one user.
#[derive(Clone, Debug)]
pub struct Images {
    data: PathBuf,
}

/// What is known of a layer (`layer.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerRecord {
    /// The digest of its archive, uncompressed.
    pub diff_id: Digest,
    /// The size of its archive, uncompressed, in bytes.
    pub archive_size: u64,
    /// The size of its files, in bytes.
    pub size: u64,
    /// The IDs that its files belong to, if it was unpacked in a user namespace.
    pub maps: Option<IdMaps>,
}

/// A lock that others respect, until dropped.
#[derive(Debug)]
pub struct Held {
    _lock: Flock<File>,
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY_INDEX: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const RECORD: &str = "layer.json";

impl Images {
    /// The images below `data`; the directories are made.
    ///
    /// # Errors
    ///
    /// Those of making files and directories.
    pub fn open(data: &Path) -> Result<Self> {
        let images = Self { data: data.to_owned() };
        for directory in ["images/blobs/sha256", "layers", "incoming", "trash"] {
            make_private(&images.data.join(directory))?;
        }
        let layout = images.layout().join("oci-layout");
        if !layout.exists() {
            let _one_after_the_other = images.lock("index.lock", FlockArg::LockExclusive)?;
            replace(&layout, LAYOUT)?;
        }
        Ok(images)
    }

    /// The directory that is an OCI image layout.
    #[must_use]
    pub fn layout(&self) -> PathBuf {
        self.data.join("images")
    }

    /// The file of a blob, whether it is there or not.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = digest.parts();
        self.layout().join("blobs").join(algorithm).join(hex)
    }

    /// The directory of a layer, whether it is there or not.
    #[must_use]
    pub fn layer(&self, chain: &Digest) -> PathBuf {
        self.data.join("layers").join(chain.hex())
    }

    /// The directory of what is being removed.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.data.join("trash")
    }

    /// The directory of what commands are fetching.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.data.join("incoming")
    }

    /// The directory of downloads that were interrupted, which is made.
    ///
    /// # Errors
    ///
    /// Those of making a directory.
    pub fn partial(&self) -> Result<PathBuf> {
        let partial = self.data.join("partial");
        make_private(&partial)?;
        Ok(partial)
    }

    /// What is known of a layer; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// If its record cannot be read.
    pub fn layer_record(&self, chain: &Digest) -> Result<Option<LayerRecord>> {
        read_record(&self.layer(chain))
    }

    /// Lets nobody remove what is being added.
    ///
    /// # Errors
    ///
    /// Those of `flock(2)`.
    pub fn hold(&self) -> Result<Held> {
        self.lock("images.lock", FlockArg::LockShared)
    }

    /// Has the store alone; `None` if somebody is adding to it.
    ///
    /// # Errors
    ///
    /// Those of `flock(2)`.
    pub fn alone(&self) -> Result<Option<Held>> {
        match self.lock("images.lock", FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(held)),
            Err(error) if is_busy(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, name: &str, how: FlockArg) -> Result<Held> {
        let path = self.data.join(name);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let lock = Flock::lock(file, how)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("lock {}", path.display()))?;
        Ok(Held { _lock: lock })
    }

    /// What index.json names.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is damaged.
    pub fn index(&self) -> Result<Vec<Descriptor>> {
        Ok(self.read_index()?.manifests().clone())
    }

    fn read_index(&self) -> Result<ImageIndex> {
        let path = self.layout().join("index.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => EMPTY_INDEX.to_vec(),
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Changes what index.json names, one command after the other.
    ///
    /// # Errors
    ///
    /// What `change` returns, and those of writing the file; it is as it was then.
    pub fn change_index<T>(
        &self,
        change: impl FnOnce(&mut Vec<Descriptor>) -> Result<T>,
    ) -> Result<T> {
        let _held = self.lock("index.lock", FlockArg::LockExclusive)?;
        let mut index = self.read_index()?;
        let mut manifests = index.manifests().clone();
        let result = change(&mut manifests)?;
        if *index.manifests() != manifests {
            index.set_manifests(manifests);
            replace(&self.layout().join("index.json"), &serde_json::to_vec(&index)?)?;
        }
        Ok(result)
    }

    /// Moves a file or directory to where it will be removed. What is not there is no error.
    ///
    /// # Errors
    ///
    /// Those of `rename(2)`.
    pub fn discard(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        for attempt in 0_u64.. {
            let mut new = name.to_owned();
            new.push(format!(".{}-{attempt}", std::process::id()));
            match fs::rename(path, self.trash().join(new)) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                // The name is taken: by a layer that is called as its own blob, for one.
                Err(error) if is_taken(error.kind()) => {}
                done => return done.with_context(|| format!("remove {}", path.display())),
            }
        }
        Ok(())
    }

    /// Whether something waits to be removed.
    #[must_use]
    pub fn has_trash(&self) -> bool {
        fs::read_dir(self.trash()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Every blob's and every layer's path, in no order.
    ///
    /// # Errors
    ///
    /// Those of listing directories.
    pub fn contents(&self) -> Result<Vec<PathBuf>> {
        let mut all = list(&self.data.join("layers"))?;
        for algorithm in list(&self.layout().join("blobs"))? {
            all.extend(list(&algorithm)?);
        }
        Ok(all)
    }

    /// Writes the names of blobs and layers to disk.
    ///
    /// # Errors
    ///
    /// Those of `fsync(2)`.
    pub fn sync_names(&self) -> Result<()> {
        for directory in ["images/blobs/sha256", "images", "layers"] {
            let path = self.data.join(directory);
            File::open(&path)
                .and_then(|directory| directory.sync_all())
                .with_context(|| format!("sync {}", path.display()))?;
        }
        Ok(())
    }
}

/// What lies in a directory.
///
/// # Errors
///
/// Those of listing it.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("list {}", directory.display());
    let entries = fs::read_dir(directory).with_context(context)?;
    entries.map(|entry| Ok(entry.with_context(context)?.path())).collect()
}

fn is_taken(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DirectoryNotEmpty
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
    )
}

fn is_busy(error: &anyhow::Error) -> bool {
    error.downcast_ref::<nix::errno::Errno>() == Some(&nix::errno::Errno::EWOULDBLOCK)
}

/// The record in a layer's directory.
///
/// # Errors
///
/// If it is there and cannot be read.
pub fn read_record(layer: &Path) -> Result<Option<LayerRecord>> {
    let path = layer.join(RECORD);
    match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => {
            let text = text.with_context(|| format!("read {}", path.display()))?;
            let read = serde_json::from_slice(&text);
            read.map(Some).with_context(|| format!("{} is damaged", path.display()))
        }
    }
}

/// Writes the record of a layer that has no name yet.
///
/// # Errors
///
/// Those of writing a file.
pub fn write_record(layer: &Path, record: &LayerRecord) -> Result<()> {
    replace(&layer.join(RECORD), &serde_json::to_vec(record)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_adds_shares_and_who_removes_is_alone() {
        let place = tempfile::tempdir().unwrap();
        let images = Images::open(place.path()).unwrap();
        let (first, second) = (images.hold().unwrap(), images.hold().unwrap());
        assert!(images.alone().unwrap().is_none());
        drop((first, second));
        let alone = images.alone().unwrap();
        assert!(alone.is_some() && images.alone().unwrap().is_none());
    }

    #[test]
    fn a_damaged_index_is_named_and_an_absent_one_is_empty() {
        let place = tempfile::tempdir().unwrap();
        let images = Images::open(place.path()).unwrap();
        assert!(images.index().unwrap().is_empty());
        fs::write(images.layout().join("index.json"), "{").unwrap();
        let error = format!("{:#}", images.index().unwrap_err());
        assert!(error.contains("index.json is damaged"), "{error}");
    }

    #[test]
    fn what_is_discarded_twice_lies_in_the_trash_twice() {
        let place = tempfile::tempdir().unwrap();
        let images = Images::open(place.path()).unwrap();
        let path = place.path().join("a");
        for _ in 0..2 {
            fs::create_dir_all(path.join("b")).unwrap();
            images.discard(&path).unwrap();
            fs::write(&path, "a file of the same name").unwrap();
            images.discard(&path).unwrap();
        }
        images.discard(&path).unwrap();
        // A file took the place of the other: nobody wants either.
        assert_eq!(list(&images.trash()).unwrap().len(), 3);
    }
}
