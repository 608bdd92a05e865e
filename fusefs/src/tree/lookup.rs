//! From a name to a node.

use std::ffi::OsStr;

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::{State, Tree};
use crate::inode::Ino;
use crate::inode::attr::Attr;
use crate::inode::table::{Link, Node, Place};
use crate::layer::LayerIndex;
use crate::layer::stack::Name;
use crate::upper::index;

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
        let settled = entry.settled;
        if settled && self.table.contains(ino) {
            // A name of a hard link that was forgotten while another one was in use.
            self.readmit(ino, parent, &name)?;
            self.table.add_name(ino, parent, &name)?;
            return Ok(ino);
        }
        let stat = self.stat_entry(parent, &name, top)?;
        let ino = self.settle(parent, &name, &stat)?;
        if !self.table.contains(ino) {
            let place = self.place(parent, &name, &stat)?;
            let folders = self.entry(parent, &name)?.folders.len();
            let mut node = Node::new(Attr::new(ino, &stat), place);
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

    fn stat_entry(&mut self, parent: Ino, name: &OsStr, top: LayerIndex) -> nix::Result<FileStat> {
        if top == LayerIndex::UPPER {
            self.upper_folder(parent)?.stat(name)
        } else {
            self.lower_folder(parent, top)?.stat(name)
        }
    }

    /// Makes sure of the entry's node id, without entering a node into the table.
    pub(super) fn settle_entry(&mut self, parent: Ino, name: &OsStr) -> nix::Result<Ino> {
        let entry = self.entry(parent, name)?;
        let (ino, top) = (entry.ino, entry.top);
        if entry.settled {
            return Ok(ino);
        }
        let stat = self.stat_entry(parent, name, top)?;
        self.settle(parent, name, &stat)
    }

    /// Gives all names of a hard link the same node id.
    fn settle(&mut self, parent: Ino, name: &OsStr, stat: &FileStat) -> nix::Result<Ino> {
        let entry = self.entry(parent, name)?;
        let (own, top, settled) = (entry.ino, entry.top, entry.settled);
        if settled {
            return Ok(own);
        }
        let ino =
            if stat.st_nlink > 1 { self.linked_ino(parent, name, top, stat, own)? } else { own };
        let entry = self.opened(parent)?.listing.get_mut(name).ok_or(Errno::ENOENT)?;
        entry.ino = ino;
        entry.settled = true;
        Ok(ino)
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
        let mut ino = own;
        if let Some(copied) = self.find_indexed(parent, name, top)? {
            let stat = self.upper()?.index.folder()?.stat(&copied)?;
            let upper_key = (LayerIndex::UPPER, stat.st_dev, stat.st_ino);
            let link = self.table.links.entry(upper_key).or_insert(Link { ino, removed: 0 });
            ino = link.ino;
        }
        self.table.links.insert(key, Link { ino, removed: 0 });
        Ok(ino)
    }

    /// The copy that the index has of a lower hard link.
    fn find_indexed(
        &mut self,
        parent: Ino,
        name: &OsStr,
        top: LayerIndex,
    ) -> nix::Result<Option<Name>> {
        match &self.overlay.upper {
            Some(upper) if top != LayerIndex::UPPER && !upper.index.is_empty() => {}
            _ => return Ok(None),
        }
        let folder = self.lower_folder(parent, top)?;
        let indexed = index::name_of(self.layer(top)?, &folder, name)?;
        Ok(self.upper()?.index.find(&indexed))
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
