//! Objects built aside and renamed into place, so that nobody ever sees half of one.

use std::ffi::{OsStr, OsString};

use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use super::{Upper, UpperFolder};

/// An object in the work directory. Dropping it removes it.
#[derive(Debug)]
#[must_use = "dropping it removes the object"]
pub(crate) struct Staged<'a> {
    upper: &'a Upper,
    name: OsString,
    armed: bool,
}

impl<'a> Staged<'a> {
    /// Reserves a name in the work directory; nothing is there yet.
    pub(crate) fn reserve(upper: &'a Upper) -> Self {
        Self { upper, name: upper.fresh_name(), armed: true }
    }

    /// The directory that the object is built in.
    pub(crate) fn folder(&self) -> &'a UpperFolder {
        &self.upper.work
    }

    /// The name that the object has there.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Moves the object to its place. A file or whiteout there is replaced.
    ///
    /// # Errors
    ///
    /// Those of rename(2); the object is then removed.
    pub(crate) fn place(mut self, to: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        self.folder().rename(&self.name, to, name, RenameFlags::empty())?;
        self.armed = false;
        Ok(())
    }

    /// Swaps the object with what is in its place, and removes that: for a directory that
    /// replaces a whiteout, or the reverse.
    ///
    /// # Errors
    ///
    /// Those of renameat2(2); nothing has changed then.
    pub(crate) fn swap(self, to: &UpperFolder, name: &OsStr) -> nix::Result<()> {
        self.folder().rename(&self.name, to, name, RenameFlags::RENAME_EXCHANGE)
    }

    /// Takes what lies at `name` in `from` out of the merged tree, to be removed.
    ///
    /// # Errors
    ///
    /// Those of rename(2); nothing has changed then.
    pub(crate) fn take(upper: &'a Upper, from: &UpperFolder, name: &OsStr) -> nix::Result<Self> {
        let staged = Self::reserve(upper);
        from.rename(name, &upper.work, &staged.name, RenameFlags::empty())?;
        Ok(staged)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if self.upper.work.unlink(&self.name) == Err(Errno::EISDIR) {
            let emptied = self.upper.work.upper_folder(&self.name).and_then(|dir| dir.clear());
            let removed = emptied.and_then(|()| self.upper.work.remove_folder(&self.name));
            if let Err(errno) = removed {
                log::debug!("work directory keeps {:?}: {errno}", self.name);
            }
        }
    }
}
