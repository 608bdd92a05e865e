//! Saying that a name of the layers below is gone.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use super::{Upper, UpperFolder, staging::Staged};
use crate::format::{opaque, whiteout, xattr as attribute};
use crate::sys::xattr;

/// How a file system can say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A character device 0:0, which Linux ≥ 5.8 lets everybody make.
    Device,
    /// An empty file `.wh.NAME`.
    File,
}

impl Style {
    /// Tries it in `folder`.
    ///
    /// # Errors
    ///
    /// Those of mknod(2), except the refusal of devices.
    pub(crate) fn supported_by(folder: &UpperFolder) -> nix::Result<Self> {
        let name = OsStr::new("#probe");
        match folder.make_node(name, libc::S_IFCHR, 0) {
            Ok(()) => folder.unlink(name).map(|()| Self::Device),
            Err(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(Self::File),
            Err(errno) => Err(errno),
        }
    }
}

impl Upper {
    /// Hides `name` in `folder`, where the upper directory has nothing by that name.
    ///
    /// # Errors
    ///
    /// `ENOSPC` and the like; `ENAMETOOLONG` for names over 251 bytes where whiteouts are files.
    pub(crate) fn hide(&self, folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        match self.style {
            Style::Device => folder.make_node(name, libc::S_IFCHR, 0),
            Style::File => make_marker(folder, name),
        }
    }

    /// Takes back what [`Upper::hide`] did.
    ///
    /// # Errors
    ///
    /// Those of unlink(2).
    pub(crate) fn take_back_hiding(&self, folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        match self.style {
            Style::Device => folder.unlink(name),
            Style::File => folder.unlink(&whiteout::marker_for(name)),
        }
    }

    /// Removes the file `name` and hides what lies below it, in one step.
    ///
    /// # Errors
    ///
    /// As [`Upper::hide`]; nothing has changed then.
    pub(crate) fn replace_file(&self, folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        match self.style {
            Style::Device => self.staged_whiteout()?.place(folder, name),
            Style::File => {
                make_marker(folder, name)?;
                folder.unlink(name)
            }
        }
    }

    /// Removes the directory `name`, which holds nothing but whiteouts, and hides what lies
    /// below it, in one step.
    ///
    /// # Errors
    ///
    /// As [`Upper::hide`]; nothing has changed then.
    pub(crate) fn replace_folder(&self, folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        match self.style {
            Style::Device => self.staged_whiteout()?.swap(folder, name),
            Style::File => {
                make_marker(folder, name)?;
                Staged::take(self, folder, name).map(drop)
            }
        }
    }

    /// Moves a finished object to a name that the upper directory hides. A whiteout that was in
    /// the way of a directory is then where that came from.
    ///
    /// # Errors
    ///
    /// Those of renameat2(2); nothing has changed then.
    pub(crate) fn move_over_whiteout(
        &self,
        from: &UpperFolder,
        from_name: &OsStr,
        is_folder: bool,
        folder: &UpperFolder,
        name: &OsStr,
    ) -> nix::Result<()> {
        // A marker is a file by another name, so that nothing is at this one.
        let in_the_way = is_folder && folder.has(name)?;
        let exchange = RenameFlags::RENAME_EXCHANGE;
        let flags = if in_the_way { exchange } else { RenameFlags::empty() };
        from.rename(from_name, folder, name, flags)?;
        self.unhide(folder, name);
        Ok(())
    }

    /// Moves an object of the upper directory and hides its old name.
    ///
    /// # Errors
    ///
    /// Those of renameat2(2) and [`Upper::hide`].
    pub(crate) fn rename_leaving_whiteout(
        &self,
        from: &UpperFolder,
        from_name: &OsStr,
        folder: &UpperFolder,
        name: &OsStr,
    ) -> nix::Result<()> {
        if self.style == Style::File {
            make_marker(from, from_name)?;
            return from.rename(from_name, folder, name, RenameFlags::empty());
        }
        match from.rename(from_name, folder, name, RenameFlags::RENAME_WHITEOUT) {
            // Not every file system can in one step. The new name first: both are better than none.
            Err(Errno::EINVAL) => {
                from.rename(from_name, folder, name, RenameFlags::empty())?;
                self.hide(from, from_name)
            }
            other => other,
        }
    }

    /// Removes the marker file of `name`, if there is one, now that something is there. It means nothing
    /// beside that, so that it may as well stay.
    pub(crate) fn unhide(&self, folder: &UpperFolder, name: &OsStr) {
        match folder.unlink(&whiteout::marker_for(name)) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENAMETOOLONG) => {}
            Err(errno) => log::debug!("the marker of {} stays: {errno}", name.display()),
        }
    }

    /// Removes the whiteouts in a directory that shows nothing, which hides what lies below by itself from
    /// then on. To the inside it is the same all the time.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2) and unlink(2).
    pub(crate) fn empty_out(&self, parent: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        let folder = parent.upper_folder(name)?;
        let mut bare = true;
        folder.for_each_entry(|_name, _kind| {
            bare = false;
            Ok(())
        })?;
        if bare {
            return Ok(());
        }
        self.make_opaque(parent, name)?;
        folder.clear()
    }

    /// Makes the directory `name` hide all layers below.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
    pub(crate) fn make_opaque(&self, folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        xattr::set(&folder.attributes_of(name)?, opaque::ATTRIBUTE, opaque::VALUE, 0)
    }

    /// Whether whiteouts of an overlay inside may be somewhere in the upper directory.
    pub(crate) fn has_whiteouts(&self) -> bool {
        self.whiteouts.load(Ordering::Relaxed)
    }

    /// Notes on disk that whiteouts of an overlay inside may be somewhere.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
    pub(crate) fn expect_whiteouts(&self) -> nix::Result<()> {
        if !self.has_whiteouts() {
            xattr::set(&self.root.own_attributes(), attribute::WHITEOUTS, b"y", 0)?;
            self.whiteouts.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes on disk that they may be in `folder`.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
    pub(crate) fn expect_whiteouts_in(&self, folder: &UpperFolder) -> nix::Result<()> {
        self.expect_whiteouts()?;
        xattr::set(&folder.own_attributes(), attribute::WHITEOUTS, b"y", 0)
    }

    /// A character device 0:0 in the work directory.
    fn staged_whiteout(&self) -> nix::Result<Staged<'_>> {
        let staged = Staged::reserve(self);
        staged.folder().make_node(staged.name(), libc::S_IFCHR, 0)?;
        Ok(staged)
    }

    /// Whether a rename can leave a whiteout behind.
    pub(crate) fn whiteouts_are_devices(&self) -> bool {
        self.style == Style::Device
    }
}

fn make_marker(folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
    match folder.make_node(&whiteout::marker_for(name), libc::S_IFREG, 0) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}
