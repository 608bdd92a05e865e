//! From a name to a node.

use std::ffi::{OsStr, OsString};

use nix::dir::Type;
use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::{State, Tree};
use crate::format::permissions::Permissions;
use crate::inode::Ino;
use crate::inode::attr::Attr;
use crate::inode::table::{Link, Node, Place};
use crate::layer::LayerIndex;
use crate::layer::stack::Name;
use crate::upper::marks::Marks;
use crate::upper::{index, permissions};

impl Tree {
    /// Finds `name` in the directory `parent`, and counts one reference to what it finds.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> nix::Result<Attr> {
        let mut state = self.state();
        let ino = state.admit(parent, name)?;
        let attr = state.attr(ino)?;
        state.table.get_mut(ino)?.lookups += 1;
        Ok(attr)
    }

    /// Gives back `count` references to `ino`.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.state().table.forget(ino, count);
    }
}

impl State {
    /// The node behind `name` in `parent`, entered into the table if need be.
    pub(super) fn admit(&mut self, parent: Ino, name: &OsStr) -> nix::Result<Ino> {
        let entry = self.entry(parent, name)?;
        let (ino, top, name) = (entry.ino, entry.top, Name::clone(&entry.name));
        if entry.number != 0 && self.table.contains(ino) {
            // A name of a hard link that was forgotten while another one was in use.
            self.readmit(ino, parent, &name)?;
            self.table.add_name(ino, parent, &name)?;
            return Ok(ino);
        }
        let stat = self.stat_entry(parent, &name, top)?;
        let (ino, number) = self.settle(parent, &name, &stat)?;
        if !self.table.contains(ino) {
            let place = self.place(parent, &name, &stat)?;
            let folders = self.entry(parent, &name)?.folders.len();
            let held = self.held_permissions((parent, &name), &place, &stat)?;
            let mut node = Node::new(Attr::new(ino, number, &stat), place);
            if let Some(permissions) = held {
                node.attr.show(permissions);
                node.held = true;
            }
            if node.attr.is_folder() {
                node.attr.links = if folders > 1 { 1 } else { node.attr.links };
            } else {
                node.fresh = node.attr.links == 1;
                node.link_key = (stat.st_nlink > 1).then_some((top, stat.st_dev, stat.st_ino));
            }
            self.table.insert(node);
        }
        self.readmit(ino, parent, &name)?;
        self.table.add_name(ino, parent, &name)?;
        Ok(ino)
    }

    /// A node that has lost its last known name, but not its last, gets a place again.
    fn readmit(&mut self, ino: Ino, parent: Ino, name: &Name) -> nix::Result<()> {
        if !self.table.get(ino)?.is_gone() {
            return Ok(());
        }
        let top = self.entry(parent, name)?.top;
        let stat = self.stat_entry(parent, name, top)?;
        let place = self.place(parent, name, &stat)?;
        let node = self.table.get_mut(ino)?;
        node.place = place;
        node.fresh = false;
        Ok(())
    }

