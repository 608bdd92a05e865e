//! The object that stands for a node in some layer, for looking at.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{FileStat, fstat};

use super::{State, Tree};
use crate::inode::Ino;
use crate::inode::attr::Timestamp;
use crate::inode::node::Place;
use crate::layer::Folder;
use crate::sys::flags;
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

    /// Calls `act` with it open for reading: a regular file or, with `folder`, a directory.
    fn open<T>(
        &self,
        folder: bool,
        act: impl FnOnce(BorrowedFd<'_>) -> nix::Result<T>,
    ) -> nix::Result<T> {
        match *self {
            Self::Named(parent, name) if folder => act(parent.folder(name)?.as_fd()),
            Self::Named(parent, name) => act(parent.file(name)?.as_fd()),
            Self::Open(file) => act(file),
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
        if matches!(state.table.get(ino)?.place(), Place::Removed) {
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

impl Tree {
    /// The flags of a file or directory that chattr(1) sets.
    ///
    /// # Errors
    ///
    /// `ENOTTY` for anything else; `ENOTTY` or `EOPNOTSUPP` where the file system has none.
    pub fn flags(&self, ino: Ino) -> nix::Result<u32> {
        self.state().with_open(ino, flags::get)
    }

    /// The same and more, as the kernel's `struct fsxattr`.
    ///
    /// # Errors
    ///
    /// Those of [`Tree::flags`].
    pub fn extended_flags(&self, ino: Ino) -> nix::Result<[u8; flags::EXTENDED]> {
        self.state().with_open(ino, flags::get_extended)
    }

    /// Sets them. They are those of the upper directory's file: a copy begins without any.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for what the file system lacks, and for append-only files: we write where we are told
    /// to; `EPERM` for what real root alone may set; those of copying up.
    pub fn set_flags(&self, ino: Ino, flags: u32) -> nix::Result<()> {
        /// `FS_APPEND_FL`.
        const APPEND_ONLY: u32 = 0x20;
        if flags & APPEND_ONLY != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.copy_up_whole(ino)?;
        let mut state = self.state();
        state.with_open(ino, |file| flags::set(file, flags))?;
        state.table.outdate(ino);
        Ok(())
    }
}

impl State {
    /// Calls `act` with the regular file or directory `ino`, open for reading.
    fn with_open<T>(
        &mut self,
        ino: Ino,
        act: impl FnOnce(BorrowedFd<'_>) -> nix::Result<T>,
    ) -> nix::Result<T> {
        let node = self.table.get(ino)?;
        let is_folder = node.is_folder();
        if !is_folder && !node.is_regular() {
            return Err(Errno::ENOTTY);
        }
        self.with_object(ino, |object| object.open(is_folder, act))
    }

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
        if let Some(file) = node.file().cloned() {
            return look(Object::Open(file.as_fd()));
        }
        match node.place() {
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
