//! The object that stands for a node in some layer, for looking at.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{FileStat, fstat};

use super::{State, Tree};
use crate::inode::Ino;
use crate::inode::attr::Timestamp;
use crate::inode::table::Place;
use crate::layer::Folder;
use crate::sys::stat::born;
use crate::sys::xattr::Subject;

/// How to reach an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Object<'a> {
    /// By its name in a directory.
    Named(&'a Folder, &'a OsStr),
    /// By a descriptor of its own.
    Open(BorrowedFd<'a>),
}

impl<'a> Object<'a> {
    /// Its metadata.
    pub(super) fn stat(&self) -> nix::Result<FileStat> {
        match *self {
            Self::Named(folder, name) => folder.stat(name),
            Self::Open(file) => fstat(file),
        }
    }

    /// When it was made, if its file system knows.
    fn born(&self) -> nix::Result<Option<Timestamp>> {
        match *self {
            Self::Named(folder, name) => born(folder.as_fd(), name),
            Self::Open(file) => born(file, OsStr::new("")),
        }
    }

    /// Its extended attributes.
    pub(super) fn attributes(&self) -> nix::Result<Subject<'a>> {
        match *self {
            Self::Named(folder, name) => folder.attributes_of(name),
            Self::Open(file) => Subject::open(file),
        }
    }

    /// Where it leads, if it is a symbolic link.
    fn link_target(&self) -> nix::Result<OsString> {
        match *self {
            Self::Named(folder, name) => folder.link_target(name),
            Self::Open(file) => readlinkat(file, ""),
        }
    }
}

impl Tree {
    /// When the topmost object of `ino` was made; a copy is younger than its original. `None` if the
    /// layer's file system does not know, or for a directory that was removed.
    ///
    /// # Errors
    ///
    /// Those of statx(2).
    pub fn born(&self, ino: Ino) -> nix::Result<Option<Timestamp>> {
        let mut state = self.state();
        if matches!(state.table.get(ino)?.place, Place::Removed) {
            return Ok(None);
        }
        state.with_object(ino, |object| object.born())
    }

    /// Where the symbolic link `ino` leads.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is none.
    pub fn read_link(&self, ino: Ino) -> nix::Result<OsString> {
        self.state().with_object(ino, |object| object.link_target())
    }
}

impl State {
    /// Calls `look` with the topmost object of `ino`.
    ///
    /// # Errors
    ///
    /// `ENOENT` for a directory that was removed; those of `look`.
    pub(super) fn with_object<T>(
        &mut self,
        ino: Ino,
        look: impl FnOnce(Object<'_>) -> nix::Result<T>,
    ) -> nix::Result<T> {
        let node = self.table.get(ino)?;
        match node.place.clone() {
            Place::Hidden(folder, name) => look(Object::Named(&folder, &name)),
            Place::Nameless(file) | Place::Partial(file, _) => look(Object::Open(file.as_fd())),
            Place::Removed => Err(Errno::ENOENT),
            Place::Indexed(name) => look(Object::Named(self.upper()?.index.folder()?, &name)),
            Place::Upper if ino == Ino::ROOT => look(Object::Open(self.upper()?.root.as_fd())),
            Place::Lower(layer) if ino == Ino::ROOT => {
                look(Object::Open(self.layer(layer)?.root.as_fd()))
            }
            Place::Upper => {
                let (parent, name) = node.name()?;
                look(Object::Named(&*self.upper_folder(parent)?, &name))
            }
            Place::Lower(layer) => {
                let (parent, name) = node.name()?;
                look(Object::Named(&*self.lower_folder(parent, layer)?, &name))
            }
        }
    }
}
