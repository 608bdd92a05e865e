//! Listing directories.

use std::ffi::OsStr;

use nix::dir::Type;
use nix::unistd::{fsync, syncfs};

use super::{State, Tree};
use crate::inode::Ino;
use crate::inode::attr::Attr;
use crate::inode::listing::{DOT, DOT_DOT};

/// One line of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The name; `.` and `..` come first.
    pub name: &'a OsStr,
    /// Where the listing goes on after this line.
    pub cookie: u64,
    /// The node id.
    pub ino: Ino,
    /// The inode number.
    pub number: u64,
    /// The type.
    pub kind: Type,
    /// The metadata, if it was asked for.
    pub attr: Option<&'a Attr>,
}

/// How much a listing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Names, node ids and types.
    Names,
    /// Metadata too; counts one reference to each node shown, except `.` and `..`.
    Metadata,
}

impl Tree {
    /// Shows the entries of `ino` after `cookie` (0 is the start) to `show`, until it returns
    /// `false` for one that it has no room for.
    ///
    /// An entry that exists throughout is shown once, whatever changes between two calls.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`; those of reading a directory.
    pub fn list(
        &self,
        ino: Ino,
        cookie: u64,
        wanted: Wanted,
        mut show: impl FnMut(&Listed<'_>) -> bool,
    ) -> nix::Result<()> {
        self.state().list(ino, cookie, wanted, &mut show)
    }

    /// Writes the directory `ino` to the disk; if it lies in a lower layer, it is there.
    ///
    /// # Errors
    ///
    /// Those of fsync(2).
    pub fn sync_folder(&self, ino: Ino) -> nix::Result<()> {
        let folder = {
            let mut state = self.state();
            if state.opened(ino)?.upper.is_none() {
                return Ok(());
            }
            state.upper_folder(ino)?
        };
        fsync(&*folder)
    }

    /// Writes everything in the upper directory's file system to the disk.
    ///
    /// # Errors
    ///
    /// Those of syncfs(2).
    pub fn sync_all(&self) -> nix::Result<()> {
        self.overlay.upper.as_ref().map_or(Ok(()), |upper| syncfs(&*upper.root))
    }
}

impl State {
    fn list(
        &mut self,
        ino: Ino,
        cookie: u64,
        wanted: Wanted,
        show: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> nix::Result<()> {
        self.opened(ino)?;
        let node = self.table.get(ino)?;
        let parent = node.parent().unwrap_or(ino);
        for (name, own, ino) in [(".", DOT, ino), ("..", DOT_DOT, parent)] {
            let number = self.table.get(ino)?.number();
            if cookie < own {
                let attr = if wanted == Wanted::Metadata { Some(self.attr(ino)?) } else { None };
                let (name, kind) = (OsStr::new(name), Type::Directory);
                if !show(&Listed { name, cookie: own, ino, number, kind, attr: attr.as_ref() }) {
                    return Ok(());
                }
            }
        }
        let mut at = cookie;
        while let Some((cookie, name, kind)) = self.table.entry_after(ino, at) {
            if !self.list_one(ino, &name, kind, cookie, wanted, show)? {
                break;
            }
            at = cookie;
        }
        Ok(())
    }

    fn list_one(
        &mut self,
        parent: Ino,
        name: &OsStr,
        kind: Type,
        cookie: u64,
        wanted: Wanted,
        show: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> nix::Result<bool> {
        if wanted == Wanted::Names {
            let (ino, number) = self.settle_entry(parent, name)?;
            return Ok(show(&Listed { name, cookie, ino, number, kind, attr: None }));
        }
        let attr = self.admit_and_look(parent, name)?;
        let ino = attr.ino;
        let shown =
            show(&Listed { name, cookie, ino, number: attr.number, kind, attr: Some(&attr) });
        if shown {
            self.table.refer(ino)?;
        } else {
            self.table.drop_unused(ino);
        }
        Ok(shown)
    }
}
