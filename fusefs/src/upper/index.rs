//! Which lower file a copied-up hard link came from.
//!
//! A lower file with several names is copied up once, for all of them. The copy gets a name in
//! `links` beneath the work directory, which says where it came from; the other names find it
//! there, after a remount too. The form is our own (kernel overlayfs keeps its index elsewhere
//! and reads the upper directory the same without it).
//!
//! Beside a name, `NAME.n` is an empty file that says how many names the merged tree has, where the
//! copy itself can have no such attribute or there is none yet.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;

use super::UpperFolder;
use crate::format::origin::{self, LINKS_ATTRIBUTE, Links};
use crate::layer::stack::Name;
use crate::layer::{Folder, Layer};
use crate::sys::{stat, xattr};

/// The directory of the index, beneath the work directory.
const FOLDER: &str = "links";
/// What names of files that only count end with.
const COUNT: &[u8] = b".n";
/// Stands for the handle type where the file system has no handles: the inode number is used.
const NO_HANDLE: i32 = -1;

/// The copied-up hard links of one upper directory.
#[derive(Debug)]
pub(crate) struct Index {
    workdir: UpperFolder,
    folder: OnceLock<UpperFolder>,
    known: Mutex<Known>,
}

/// What lies in the index.
#[derive(Debug, Default)]
struct Known {
    /// Upper inode numbers by name.
    copies: HashMap<Name, u64>,
    /// How many names of lower files that were not copied up are gone, by the name that the copy
    /// would have.
    removed: HashMap<Name, u32>,
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
            known: Mutex::default(),
        };
        match workdir.upper_folder(OsStr::new(FOLDER)) {
            Err(Errno::ENOENT) => return Ok(index),
            folder => {
                let folder = index.folder.get_or_init({
                    let folder = folder?;
                    move || folder
                });
                let mut known = index.known();
                folder.for_each_entry(|name, _kind| known.add(folder, name))?;
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

    /// Whether nothing is known of any lower file with several names.
    pub(crate) fn is_empty(&self) -> bool {
        let known = self.known();
        known.copies.is_empty() && known.removed.is_empty()
    }

    /// The copy of the lower file with this name in the index.
    pub(crate) fn find(&self, name: &OsStr) -> Option<Name> {
        self.known().copies.get_key_value(name).map(|(name, _)| name.clone())
    }

    /// How many names of the lower file with this name in the index are gone, though it was never
    /// copied up.
    pub(crate) fn removed(&self, name: &OsStr) -> u32 {
        self.known().removed.get(name).copied().unwrap_or(0)
    }

    /// Stores [`Index::removed`]; 0 for a file that is gone with its last name.
    ///
    /// # Errors
    ///
    /// Those of making a file and of setxattr(2).
    pub(crate) fn set_removed(&self, name: &OsStr, removed: u32) -> nix::Result<()> {
        if removed > 0 {
            self.write_count(name, Links::Lower(-i64::from(removed)))?;
            self.known().removed.insert(name.into(), removed);
        } else if self.known().removed.remove(name).is_some() {
            self.remove_count(name)?;
        }
        Ok(())
    }

    /// The name in the index of the upper file with this inode number.
    pub(crate) fn find_upper(&self, number: u64) -> Option<Name> {
        let known = self.known();
        known.copies.iter().find(|(_, upper)| **upper == number).map(|(name, _)| name.clone())
    }

    /// Remembers the file just entered; what the lower file has lost is counted for the copy from now on.
    pub(crate) fn remember(&self, name: Name, number: u64) {
        let had_lost = self.known().removed.remove(&name).is_some();
        if had_lost && let Err(errno) = self.forget_lost(&name) {
            log::debug!("the index keeps how many names were lost before the copy: {errno}");
        }
        self.known().copies.insert(name, number);
    }

    /// Removes the file that counts for `name`, unless it counts for the copy.
    fn forget_lost(&self, name: &OsStr) -> nix::Result<()> {
        match read_count(self.folder()?, &count_of(name))? {
            Some(Links::Lower(_)) => self.remove_count(name),
            _ => Ok(()),
        }
    }

    /// Removes a file that has no name left in the merged tree.
    ///
    /// # Errors
    ///
    /// Those of unlink(2).
    pub(crate) fn remove(&self, name: &OsStr) -> nix::Result<()> {
        self.folder()?.unlink(name)?;
        self.known().copies.remove(name);
        self.remove_count(name)
    }

    /// How many more names than upper links the file has in the merged tree; mostly negative or
    /// zero once every name is copied up, as the index itself is a link.
    ///
    /// # Errors
    ///
    /// Those of getxattr(2), except that a missing attribute counts as -1.
    pub(crate) fn difference(&self, name: &OsStr) -> nix::Result<i64> {
        let folder = self.folder()?;
        let links = match read_count(folder, name)? {
            None => read_count(folder, &count_of(name))?,
            links => links,
        };
        Ok(if let Some(Links::Upper(difference)) = links { difference } else { -1 })
    }

    /// Stores [`Index::difference`].
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
    pub(crate) fn set_difference(&self, name: &OsStr, difference: i64) -> nix::Result<()> {
        let links = Links::Upper(difference);
        match set_count(self.folder()?, name, links) {
            // A symbolic link or special file has no such attributes.
            Err(Errno::EPERM) => self.write_count(name, links),
            set => set,
        }
    }

    /// Enters the file `copy` under `name`: the merged tree has `difference` more names for it than it
    /// will have links.
    ///
    /// # Errors
    ///
    /// Those of linkat(2) and setxattr(2); nothing has changed then.
    pub(crate) fn enter(
        &self,
        (folder, copy): (&UpperFolder, &OsStr),
        name: &OsStr,
        difference: i64,
    ) -> nix::Result<()> {
        folder.link(copy, self.folder()?, name)?;
        self.set_difference(name, difference).or_else(|errno| {
            self.folder()?.unlink(name)?;
            Err(errno)
        })
    }

    /// Takes back what [`Index::enter`] did, and stores again how many names the lower file has lost.
    ///
    /// # Errors
    ///
    /// Those of unlink(2) and setxattr(2).
    pub(crate) fn withdraw(&self, name: &OsStr, removed: u32) -> nix::Result<()> {
        self.folder()?.unlink(name)?;
        if removed > 0 { self.set_removed(name, removed) } else { self.remove_count(name) }
    }

    /// Writes `links` into the file that counts for `name`.
    fn write_count(&self, name: &OsStr, links: Links) -> nix::Result<()> {
        let (folder, count) = (self.folder()?, count_of(name));
        match folder.make_node(&count, libc::S_IFREG | 0o600, 0) {
            Ok(()) | Err(Errno::EEXIST) => set_count(folder, &count, links),
            Err(errno) => Err(errno),
        }
    }

    fn remove_count(&self, name: &OsStr) -> nix::Result<()> {
        match self.folder()?.unlink(&count_of(name)) {
            Err(Errno::ENOENT) => Ok(()),
            removed => removed,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Takes in what lies in `folder`, the index, under `name`.
    fn add(&mut self, folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        match name.as_bytes().strip_suffix(COUNT) {
            None => {
                self.copies.insert(name.into(), folder.stat(name)?.st_ino);
            }
            Some(counted) => {
                if let Some(Links::Lower(difference)) = read_count(folder, name)? {
                    let removed = u32::try_from(-difference).unwrap_or(0);
                    self.removed.insert(OsStr::from_bytes(counted).into(), removed);
                }
            }
        }
        Ok(())
    }
}

/// The name of the file that counts for `name`.
fn count_of(name: &OsStr) -> OsString {
    let mut count = name.to_owned();
    count.push(OsStr::from_bytes(COUNT));
    count
}

/// What `name` says of the number of names; a broken value says nothing.
fn read_count(folder: &UpperFolder, name: &OsStr) -> nix::Result<Option<Links>> {
    match xattr::get(&folder.attributes_of(name)?, LINKS_ATTRIBUTE) {
        Ok(value) => Ok(Links::parse(&value)),
        Err(Errno::ENODATA | Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn set_count(folder: &UpperFolder, name: &OsStr, links: Links) -> nix::Result<()> {
    let subject = folder.attributes_of(name)?;
    xattr::set(&subject, LINKS_ATTRIBUTE, links.format().as_bytes(), 0)
}

/// The name that the lower file `name` in `folder` has in the index.
///
/// # Errors
///
/// Those of open(2) and `name_to_handle_at(2)`, except the lack of handles that last.
pub(crate) fn name_of(layer: &Layer, folder: &Folder, name: &OsStr) -> nix::Result<OsString> {
    let file = folder.path_only(name)?;
    let handle =
        if layer.handles_last { stat::file_handle(file.as_fd()) } else { Err(Errno::EOPNOTSUPP) };
    match handle {
        Ok((kind, handle)) => Ok(origin::index_name(layer.file_system, kind, &handle)),
        Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW | Errno::ENOSYS) => {
            let number = nix::sys::stat::fstat(&file)?.st_ino;
            Ok(origin::index_name(layer.file_system, NO_HANDLE, &number.to_be_bytes()))
        }
        Err(errno) => Err(errno),
    }
}
