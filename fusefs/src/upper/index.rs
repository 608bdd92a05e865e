//! Which lower file a copied-up hard link came from.
//!
//! A lower file with several names is copied up once, for all of them. The copy gets a name in
//! `links` beneath the work directory, which says where it came from; the other names find it
//! there, after a remount too. The form is our own (kernel overlayfs keeps its index elsewhere
//! and reads the upper directory the same without it).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;

use super::UpperFolder;
use crate::format::origin;
use crate::layer::stack::Name;
use crate::layer::{Folder, Layer};
use crate::sys::{stat, xattr};

/// The directory of the index, beneath the work directory.
const FOLDER: &str = "links";
/// Stands for the handle type where the file system has no handles: the inode number is used.
const NO_HANDLE: i32 = -1;

/// The copied-up hard links of one upper directory.
#[derive(Debug)]
pub(crate) struct Index {
    workdir: UpperFolder,
    folder: OnceLock<UpperFolder>,
    /// Upper inode numbers by name in the index.
    known: Mutex<HashMap<Name, u64>>,
}

impl Index {
    /// Reads the index of `workdir`, if there is one.
    ///
    /// # Errors
    ///
    /// Those of reading a directory.
    pub(crate) fn load(workdir: &UpperFolder) -> nix::Result<Self> {
        let index = Self {
            workdir: workdir.upper_folder(OsStr::new("."))?,
            folder: OnceLock::new(),
            known: Mutex::new(HashMap::new()),
        };
        match workdir.upper_folder(OsStr::new(FOLDER)) {
            Err(Errno::ENOENT) => return Ok(index),
            folder => {
                let folder = index.folder.get_or_init({
                    let folder = folder?;
                    move || folder
                });
                let mut known = index.known();
                folder.for_each_entry(|name, _kind| {
                    known.insert(name.into(), folder.stat(name)?.st_ino);
                    Ok(())
                })?;
            }
        }
        Ok(index)
    }

    /// The directory of the index, made if need be.
    ///
    /// # Errors
    ///
    /// Those of mkdir(2).
    pub(crate) fn folder(&self) -> nix::Result<&UpperFolder> {
        if let Some(folder) = self.folder.get() {
            return Ok(folder);
        }
        match self.workdir.make_folder(OsStr::new(FOLDER), 0o700) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let opened = self.workdir.upper_folder(OsStr::new(FOLDER))?;
        Ok(self.folder.get_or_init(|| opened))
    }

    /// Whether nothing was ever copied up with several names.
    pub(crate) fn is_empty(&self) -> bool {
        self.known().is_empty()
    }

    /// The copy of the lower file with this name in the index.
    pub(crate) fn find(&self, name: &OsStr) -> Option<Name> {
        self.known().get_key_value(name).map(|(name, _)| name.clone())
    }

    /// The name in the index of the upper file with this inode number.
    pub(crate) fn find_upper(&self, number: u64) -> Option<Name> {
        let known = self.known();
        known.iter().find(|(_, upper)| **upper == number).map(|(name, _)| name.clone())
    }

    /// Remembers the file just linked into the index.
    pub(crate) fn remember(&self, name: Name, number: u64) {
        self.known().insert(name, number);
    }

    /// Removes a file that has no name left in the merged tree.
    ///
    /// # Errors
    ///
    /// Those of unlink(2).
    pub(crate) fn remove(&self, name: &OsStr) -> nix::Result<()> {
        self.known().remove(name);
        self.folder()?.unlink(name)
    }

    /// How many more names than upper links the file has in the merged tree; mostly negative or
    /// zero once every name is copied up, as the index itself is a link.
    ///
    /// # Errors
    ///
    /// Those of getxattr(2), except that a missing attribute counts as -1.
    pub(crate) fn difference(&self, name: &OsStr) -> nix::Result<i64> {
        match xattr::get(&self.folder()?.attributes_of(name)?, origin::LINKS_ATTRIBUTE) {
            Ok(value) => Ok(origin::parse_links(&value).unwrap_or(-1)),
            Err(Errno::ENODATA) => Ok(-1),
            Err(errno) => Err(errno),
        }
    }

    /// Stores [`Index::difference`].
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
    pub(crate) fn set_difference(&self, name: &OsStr, difference: i64) -> nix::Result<()> {
        let value = origin::format_links(difference);
        let subject = self.folder()?.attributes_of(name)?;
        xattr::set(&subject, origin::LINKS_ATTRIBUTE, value.as_bytes(), 0)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Name, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name that the lower file `name` in `folder` has in the index.
///
/// # Errors
///
/// Those of open(2) and `name_to_handle_at(2)`, except the lack of handles.
pub(crate) fn name_of(layer: &Layer, folder: &Folder, name: &OsStr) -> nix::Result<OsString> {
    let file = folder.path_only(name)?;
    match stat::file_handle(file.as_fd()) {
        Ok((kind, handle)) => Ok(origin::index_name(layer.file_system, kind, &handle)),
        Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW | Errno::ENOSYS) => {
            let number = nix::sys::stat::fstat(&file)?.st_ino;
            Ok(origin::index_name(layer.file_system, NO_HANDLE, &number.to_be_bytes()))
        }
        Err(errno) => Err(errno),
    }
}
