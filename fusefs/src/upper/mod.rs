//! The upper directory and its work directory: all that this crate ever writes.

pub(crate) mod copy_up;
pub(crate) mod index;
pub(crate) mod marks;
pub(crate) mod partial;
pub(crate) mod permissions;
pub(crate) mod staging;
pub(crate) mod whiteout;

use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::format::xattr as attribute;
use crate::layer::{Folder, require_regular};
use permissions::Keeping;

/// A directory of the upper layer or the work directory. Reads like [`Folder`], and writes.
#[derive(Debug)]
pub(crate) struct UpperFolder(Folder);

impl Deref for UpperFolder {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.0
    }
}

impl AsFd for UpperFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The methods pass the errors of the system call they are named after.
impl UpperFolder {
    /// Opens the directory at `path`, which the user named as his upper or work directory.
    pub(crate) fn open(path: &Path) -> nix::Result<Self> {
        Folder::open(path).map(Self)
    }

    /// Takes a directory that was found in the upper layer.
    pub(crate) fn of_upper_layer(folder: Folder) -> Self {
        Self(folder)
    }

    /// Opens the directory `name` for writing too.
    pub(crate) fn upper_folder(&self, name: &OsStr) -> nix::Result<Self> {
        self.0.folder(name).map(Self)
    }

    /// Makes the regular file `name`, which must not exist, and opens it for reading and writing.
    pub(crate) fn create(&self, name: &OsStr, mode: u32) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(self, name, flags, permissions(mode))
    }

    /// Makes a regular file without a name, open for reading and writing; for good, with `stays`.
    pub(crate) fn create_nameless(&self, mode: u32, stays: bool) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let flags = if stays { flags | OFlag::O_EXCL } else { flags };
        openat(self, ".", flags, permissions(mode))
    }

    /// Opens the regular file `name` for reading and writing.
    pub(crate) fn writable(&self, name: &OsStr) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        require_regular(openat(self, name, flags | OFlag::O_NOCTTY, Mode::empty())?)
    }

    /// Makes the directory `name`.
    pub(crate) fn make_folder(&self, name: &OsStr, mode: u32) -> nix::Result<()> {
        mkdirat(self, name, permissions(mode))
    }

    /// Makes the fifo, socket, device or regular file `name`.
    pub(crate) fn make_node(&self, name: &OsStr, mode: u32, device: u64) -> nix::Result<()> {
        let kind = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
        mknodat(self, name, kind, permissions(mode), device)
    }

    /// Makes the symbolic link `name` that leads to `target`.
    pub(crate) fn make_symlink(&self, target: &OsStr, name: &OsStr) -> nix::Result<()> {
        symlinkat(target, self, name)
    }

    /// Gives the file `name` of this directory another name.
    pub(crate) fn link(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> nix::Result<()> {
        linkat(self, name, to, to_name, AtFlags::empty())
    }

    /// Gives a file that has no name yet its first.
    pub(crate) fn link_open(&self, file: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(AT_FDCWD, path.as_str(), self, name, AtFlags::AT_SYMLINK_FOLLOW)
    }

    /// Removes the name of anything but a directory.
    pub(crate) fn unlink(&self, name: &OsStr) -> nix::Result<()> {
        unlinkat(self, name, UnlinkatFlags::NoRemoveDir)
    }

    /// Removes the empty directory `name`.
    pub(crate) fn remove_folder(&self, name: &OsStr) -> nix::Result<()> {
        unlinkat(self, name, UnlinkatFlags::RemoveDir)
    }

    /// Moves `name`, atomically.
    pub(crate) fn rename(
        &self,
        name: &OsStr,
        to: &Self,
        to_name: &OsStr,
        flags: RenameFlags,
    ) -> nix::Result<()> {
        renameat2(self, name, to, to_name, flags)
    }

    /// Sets the permissions of `name`, which is no symbolic link.
    pub(crate) fn set_mode(&self, name: &OsStr, mode: u32) -> nix::Result<()> {
        fchmodat(self, name, permissions(mode), FchmodatFlags::FollowSymlink)
    }

    /// Sets owner and group of `name` itself.
    pub(crate) fn set_owner(
        &self,
        name: &OsStr,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> nix::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        fchownat(self, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Sets the times of access and modification of `name` itself.
    pub(crate) fn set_times(
        &self,
        name: &OsStr,
        accessed: &TimeSpec,
        modified: &TimeSpec,
    ) -> nix::Result<()> {
        utimensat(self, name, accessed, modified, UtimensatFlags::NoFollowSymlink)
    }

    /// Removes everything in this directory.
    pub(crate) fn clear(&self) -> nix::Result<()> {
        let mut names: Vec<OsString> = Vec::new();
        self.for_each_entry(|name, _kind| {
            names.push(name.to_owned());
            Ok(())
        })?;
        for name in names {
            match self.unlink(&name) {
                Err(Errno::EISDIR) => {
                    self.upper_folder(&name)?.clear()?;
                    self.remove_folder(&name)?;
                }
                other => other?,
            }
        }
        Ok(())
    }
}

/// The permission bits of `mode`, without the type.
fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

/// The writable layer.
#[derive(Debug)]
pub(crate) struct Upper {
    /// Its topmost directory.
    pub(crate) root: Arc<UpperFolder>,
    /// Where new objects are built before they are renamed into place; empty after a clean end.
    work: UpperFolder,
    /// The work directory itself.
    workdir: UpperFolder,
    /// Partial copies in the work directory, once there is one.
    partials: OnceLock<UpperFolder>,
    /// Copied-up hard links, by the lower file they come from.
    pub(crate) index: index::Index,
    /// Where owners and permissions lie.
    pub(crate) keeping: Keeping,
    /// How this file system says that a name is gone.
    style: whiteout::Style,
    /// Whether whiteouts of an overlay inside may be somewhere in it.
    whiteouts: AtomicBool,
    /// The next name in the work directory.
    next: AtomicU64,
}

/// What holds staged objects, beneath the work directory; kernel overlayfs names and clears it so.
const WORK: &str = "work";

impl Upper {
    /// Takes the two directories into use: clears what an unclean end left in the work directory
    /// and finds out how whiteouts can be written.
    ///
    /// # Errors
    ///
    /// Those of writing to the work directory.
    pub(crate) fn prepare(
        root: UpperFolder,
        workdir: &UpperFolder,
        keeping: Keeping,
    ) -> nix::Result<Self> {
        match workdir.make_folder(OsStr::new(WORK), 0o700) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let work = workdir.upper_folder(OsStr::new(WORK))?;
        work.clear()?;
        let style = whiteout::Style::supported_by(&work)?;
        let index = index::Index::load(workdir)?;
        let workdir = workdir.upper_folder(OsStr::new("."))?;
        let whiteouts = AtomicBool::new(root.has_attribute(attribute::WHITEOUTS)?);
        let (root, next, partials) = (Arc::new(root), AtomicU64::new(0), OnceLock::new());
        Ok(Self { root, work, workdir, partials, index, keeping, style, whiteouts, next })
    }

    /// A name that nothing in the work directory has.
    fn fresh_name(&self) -> OsString {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed)).into()
    }
}
