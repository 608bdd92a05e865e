//! From a name to a node.

use std::ffi::{OsStr, OsString};

use nix::dir::Type;
use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::{State, Tree};
use crate::format::permissions::Permissions;
use crate::inode::Ino;
use crate::inode::attr::Attr;
use crate::inode::node::{Link, LinkKey, Place};
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
        let attr = state.admit_and_look(parent, name)?;
        state.table.refer(attr.ino)?;
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
        self.admit_looking(parent, name).map(|(ino, _attr)| ino)
    }

    /// The same with its metadata.
    pub(super) fn admit_and_look(&mut self, parent: Ino, name: &OsStr) -> nix::Result<Attr> {
        let (ino, attr) = self.admit_looking(parent, name)?;
        attr.map_or_else(|| self.attr(ino), Ok)
    }

    /// The same with what it has seen of the metadata.
    fn admit_looking(&mut self, parent: Ino, name: &OsStr) -> nix::Result<(Ino, Option<Attr>)> {
        let entry = self.entry(parent, name)?;
        let (mut ino, mut attr) = (entry.ino, None);
        // Else a name of a hard link that was forgotten while another one was in use.
        if entry.number == 0 || !self.table.contains(ino) {
            let stat = self.stat_entry(parent, name, entry.top)?;
            let number;
            (ino, number) = self.settle(parent, name, &stat)?;
            if !self.table.contains(ino) {
                attr = self.enter_found((parent, name), (ino, number), &stat)?;
            }
        }
        self.readmit(ino, parent, name)?;
        self.table.know((parent, name))?;
        Ok((ino, attr))
    }

    /// Makes the entry that was found to be `stat` a node. Returns the metadata, if that is all of it.
    fn enter_found(
        &mut self,
        (parent, name): (Ino, &OsStr),
        (ino, number): (Ino, u64),
        stat: &FileStat,
    ) -> nix::Result<Option<Attr>> {
        let entry = self.entry(parent, name)?;
        let place = self.place(parent, name, stat)?;
        let held = self.held_permissions((parent, name), &place, stat)?;
        let mut attr = Attr::new(ino, number, stat);
        if entry.kind == Type::CharacterDevice && attr.is_regular() {
            attr.show_as_whiteout();
        }
        if let Some(permissions) = held {
            attr.show(permissions);
        }
        self.table.admit(ino, (attr.mode, number));
        self.table.set_held(ino, held.is_some());
        self.table.set_place(ino, place)?;
        if attr.is_folder() {
            let is_merged = self.table.span(&entry).len() > 1;
            attr.links = if is_merged { 1 } else { attr.links };
            return Ok(Some(attr));
        }
        if stat.st_nlink > 1 {
            self.table.set_link_key(ino, (entry.top, stat.st_dev, stat.st_ino))?;
        }
        Ok((attr.links == 1).then_some(attr))
    }

    /// A node that has lost its last known name, but not its last, gets a place again.
    fn readmit(&mut self, ino: Ino, parent: Ino, name: &OsStr) -> nix::Result<()> {
        if !self.table.get(ino)?.is_gone() {
            return Ok(());
        }
        let top = self.entry(parent, name)?.top;
        let stat = self.stat_entry(parent, name, top)?;
        let place = self.place(parent, name, &stat)?;
        self.table.set_place(ino, place)?;
        self.table.outdate(ino);
        Ok(())
    }

    /// Finds out of a node that was taken over from another process what its record does not say.
    pub(super) fn find_again(&mut self, ino: Ino) -> nix::Result<()> {
        if self.table.get(ino)?.is_gone() {
            return Ok(());
        }
        let (parent, name) = self.table.get(ino)?.name()?;
        let top = self.entry(parent, &name)?.top;
        let stat = self.stat_entry(parent, &name, top)?;
        let place = self.place(parent, &name, &stat)?;
        self.table.set_place(ino, place)?;
        let key = (top, stat.st_dev, stat.st_ino);
        self.table.set_link_key(ino, key)?;
        let removed = match self.indexed_name(parent, &name, top)? {
            Some(indexed) => self.upper()?.index.removed(&indexed),
            None => 0,
        };
        self.table.links.insert(key, Link { ino, removed });
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
        let (top, kind, number) = (entry.top, entry.kind, entry.number);
        if number != 0 {
            return Ok((entry.ino, number));
        }
        let own = self.table.own_ino(&entry);
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
        self.table.settle((parent, name), ino, number)?;
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
        let known = self.table.links.get(&key).copied();
        if let Some(link) = known.filter(|link| self.table.is_current(link.ino)) {
            return Ok(link.ino);
        }
        // Never seen, or forgotten since: other names of a copy may be known all the same.
        let (mut ino, mut removed) = (own, known.map_or(0, |link| link.removed));
        if known.is_none()
            && let Some(indexed) = self.indexed_name(parent, name, top)?
        {
            removed = self.upper()?.index.removed(&indexed);
        }
        if let Some(copied) = self.find_indexed(parent, name, top)? {
            let stat = self.upper()?.index.folder()?.stat(&copied)?;
            let upper_key = (LayerIndex::UPPER, stat.st_dev, stat.st_ino);
            let link = self.table.links.get(&upper_key).copied();
            ino = self.link_to(upper_key, link.unwrap_or(Link { ino, removed: 0 }), own);
        }
        self.table.links.insert(key, Link { ino, removed });
        Ok(ino)
    }

    /// Keeps `link`, which stands for the node of an entry's own if its node is forgotten.
    fn link_to(&mut self, key: LinkKey, mut link: Link, own: Ino) -> Ino {
        if !self.table.is_current(link.ino) {
            link.ino = own;
        }
        self.table.links.insert(key, link);
        link.ino
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
        let (top, is_folder) = (entry.top, entry.kind == Type::Directory);
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
