//! Moving names.

use std::ffi::OsStr;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use super::{State, Tree, check_name, check_new_name};
use crate::inode::Ino;
use crate::inode::table::{Entry, Place};
use crate::layer::LayerIndex;
use crate::layer::stack::Name;
use crate::upper::UpperFolder;

/// What a rename leaves behind: something that has the new name already, and the old name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// What has the new name is replaced.
    Replace,
    /// The rename fails if something has the new name (`RENAME_NOREPLACE`).
    Refuse,
    /// What has the new name gets the old one (`RENAME_EXCHANGE`).
    Swap,
    /// Like `Replace`, and a whiteout takes the old name in the upper directory (`RENAME_WHITEOUT`).
    /// In this tree it is seen as what it means: nothing is there.
    Whiteout,
    /// Like `Refuse`, with the whiteout (`RENAME_NOREPLACE | RENAME_WHITEOUT`).
    RefuseOrWhiteout,
}

impl Exchange {
    /// Whether something that has the new name stays.
    fn refuses(self) -> bool {
        matches!(self, Self::Refuse | Self::RefuseOrWhiteout)
    }

    /// Whether the old name is to have a whiteout, needed or not.
    fn wants_whiteout(self) -> bool {
        matches!(self, Self::Whiteout | Self::RefuseOrWhiteout)
    }
}

/// A name in a directory.
#[derive(Clone, Copy)]
struct At<'a> {
    parent: Ino,
    name: &'a OsStr,
    /// Whether a whiteout is wanted here when the name has gone.
    whiteout: bool,
}

impl Tree {
    /// Gives what is called `name` in `parent` the name `new_name` in `new_parent`.
    ///
    /// # Errors
    ///
    /// `EXDEV` for a directory that lies in a lower layer, whole or in part (as kernel overlayfs
    /// without `redirect_dir`, which its `userxattr` mounts do not understand; mv(1) copies then);
    /// `EEXIST`, `ENOENT`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `EROFS`, `ENOSPC`; `EINVAL` for new
    /// names that start with `.wh.` or lie inside the directory that is moved.
    pub fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        exchange: Exchange,
    ) -> nix::Result<()> {
        let from = At { parent, name, whiteout: exchange.wants_whiteout() };
        let to = At { parent: new_parent, name: new_name, whiteout: false };
        let moved = self.state().admit_both(from, to, exchange)?;
        self.copy_up_file(moved)?;
        if exchange == Exchange::Swap {
            let other = self.state().admit(new_parent, new_name)?;
            self.copy_up_file(other)?;
        }
        let mut state = self.state();
        let done = state.rename(from, to, exchange);
        state.table.drop_unused(moved);
        done
    }

    /// Copies up anything but a directory.
    fn copy_up_file(&self, ino: Ino) -> nix::Result<()> {
        if self.state().table.get(ino)?.attr.is_folder() {
            return Ok(());
        }
        self.copy_up(ino, None)
    }
}

/// What moves and where from, as the listing had it.
struct Moving {
    ino: Ino,
    kind: Type,
    /// Whether the old place gets a whiteout.
    leaves_whiteout: bool,
}

impl State {
    /// The node to move, after all checks that need no copy.
    fn admit_both(&mut self, from: At<'_>, to: At<'_>, exchange: Exchange) -> nix::Result<Ino> {
        check_name(from.name)?;
        check_new_name(to.name)?;
        let moved = self.admit(from.parent, from.name)?;
        self.require_movable(from)?;
        match self.entry(to.parent, to.name).map(|entry| entry.kind) {
            Ok(_) if exchange.refuses() => Err(Errno::EEXIST),
            Ok(_) if exchange == Exchange::Swap => self.require_movable(to).map(|()| moved),
            Err(Errno::ENOENT) if exchange != Exchange::Swap => Ok(moved),
            Ok(_) => Ok(moved),
            Err(errno) => Err(errno),
        }
    }

    /// Whether the upper directory alone holds what is to move. A file will after a copy.
    fn require_movable(&mut self, at: At<'_>) -> nix::Result<()> {
        let entry = self.entry(at.parent, at.name)?;
        let merged = entry.folders.iter().any(|layer| *layer != LayerIndex::UPPER);
        if merged { Err(Errno::EXDEV) } else { Ok(()) }
    }

