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
use crate::inode::node::{LinkKey, Place};
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

/// A name is gone for good, though the number of those left could not be written down.
pub(super) fn warn_of_count(name: &OsStr, errno: Errno) {
    log::warn!("the number of links of what {} was will be wrong: {errno}", name.display());
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
        let losing = self.losing(ino, (parent, name))?;
        let whiteout = self.entry(parent, name)?.needs_whiteout();
        match (losing.in_upper, whiteout) {
            (true, false) => folder.unlink(name)?,
            (true, true) => self.upper()?.replace_file(&folder, name)?,
            (false, _) => self.upper()?.hide(&folder, name)?,
        }
        match self.write_count(&losing) {
            Err(errno) if losing.in_upper => warn_of_count(name, errno),
            Err(errno) => {
                self.upper()?.take_back_hiding(&folder, name)?;
                return Err(errno);
            }
            Ok(()) => {}
        }
        self.drop_entry(parent, name, whiteout)?;
        self.drop_name(losing, name)
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
        let losing = self.losing(ino, (parent, name))?;
        let bare = self.opened(ino)?.listing.whiteouts.is_empty();
        let whiteout = self.entry(parent, name)?.needs_whiteout();
        let upper = self.upper()?;
        match (losing.in_upper, whiteout) {
            (true, false) => self.remove_upper_folder(&folder, name, bare)?,
            (true, true) => upper.replace_folder(&folder, name)?,
            (false, _) => upper.hide(&folder, name)?,
        }
        self.drop_entry(parent, name, whiteout)?;
        self.drop_name(losing, name)
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
    fn keep(&mut self, ino: Ino) -> nix::Result<Option<Place>> {
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

    /// What there is to know about `ino` before it loses the name `name` in `parent`. Nothing changes yet.
    pub(super) fn losing(&mut self, ino: Ino, (parent, name): At<'_>) -> nix::Result<Losing> {
        let kept = self.keep(ino)?;
        let in_upper = self.entry(parent, name)?.top == LayerIndex::UPPER;
        let count = self.count_without(ino, (parent, name), in_upper)?;
        Ok(Losing { ino, in_upper, kept, count })
    }

    /// The books of hard links without a name of `ino`.
    fn count_without(
        &mut self,
        ino: Ino,
        (parent, name): At<'_>,
        in_upper: bool,
    ) -> nix::Result<Count> {
        let node = self.table.get(ino)?;
        let (key, links) = (node.link_key(), node.attr().map_or(1, |attr| attr.links));
        match (node.place(), key) {
            _ if node.is_folder() => Ok(Count::Same),
            (Place::Indexed(indexed), _) => {
                let index = &self.upper()?.index;
                let difference = index.difference(&indexed)? - i64::from(!in_upper);
                let links =
                    index.folder()?.stat(&indexed)?.st_nlink.saturating_sub(u64::from(in_upper));
                let last = i64::try_from(links).unwrap_or(i64::MAX).saturating_add(difference) <= 0;
                Ok(Count::Indexed { indexed, difference, last })
            }
            (Place::Lower(layer), Some(key)) => {
                let Some(link) = self.table.links.get(&key) else { return Ok(Count::Same) };
                let lost = link.removed + 1;
                let folder = self.lower_folder(parent, layer)?;
                let indexed = Name::from(index::name_of(self.layer(layer)?, &folder, name)?);
                Ok(Count::Lower { key, indexed, lost, last: links <= 1 })
            }
            // The file system may give the inode number to another file from now on.
            (_, Some(key)) if links <= 1 => Ok(Count::Forget(key)),
            _ => Ok(Count::Same),
        }
    }

    /// Writes down what a name's going means for the books, which it has done now. A file of the index
    /// goes with its last name.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2) and unlink(2).
    pub(super) fn write_count(&self, losing: &Losing) -> nix::Result<()> {
        match &losing.count {
            Count::Same | Count::Forget(_) => Ok(()),
            Count::Lower { indexed, lost, last, .. } => {
                self.upper()?.index.set_removed(indexed, if *last { 0 } else { *lost })
            }
            Count::Indexed { indexed, last: true, .. } => self.upper()?.index.remove(indexed),
            Count::Indexed { indexed, difference, .. } if !losing.in_upper => {
                self.upper()?.index.set_difference(indexed, *difference)
            }
            Count::Indexed { .. } => Ok(()),
        }
    }

    /// Takes back what [`State::write_count`] did for a file that was never copied up.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2) and unlink(2).
    pub(super) fn take_back_count(&self, losing: &Losing) -> nix::Result<()> {
        match &losing.count {
            Count::Lower { indexed, lost, .. } => {
                self.upper()?.index.set_removed(indexed, lost - 1)
            }
            _ => Ok(()),
        }
    }

    /// What follows when `name` was taken from a node; without a last one it lives on until it is forgotten.
    /// Nothing of it can fail for a reason of the disk's.
    pub(super) fn drop_name(&mut self, losing: Losing, name: &OsStr) -> nix::Result<()> {
        let ino = losing.ino;
        match losing.count {
            Count::Lower { key, lost, .. } => {
                if let Some(link) = self.table.links.get_mut(&key) {
                    link.removed = lost;
                }
            }
            Count::Indexed { last: true, .. } => {
                let key = self.table.get(ino)?.link_key();
                key.and_then(|key| self.table.links.remove(&key));
            }
            Count::Forget(key) => {
                self.table.links.remove(&key);
            }
            Count::Same | Count::Indexed { .. } => {}
        }
        if let Err(errno) = self.disown_partial(ino) {
            log::warn!("the work directory keeps what {} was: {errno}", name.display());
        }
        let attr = self.table.get(ino)?.attr();
        self.table.outdate(ino);
        if self.table.get(ino)?.nameless()
            && let Some(place) = losing.kept
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
}

/// Something that is about to lose a name.
pub(super) struct Losing {
    ino: Ino,
    /// Whether the name is one in the upper directory.
    in_upper: bool,
    /// Where whoever uses it finds it then; `None` if another name is known.
    kept: Option<Place>,
    count: Count,
}

impl Losing {
    /// Whether it is a file with several names that lies in a lower layer. The books may then say too
    /// early that a name is gone: nothing is lost by it.
    pub(super) fn is_uncopied(&self) -> bool {
        matches!(self.count, Count::Lower { .. })
    }
}

/// What a name's going means for the books of hard links.
enum Count {
    /// Nothing.
    Same,
    /// A file of a lower layer, called this in the index, has lost so many names; or all.
    Lower { key: LinkKey, indexed: Name, lost: u32, last: bool },
    /// A file of the index has so many more names than links; or none any more.
    Indexed { indexed: Name, difference: i64, last: bool },
    /// A file of the upper directory has lost its last name.
    Forget(LinkKey),
}
