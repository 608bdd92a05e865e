//! Taking names away.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::dir::Type;
use nix::errno::Errno;

use super::{State, Tree, attr::Spot, check_name};
use crate::inode::Ino;
use crate::inode::attr::Attr;
use crate::inode::entries::At;
use crate::inode::handles::OpenFile;
use crate::inode::node::Place;
use crate::layer::LayerIndex;
use crate::layer::stack::Name;
use crate::upper::UpperFolder;
use crate::upper::index;
use crate::upper::staging::Staged;

impl Tree {
    /// Removes the name of anything but a directory. Whoever uses the file can go on.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `EISDIR`; `EROFS`; `ENOSPC` if there is no room for a whiteout.
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> nix::Result<()> {
        let mut state = self.state();
        let done = state.unlink(parent, name);
        state.drop_unused(parent, name);
        done
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `ENOTDIR`; `ENOTEMPTY`; `EROFS`; `ENOSPC`.
    pub fn remove_folder(&self, parent: Ino, name: &OsStr) -> nix::Result<()> {
        let mut state = self.state();
        let done = state.remove_folder(parent, name);
        state.drop_unused(parent, name);
        done
    }
}

impl State {
    /// Drops the node of an entry that was only looked at.
    pub(super) fn drop_unused(&mut self, parent: Ino, name: &OsStr) {
        if let Some(entry) = self.table.entry((parent, name)) {
            self.table.drop_unused(entry.ino);
        }
    }

    fn unlink(&mut self, parent: Ino, name: &OsStr) -> nix::Result<()> {
        check_name(name)?;
        if self.entry(parent, name)?.kind == Type::Directory {
            return Err(Errno::EISDIR);
        }
        let ino = self.admit(parent, name)?;
        let folder = self.raise_folder(parent)?;
        let kept = self.keep(ino)?;
        let entry = self.entry(parent, name)?;
        let (in_upper, whiteout) = (entry.top == LayerIndex::UPPER, entry.needs_whiteout());
        match (in_upper, whiteout) {
            (true, false) => folder.unlink(name)?,
            (true, true) => self.upper()?.replace_file(&folder, name)?,
            (false, _) => self.upper()?.hide(&folder, name)?,
        }
        self.drop_entry(parent, name, whiteout)?;
        self.drop_name(ino, (parent, name), in_upper, kept)
    }

    pub(super) fn remove_folder(&mut self, parent: Ino, name: &OsStr) -> nix::Result<()> {
        check_name(name)?;
        if self.entry(parent, name)?.kind != Type::Directory {
            return Err(Errno::ENOTDIR);
        }
        let ino = self.admit(parent, name)?;
        if !self.opened(ino)?.listing.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let folder = self.raise_folder(parent)?;
        let kept = self.keep(ino)?;
        let bare = self.opened(ino)?.listing.whiteouts.is_empty();
        let entry = self.entry(parent, name)?;
        let (in_upper, whiteout) = (entry.top == LayerIndex::UPPER, entry.needs_whiteout());
        let upper = self.upper()?;
        match (in_upper, whiteout) {
            (true, false) => self.remove_upper_folder(&folder, name, bare)?,
            (true, true) => upper.replace_folder(&folder, name)?,
            (false, _) => upper.hide(&folder, name)?,
        }
        self.drop_entry(parent, name, whiteout)?;
        self.drop_name(ino, (parent, name), in_upper, kept)
    }

    /// Removes a directory with nothing below it, `bare` if no whiteouts are known to be in it.
    fn remove_upper_folder(
        &self,
        folder: &UpperFolder,
        name: &OsStr,
        bare: bool,
    ) -> nix::Result<()> {
        match if bare { folder.remove_folder(name) } else { Err(Errno::ENOTEMPTY) } {
            Err(Errno::ENOTEMPTY) => Staged::take(self.upper()?, folder, name).map(drop),
            other => other,
        }
    }

    fn drop_entry(&mut self, parent: Ino, name: &OsStr, whiteout: bool) -> nix::Result<()> {
        self.table.remove_entry((parent, name))?;
        if whiteout {
            self.opened(parent)?.listing.whiteouts.insert(Name::from(name));
        }
        self.table.outdate(parent);
        Ok(())
    }