    fn rename(&mut self, from: At<'_>, to: At<'_>, exchange: Exchange) -> nix::Result<()> {
        if self.is_within(from, to.parent)? {
            return Err(Errno::EINVAL);
        }
        let target = match self.entry(to.parent, to.name) {
            Ok(entry) => Some(entry.ino),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let moved = self.entry(from.parent, from.name)?.ino;
        if target == Some(moved) {
            return Ok(()); // two names of one file: POSIX wants nothing done
        }
        self.materialise(from)?;
        if exchange == Exchange::Swap {
            self.materialise(to)?;
            return self.swap(from, to);
        }
        match target {
            Some(_) if exchange.refuses() => Err(Errno::EEXIST),
            Some(target) => self.replace(from, to, target),
            None => {
                let over = self.opened(to.parent)?.listing.whiteouts.contains(to.name);
                self.shift(from, to, over, over)
            }
        }
    }

    /// Whether `parent` lies in the directory at `from`.
    fn is_within(&mut self, from: At<'_>, parent: Ino) -> nix::Result<bool> {
        let moved = self.entry(from.parent, from.name)?.ino;
        let mut at = parent;
        while at != Ino::ROOT {
            if at == moved {
                return Ok(true);
            }
            at = self.table.get(at)?.name()?.0;
        }
        Ok(false)
    }

    /// Gives a copied-up hard link its own name in the upper directory, where so far only another
    /// of its names lies.
    fn materialise(&mut self, at: At<'_>) -> nix::Result<()> {
        let entry = self.entry(at.parent, at.name)?;
        let (ino, name) = (entry.ino, Name::clone(&entry.name));
        if entry.top == LayerIndex::UPPER || entry.kind == Type::Directory {
            return Ok(());
        }
        let Place::Indexed(indexed) = self.table.get(ino)?.place.clone() else {
            return Err(Errno::EIO);
        };
        let folder = self.raise_folder(at.parent)?;
        let index = &self.upper()?.index;
        index.set_difference(&indexed, index.difference(&indexed)? - 1)?;
        index.folder()?.link(&indexed, &folder, &name)?;
        self.mark_raised(at.parent, &name)
    }

    /// Moves over something that exists.
    fn replace(&mut self, from: At<'_>, to: At<'_>, target: Ino) -> nix::Result<()> {
        let moves_folder = self.entry(from.parent, from.name)?.kind == Type::Directory;
        let entry = self.entry(to.parent, to.name)?;
        let (is_folder, in_upper) = (entry.kind == Type::Directory, entry.top == LayerIndex::UPPER);
        let covers = entry.needs_whiteout();
        match (moves_folder, is_folder) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) => {
                let listing = &self.opened(target)?.listing;
                if !listing.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                if covers || !listing.whiteouts.is_empty() {
                    self.remove_folder(to.parent, to.name)?;
                    return self.shift(from, to, covers, covers);
                }
            }
            (false, false) => self.admit(to.parent, to.name).map(|_known| ())?,
        }
        let kept = self.keep(target)?;
        let over = self.opened(to.parent)?.listing.whiteouts.contains(to.name);
        self.shift_over(from, to, (over, covers), Some((target, in_upper, kept)))
    }

    /// Moves to a free name. `over` says that a whiteout is there, `covers` that something would
    /// show without one.
    fn shift(&mut self, from: At<'_>, to: At<'_>, over: bool, covers: bool) -> nix::Result<()> {
        self.shift_over(from, to, (over, covers), None)
    }

    fn shift_over(
        &mut self,
        from: At<'_>,
        to: At<'_>,
        (over, covers): (bool, bool),
        target: Option<(Ino, bool, Option<Place>)>,
    ) -> nix::Result<()> {
        let source = self.raise_folder(from.parent)?;
        let folder = self.raise_folder(to.parent)?;
        let entry = self.entry(from.parent, from.name)?;
        let leaves_whiteout = entry.covers || from.whiteout;
        let moving = Moving { ino: entry.ino, kind: entry.kind, leaves_whiteout };
        if moving.kind == Type::Directory && covers {
            self.upper()?.make_opaque(&source, from.name)?;
        }
        self.move_object(&moving, &source, from.name, &folder, to.name, over)?;
        if let Some((target, was_upper, kept)) = target {
            self.opened(to.parent)?.listing.remove(to.name);
            self.drop_name(target, to.parent, to.name, was_upper, kept)?;
        }
        self.enter_moved(&moving, from, to, covers)
    }

    /// The rename on disk.
    fn move_object(
        &self,
        moving: &Moving,
        source: &UpperFolder,
        name: &OsStr,
        folder: &UpperFolder,
        new_name: &OsStr,
        over: bool,
    ) -> nix::Result<()> {
        let upper = self.upper()?;
        let is_folder = moving.kind == Type::Directory;
        if over && is_folder && upper.whiteouts_are_devices() {
            upper.move_over_whiteout(source, name, true, folder, new_name)?;
            // The whiteout has come here in exchange.
            return if moving.leaves_whiteout { Ok(()) } else { source.unlink(name) };
        }
        if moving.leaves_whiteout {
            upper.rename_leaving_whiteout(source, name, folder, new_name)?;
        } else {
            source.rename(name, folder, new_name, RenameFlags::empty())?;
        }
        if over { upper.unhide(folder, new_name) } else { Ok(()) }
    }

    /// The rename in memory.
    fn enter_moved(
        &mut self,
        moving: &Moving,
        from: At<'_>,
        to: At<'_>,
        covers: bool,
    ) -> nix::Result<()> {
        let listing = &mut self.opened(from.parent)?.listing;
        let old = listing.remove(from.name).ok_or(Errno::ENOENT)?;
        if moving.leaves_whiteout {
            listing.whiteouts.insert(old.name);
        }
        let name = Name::from(to.name);
        let listing = &mut self.opened(to.parent)?.listing;
        listing.whiteouts.remove(&name);
        listing.insert(Entry::upper(Name::clone(&name), moving.ino, moving.kind, covers));
        self.table.add_name(moving.ino, to.parent, &name)?;
        self.table.remove_name(moving.ino, from.parent, from.name)?;
        for ino in [from.parent, to.parent, moving.ino] {
            self.table.get_mut(ino)?.fresh = false;
        }
        Ok(())
    }

    /// Exchanges two names.
    fn swap(&mut self, from: At<'_>, to: At<'_>) -> nix::Result<()> {
        if self.is_within(to, from.parent)? {
            return Err(Errno::EINVAL);
        }
        let source = self.raise_folder(from.parent)?;
        let folder = self.raise_folder(to.parent)?;
        let entry = self.entry(from.parent, from.name)?;
        let (one, one_kind, one_covers) = (entry.ino, entry.kind, entry.covers);
        let entry = self.entry(to.parent, to.name)?;
        let (two, two_kind, two_covers) = (entry.ino, entry.kind, entry.covers);
        let upper = self.upper()?;
        if one_kind == Type::Directory && two_covers {
            upper.make_opaque(&source, from.name)?;
        }
        if two_kind == Type::Directory && one_covers {
            upper.make_opaque(&folder, to.name)?;
        }
        source.rename(from.name, &folder, to.name, RenameFlags::RENAME_EXCHANGE)?;
        self.put_swapped(from, two, two_kind, one_covers)?;
        self.put_swapped(to, one, one_kind, two_covers)?;
        self.table.remove_name(one, from.parent, from.name)?;
        self.table.remove_name(two, to.parent, to.name)
    }

    /// Lets `ino` stand at a place that something else had.
    fn put_swapped(&mut self, at: At<'_>, ino: Ino, kind: Type, covers: bool) -> nix::Result<()> {
        let name = Name::from(at.name);
        let listing = &mut self.opened(at.parent)?.listing;
        let entry = listing.get_mut(at.name).ok_or(Errno::ENOENT)?;
        *entry = Entry::upper(Name::clone(&name), ino, kind, covers);
        self.table.add_name(ino, at.parent, &name)?;
        for ino in [at.parent, ino] {
            self.table.get_mut(ino)?.fresh = false;
        }
        Ok(())
    }
}
