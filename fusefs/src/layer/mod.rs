//! Read-only access to one layer: directory descriptors and single names beneath them.
//!
//! Nothing here can write: every descriptor is opened for reading, and no method changes anything.
//! The upper directory's own type, which can, wraps [`Folder`] in `upper`.

pub(crate) mod stack;

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;

use crate::format::origin::System;
use crate::format::{opaque, permissions, redirect, xattr as attribute};
use crate::sys::stat::file_system_uuid;
use crate::sys::{dents, xattr};

/// The position of a layer: 0 is the upper directory, whether or not there is one, 1 the topmost
/// lower directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LayerIndex(pub(crate) u16);

impl LayerIndex {
    /// The upper directory.
    pub(crate) const UPPER: Self = Self(0);
}

/// What the attributes of a directory say about the layers below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Nothing below shows through.
    pub(crate) opaque: bool,
    /// Below, it has another name.
    pub(crate) redirect: Option<redirect::Redirect>,
    /// Whiteouts of an overlay inside may be in it.
    pub(crate) whiteouts: bool,
}

/// A directory of some layer, open for reading.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Folder {
    /// Opens the directory at `path`, following symbolic links: the user named it.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `EACCES` and others of open(2).
    pub(crate) fn open(path: &Path) -> nix::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        quietly(flags, |flags| open(path, flags, Mode::empty())).map(Self)
    }

    /// Opens the directory `name`.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `ENOTDIR` if it is anything else, a symbolic link too.
    pub(crate) fn folder(&self, name: &OsStr) -> nix::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match quietly(flags, |flags| openat(&self.0, name, flags, Mode::empty())) {
            Err(Errno::ELOOP) => Err(Errno::ENOTDIR),
            other => other.map(Self),
        }
    }

    /// Opens the regular file `name` for reading. Nothing else is ever opened: a fifo would
    /// block, a device may act.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `ENXIO` if it is not a regular file; `EACCES`.
    pub(crate) fn file(&self, name: &OsStr) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file =
            quietly(flags | OFlag::O_NOCTTY, |flags| openat(&self.0, name, flags, Mode::empty()))?;
        require_regular(file)
    }

    /// Opens whatever `name` is without reading or waking it.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    pub(crate) fn path_only(&self, name: &OsStr) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.0, name, flags, Mode::empty())
    }

    /// The metadata of `name` itself.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    pub(crate) fn stat(&self, name: &OsStr) -> nix::Result<FileStat> {
        fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Whether there is anything called `name`.
    ///
    /// # Errors
    ///
    /// `EIO` and the like.
    pub(crate) fn has(&self, name: &OsStr) -> nix::Result<bool> {
        match self.stat(name) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// The metadata of this directory.
    ///
    /// # Errors
    ///
    /// `EIO` and the like.
    pub(crate) fn own_stat(&self) -> nix::Result<FileStat> {
        fstat(&self.0)
    }

    /// Where the symbolic link `name` leads.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EINVAL` if it is no symbolic link.
    pub(crate) fn link_target(&self, name: &OsStr) -> nix::Result<OsString> {
        readlinkat(&self.0, name)
    }

    /// The extended attributes of `name` itself.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `name` contains a NUL byte.
    pub(crate) fn attributes_of(&self, name: &OsStr) -> nix::Result<xattr::Subject<'_>> {
        xattr::Subject::named(self.0.as_fd(), name)
    }

    /// The extended attributes of this directory.
    pub(crate) fn own_attributes(&self) -> xattr::Subject<'_> {
        xattr::Subject::file(self.0.as_fd())
    }

    /// Calls `visit` with the name and type of every entry.
    ///
    /// # Errors
    ///
    /// Those of getdents64(2), and those of `visit`.
    pub(crate) fn for_each_entry(
        &self,
        mut visit: impl FnMut(&OsStr, Option<Type>) -> nix::Result<()>,
    ) -> nix::Result<()> {
        dents::for_each_entry(self.0.as_fd(), |name, kind| visit(name, type_of_entry(kind)))
    }

    /// The attribute that holds this directory's owner and permissions, if one does.
    ///
    /// # Errors
    ///
    /// Those of listxattr(2), except the lack of attributes.
    pub(crate) fn permissions_attribute(&self) -> nix::Result<Option<&'static CStr>> {
        let list = match xattr::list(&self.own_attributes()) {
            Err(Errno::EOPNOTSUPP) => return Ok(None),
            list => list?,
        };
        let has = |name: &CStr| attribute::names(&list).any(|n| n == name.to_bytes());
        Ok(permissions::ATTRIBUTES.into_iter().find(|name| has(name)))
    }

    /// Whether the regular file `name` stands for a whiteout of an overlay inside.
    ///
    /// # Errors
    ///
    /// Those of getxattr(2).
    pub(crate) fn is_nested_whiteout(&self, name: &OsStr) -> nix::Result<bool> {
        match xattr::get(&self.attributes_of(name)?, attribute::WHITEOUT) {
            Ok(_) => Ok(true),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Whether this directory has the attribute `name`.
    ///
    /// # Errors
    ///
    /// Those of listxattr(2), except the lack of attributes.
    pub(crate) fn has_attribute(&self, name: &CStr) -> nix::Result<bool> {
        match xattr::list(&self.own_attributes()) {
            Err(Errno::EOPNOTSUPP) => Ok(false),
            list => Ok(attribute::names(&list?).any(|known| known == name.to_bytes())),
        }
    }

    /// What this directory's attributes say about the layers below.
    ///
    /// # Errors
    ///
    /// `EIO` if a redirect leads nowhere sensible.
    pub(crate) fn traits(&self) -> nix::Result<Traits> {
        let subject = self.own_attributes();
        let list = match xattr::list(&subject) {
            Ok(list) if list.is_empty() => return Ok(Traits::default()),
            Err(Errno::EOPNOTSUPP) => return Ok(Traits::default()),
            list => list?,
        };
        let has = |name: &CStr| attribute::names(&list).any(|n| n == name.to_bytes());
        let mut traits = Traits { whiteouts: has(attribute::WHITEOUTS), ..Traits::default() };
        for name in opaque::ATTRIBUTES.into_iter().filter(|name| has(name)) {
            traits.opaque |= opaque::hides(&xattr::get(&subject, name)?);
        }
        if let Some(name) = redirect::ATTRIBUTES.into_iter().find(|name| has(name)) {
            let value = xattr::get(&subject, name)?;
            traits.redirect = Some(redirect::parse(&value).ok_or(Errno::EIO)?);
        }
        Ok(traits)
    }
}

/// A read-only layer.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Its topmost directory.
    pub(crate) root: Arc<Folder>,
    /// Which file system it lies on (`f_fsid` of statfs(2)): part of an inode's name in the index.
    pub(crate) file_system: u64,
    /// The UUID of that file system, if it tells.
    pub(crate) uuid: Option<[u8; 16]>,
    /// Its device number.
    pub(crate) device: u64,
    /// The attribute that holds owners and permissions in it, if its topmost directory has one.
    pub(crate) permissions: Option<&'static CStr>,
    /// Whether whiteouts of an overlay inside may be somewhere in it.
    pub(crate) whiteouts: bool,
    /// Whether a file handle means the same after the next mount of that file system. Those of FUSE are
    /// node ids, which a server gives anew each time.
    pub(crate) handles_last: bool,
}

