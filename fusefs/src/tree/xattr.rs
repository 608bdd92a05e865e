//! Extended attributes, access control lists among them.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use super::Tree;
use crate::format::xattr as attribute;
use crate::inode::Ino;
use crate::sys::xattr::{self, Subject};

impl Tree {
    /// The value of the attribute `name`.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none; `EOPNOTSUPP`.
    pub fn get_xattr(&self, ino: Ino, name: &OsStr) -> nix::Result<Vec<u8>> {
        let name = c_name(name)?;
        self.state().with_object(ino, |object| xattr::get(&object.attributes()?, &name))
    }

    /// The names of all attributes that the inside may see, each ended by a NUL byte.
    ///
    /// # Errors
    ///
    /// Those of listxattr(2), except that a file system without attributes has an empty list.
    pub fn list_xattr(&self, ino: Ino) -> nix::Result<Vec<u8>> {
        match self.state().with_object(ino, |object| xattr::list(&object.attributes()?)) {
            Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
            list => Ok(attribute::visible(&list?)),
        }
    }

    /// Sets the attribute `name`; `flags` as in setxattr(2).
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENODATA` as the flags say; `ENOSPC`; `EOPNOTSUPP`; those of copying up.
    pub fn set_xattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> nix::Result<()> {
        self.change_xattr(ino, name, |subject, name| xattr::set(subject, name, value, flags))
    }

    /// Removes the attribute `name`.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none; those of copying up.
    pub fn remove_xattr(&self, ino: Ino, name: &OsStr) -> nix::Result<()> {
        self.change_xattr(ino, name, xattr::remove)
    }

    fn change_xattr(
        &self,
        ino: Ino,
        name: &OsStr,
        change: impl FnOnce(&Subject<'_>, &CStr) -> nix::Result<()>,
    ) -> nix::Result<()> {
        let name = c_name(name)?;
        self.copy_up(ino, None)?;
        let mut state = self.state();
        state.with_object(ino, |object| change(&object.attributes()?, &name))?;
        // An access control list changes the permissions too.
        state.table.outdate(ino);
        if name.as_c_str() == attribute::ACCESS_ACL {
            state.attr(ino)?;
        }
        if name.as_c_str() == attribute::DEFAULT_ACL {
            state.opened(ino)?.default_acl = None;
        }
        Ok(())
    }
}

/// The name of an attribute on disk, for a system call.
fn c_name(name: &OsStr) -> nix::Result<CString> {
    CString::new(attribute::on_disk(name.as_bytes())).map_err(|_nul| Errno::EINVAL)
}