    /// Where those who still use what is about to lose a name will find it; `None` if another
    /// name is known.
    pub(super) fn keep(&mut self, ino: Ino) -> nix::Result<Option<Place>> {
        if self.table.get(ino)?.link_key().is_some() {
            // The books of hard links want to know the number of names before one goes.
            self.attr(ino)?;
        }
        let node = self.table.get(ino)?;
        if node.names_known() > 1 {
            return Ok(None);
        }
        if node.is_folder() {
            self.attr(ino)?;
            return Ok(Some(Place::Removed));
        }
        if let Place::Lower(layer) = node.place() {
            let (parent, name) = node.name()?;
            return Ok(Some(Place::Hidden(self.lower_folder(parent, layer)?, name)));
        }
        if node.is_regular()
            && let Ok(file) = self.file(ino, false)
        {
            return Ok(Some(Place::Nameless(file)));
        }
        let file = match self.spot(ino)? {
            Spot::Named(folder, name) => folder.path_only(&name)?,
            Spot::Indexed(name) => self.upper()?.index.folder()?.path_only(&name)?,
            Spot::Open(file) => return Ok(Some(Place::Nameless(file))),
        };
        Ok(Some(Place::Nameless(Arc::new(OpenFile::whole(file, false)))))
    }

    /// What follows when a name was taken from a node; without a last one it lives on as `kept`
    /// until it is forgotten.
    pub(super) fn drop_name(
        &mut self,
        ino: Ino,
        at: At<'_>,
        was_upper: bool,
        kept: Option<Place>,
    ) -> nix::Result<()> {
        self.count_removed_name(ino, at, was_upper)?;
        self.disown_partial(ino)?;
        let attr = self.table.get(ino)?.attr();
        self.table.outdate(ino);
        if self.table.get(ino)?.nameless()
            && let Some(place) = kept
        {
            let is_all_that_is_left = matches!(place, Place::Removed);
            self.table.set_place(ino, place)?;
            self.table.node(ino)?.file = None;
            if let Some(attr) = attr.filter(|_| is_all_that_is_left) {
                self.table.set_attr(ino, &Attr { links: 0, ..attr });
            }
        }
        self.table.drop_unused(ino);
        Ok(())
    }

    /// Keeps the books of hard links. A file of the index goes with its last name.
    fn count_removed_name(
        &mut self,
        ino: Ino,
        (parent, name): At<'_>,
        was_upper: bool,
    ) -> nix::Result<()> {
        let node = self.table.get(ino)?;
        if node.is_folder() {
            return Ok(());
        }
        let (key, links) = (node.link_key(), node.attr().map_or(1, |attr| attr.links));
        match node.place() {
            Place::Indexed(indexed) => self.count_indexed(ino, &indexed, was_upper),
            Place::Lower(layer) => {
                let Some(link) = key.and_then(|key| self.table.links.get_mut(&key)) else {
                    return Ok(());
                };
                link.removed += 1;
                let removed = if links > 1 { link.removed } else { 0 };
                let folder = self.lower_folder(parent, layer)?;
                let indexed = index::name_of(self.layer(layer)?, &folder, name)?;
                self.upper()?.index.set_removed(&indexed, removed)
            }
            _ => {
                // The file system may give the inode number to another file from now on.
                if let Some(key) = key.filter(|_several| links <= 1) {
                    self.table.links.remove(&key);
                }
                Ok(())
            }
        }
    }

    fn count_indexed(&mut self, ino: Ino, indexed: &Name, was_upper: bool) -> nix::Result<()> {
        let overlay = Arc::clone(&self.overlay);
        let index = &overlay.upper.as_ref().ok_or(Errno::EROFS)?.index;
        let mut difference = index.difference(indexed)?;
        if !was_upper {
            difference -= 1;
            index.set_difference(indexed, difference)?;
        }
        let links = i64::try_from(index.folder()?.stat(indexed)?.st_nlink).unwrap_or(i64::MAX);
        if links.saturating_add(difference) <= 0 {
            index.remove(indexed)?;
            if let Some(key) = self.table.get(ino)?.link_key() {
                self.table.links.remove(&key);
            }
        }
        Ok(())
    }
}