impl Layer {
    /// The layer whose topmost directory is `root`.
    ///
    /// # Errors
    ///
    /// Those of statfs(2).
    pub(crate) fn new(root: Folder) -> nix::Result<Self> {
        let file_system = fstatvfs(&root)?.filesystem_id();
        let (uuid, device) = (file_system_uuid(root.as_fd()), root.own_stat()?.st_dev);
        let permissions = root.permissions_attribute()?;
        let whiteouts = root.has_attribute(attribute::WHITEOUTS)?;
        let handles_last = fstatfs(&root)?.filesystem_type() != FUSE_SUPER_MAGIC;
        let root = Arc::new(root);
        Ok(Self { root, file_system, uuid, device, permissions, whiteouts, handles_last })
    }

    /// Whether it lies on the file system that a record names.
    pub(crate) fn is_on(&self, system: System) -> bool {
        match system {
            System::Uuid(uuid) => self.uuid == Some(uuid),
            System::Id(id) => self.file_system == id,
        }
    }
}

/// Opens without touching the access time, where the owner of the file lets us.
fn quietly(flags: OFlag, attempt: impl Fn(OFlag) -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    match attempt(flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => attempt(flags),
        other => other,
    }
}

/// Hands `file` back if it is a regular file.
///
/// # Errors
///
/// `ENXIO` if it is anything else.
pub(crate) fn require_regular(file: OwnedFd) -> nix::Result<OwnedFd> {
    let kind = fstat(&file)?.st_mode & SFlag::S_IFMT.bits();
    if kind == SFlag::S_IFREG.bits() { Ok(file) } else { Err(Errno::ENXIO) }
}

/// The type behind `DT_*`; `None` if the file system does not say.
fn type_of_entry(kind: u8) -> Option<Type> {
    match kind {
        libc::DT_FIFO => Some(Type::Fifo),
        libc::DT_CHR => Some(Type::CharacterDevice),
        libc::DT_DIR => Some(Type::Directory),
        libc::DT_BLK => Some(Type::BlockDevice),
        libc::DT_REG => Some(Type::File),
        libc::DT_LNK => Some(Type::Symlink),
        libc::DT_SOCK => Some(Type::Socket),
        _ => None,
    }
}

/// The type in the mode of a file.
pub(crate) fn type_of_mode(mode: u32) -> Type {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Type::Directory,
        SFlag::S_IFLNK => Type::Symlink,
        SFlag::S_IFIFO => Type::Fifo,
        SFlag::S_IFSOCK => Type::Socket,
        SFlag::S_IFCHR => Type::CharacterDevice,
        SFlag::S_IFBLK => Type::BlockDevice,
        _ => Type::File,
    }
}

/// The reverse of [`type_of_mode`].
pub(crate) fn mode_of_type(kind: Type) -> u32 {
    match kind {
        Type::Directory => libc::S_IFDIR,
        Type::Symlink => libc::S_IFLNK,
        Type::Fifo => libc::S_IFIFO,
        Type::Socket => libc::S_IFSOCK,
        Type::CharacterDevice => libc::S_IFCHR,
        Type::BlockDevice => libc::S_IFBLK,
        Type::File => libc::S_IFREG,
    }
}