    /// The permissions that an attribute of an entry holds, if its layer keeps them so.
    fn held_permissions(
        &mut self,
        (parent, name): (Ino, &OsStr),
        place: &Place,
        stat: &FileStat,
    ) -> nix::Result<Option<Permissions>> {
        let top = match place {
            Place::Lower(top) => *top,
            Place::Indexed(indexed) => {
                let upper = self.upper()?;
                return upper.held(&upper.index.folder()?.attributes_of(indexed)?, stat.st_mode);
            }
            _ => {
                let folder = self.upper_folder(parent)?;
                return self.upper()?.held(&folder.attributes_of(name)?, stat.st_mode);
            }
        };
        let Some(attribute) = self.layer(top)?.permissions else { return Ok(None) };
        if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR) {
            return Ok(None);
        }
        permissions::read(&self.lower_folder(parent, top)?.attributes_of(name)?, attribute)
    }

    fn stat_entry(&mut self, parent: Ino, name: &OsStr, top: LayerIndex) -> nix::Result<FileStat> {
        if top == LayerIndex::UPPER {
            self.upper_folder(parent)?.stat(name)
        } else {
            self.lower_folder(parent, top)?.stat(name)
        }
    }

    /// Makes sure of the entry's node id and inode number, without entering a node into the table.
    pub(super) fn settle_entry(&mut self, parent: Ino, name: &OsStr) -> nix::Result<(Ino, u64)> {
        let entry = self.entry(parent, name)?;
        let (ino, top) = (entry.ino, entry.top);
        if entry.number != 0 {
            return Ok((ino, entry.number));
        }
        let stat = self.stat_entry(parent, name, top)?;
        self.settle(parent, name, &stat)
    }

    /// Gives all names of a hard link the same node id, and finds out the inode number.
    fn settle(&mut self, parent: Ino, name: &OsStr, stat: &FileStat) -> nix::Result<(Ino, u64)> {
        let entry = self.entry(parent, name)?;
        let (own, top, kind, number) = (entry.ino, entry.top, entry.kind, entry.number);
        if number != 0 {
            return Ok((own, number));
        }
        let is_link = stat.st_nlink > 1 && kind != Type::Directory;
        let ino = if is_link { self.linked_ino(parent, name, top, stat, own)? } else { own };
        let mut number = self.overlay.number(stat.st_dev, stat.st_ino);
        if top == LayerIndex::UPPER {
            let folder = self.upper_folder(parent)?;
            let marks = Marks::read(&folder.attributes_of(name)?)?;
            if marks.metacopy {
                return Err(Errno::EPERM);
            }
            let origin = marks.origin.and_then(|origin| self.overlay.number_of(origin));
            number = origin.unwrap_or(number);
        }
        let entry = self.opened(parent)?.listing.get_mut(name).ok_or(Errno::ENOENT)?;
        entry.ino = ino;
        entry.number = number;
        Ok((ino, number))
    }

    fn linked_ino(
        &mut self,
        parent: Ino,
        name: &OsStr,
        top: LayerIndex,
        stat: &FileStat,
        own: Ino,
    ) -> nix::Result<Ino> {
        let key = (top, stat.st_dev, stat.st_ino);
        if let Some(link) = self.table.links.get(&key) {
            return Ok(link.ino);
        }
        let (mut ino, mut removed) = (own, 0);
        if let Some(indexed) = self.indexed_name(parent, name, top)? {
            removed = self.upper()?.index.removed(&indexed);
        }
        if let Some(copied) = self.find_indexed(parent, name, top)? {
            let stat = self.upper()?.index.folder()?.stat(&copied)?;
            let upper_key = (LayerIndex::UPPER, stat.st_dev, stat.st_ino);
            let link = self.table.links.entry(upper_key).or_insert(Link { ino, removed: 0 });
            ino = link.ino;
        }
        self.table.links.insert(key, Link { ino, removed });
        Ok(ino)
    }

    /// The copy that the index has of a lower hard link.
    fn find_indexed(
        &mut self,
        parent: Ino,
        name: &OsStr,
        top: LayerIndex,
    ) -> nix::Result<Option<Name>> {
        let Some(indexed) = self.indexed_name(parent, name, top)? else { return Ok(None) };
        Ok(self.upper()?.index.find(&indexed))
    }

    /// The name in the index of a lower hard link, if there is anything in the index.
    fn indexed_name(
        &mut self,
        parent: Ino,
        name: &OsStr,
        top: LayerIndex,
    ) -> nix::Result<Option<OsString>> {
        match &self.overlay.upper {
            Some(upper) if top != LayerIndex::UPPER && !upper.index.is_empty() => {}
            _ => return Ok(None),
        }
        let folder = self.lower_folder(parent, top)?;
        index::name_of(self.layer(top)?, &folder, name).map(Some)
    }

    /// Where the object behind a name lies.
    fn place(&mut self, parent: Ino, name: &OsStr, stat: &FileStat) -> nix::Result<Place> {
        let entry = self.entry(parent, name)?;
        let (top, is_folder) = (entry.top, !entry.folders.is_empty());
        let upper = top == LayerIndex::UPPER;
        let plain = if upper { Place::Upper } else { Place::Lower(top) };
        if is_folder || stat.st_nlink == 1 {
            return Ok(plain);
        }
        let indexed = if upper {
            self.upper()?.index.find_upper(stat.st_ino)
        } else {
            self.find_indexed(parent, name, top)?
        };
        Ok(indexed.map_or(plain, Place::Indexed))
    }
}
