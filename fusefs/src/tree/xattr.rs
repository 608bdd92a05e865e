//! Extended attributes, access control lists among them.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use super::{State, Tree};
use crate::format::xattr as attribute;
use crate::inode::Ino;
use crate::inode::table::Place;
use crate::sys::xattr::{self, Subject};

impl Tree {
    /// The value of the attribute `name`.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none or it belongs to the format; `EOPNOTSUPP`.
    pub fn get_xattr(&self, ino: Ino, name: &OsStr) -> nix::Result<Vec<u8>> {
        if attribute::is_private(name.as_bytes()) {
            return Err(Errno::ENODATA);
        }
        let name = c_name(name)?;
        self.state().with_attributes(ino, |subject| xattr::get(subject, &name))
    }

    /// The names of all attributes that the inside may see, each ended by a NUL byte.
    ///
    /// # Errors
    ///
    /// Those of listxattr(2), except that a file system without attributes has an empty list.
    pub fn list_xattr(&self, ino: Ino) -> nix::Result<Vec<u8>> {
        match self.state().with_attributes(ino, xattr::list) {
            Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
            list => Ok(attribute::visible(&list?)),
        }
    }

    /// Sets the attribute `name`; `flags` as in setxattr(2).
    ///
    /// # Errors
    ///
    /// `EPERM` if it belongs to the format; `EEXIST`, `ENODATA` as the flags say; `ENOSPC`;
    /// `EOPNOTSUPP`; those of copying up.
    pub fn set_xattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> nix::Result<()> {
        self.change_xattr(ino, name, |subject, name| xattr::set(subject, name, value, flags))
    }

    /// Removes the attribute `name`.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none; `EPERM` if it belongs to the format; those of copying up.
    pub fn remove_xattr(&self, ino: Ino, name: &OsStr) -> nix::Result<()> {
        self.change_xattr(ino, name, xattr::remove)
    }

    fn change_xattr(
        &self,
        ino: Ino,
        name: &OsStr,
        change: impl FnOnce(&Subject<'_>, &CStr) -> nix::Result<()>,
    ) -> nix::Result<()> {
        if attribute::is_private(name.as_bytes()) {
            return Err(Errno::EPERM);
        }
        let name = c_name(name)?;
        self.copy_up(ino, None)?;
        let mut state = self.state();
        state.with_attributes(ino, |subject| change(subject, &name))?;
        // An access control list changes the permissions too.
        state.table.get_mut(ino)?.fresh = false;
        if name.as_c_str() == attribute::DEFAULT_ACL {
            state.opened(ino)?.default_acl = None;
        }
        Ok(())
    }
}

impl State {
    /// Calls `act` with what stands for the attributes of `ino`.
    fn with_attributes<T>(
        &mut self,
        ino: Ino,
        act: impl FnOnce(&Subject<'_>) -> nix::Result<T>,
    ) -> nix::Result<T> {
        match self.table.get(ino)?.place.clone() {
            Place::Hidden(folder, name) => act(&folder.attributes_of(&name)?),
            Place::Nameless(file) => act(&Subject::open(file.as_fd())?),
            Place::Removed => Err(Errno::ENOENT),
            Place::Indexed(name) => act(&self.upper()?.index.folder()?.attributes_of(&name)?),
            Place::Upper if ino == Ino::ROOT => act(&self.upper()?.root.own_attributes()?),
            Place::Lower(layer) if ino == Ino::ROOT => {
                act(&self.layer(layer)?.root.own_attributes()?)
            }
            Place::Upper => {
                let (parent, name) = self.table.get(ino)?.name()?;
                act(&self.upper_folder(parent)?.attributes_of(&name)?)
            }
            Place::Lower(layer) => {
                let (parent, name) = self.table.get(ino)?.name()?;
                act(&self.lower_folder(parent, layer)?.attributes_of(&name)?)
            }
        }
    }
}

/// The name of an attribute for a system call.
fn c_name(name: &OsStr) -> nix::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_nul| Errno::EINVAL)
}
