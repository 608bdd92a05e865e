//! Moving names.

use std::ffi::OsStr;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use super::make::{Asker, Kind};
use super::remove::{Losing, warn_of_count};
use super::{State, Tree, check_name, check_new_name};
use crate::inode::Ino;
use crate::inode::node::Place;
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
    /// Like `Replace`, and a character device 0:0 takes the old name (`RENAME_WHITEOUT`): the whiteout of
    /// an overlay inside.
    Whiteout,
    /// Like `Refuse`, with the whiteout (`RENAME_NOREPLACE | RENAME_WHITEOUT`).
    RefuseOrWhiteout,
}

impl Exchange {
    /// Whether something that has the new name stays.
    fn refuses(self) -> bool {
        matches!(self, Self::Refuse | Self::RefuseOrWhiteout)
    }

    /// Whether a whiteout of an overlay inside is to take the old name.
    fn wants_whiteout(self) -> bool {
        matches!(self, Self::Whiteout | Self::RefuseOrWhiteout)
    }
}

/// A name in a directory.
#[derive(Clone, Copy)]
struct At<'a> {
    parent: Ino,
    name: &'a OsStr,
}

impl Tree {
    /// Gives what is called `name` in `parent` the name `new_name` in `new_parent`.
    ///
    /// # Errors
    ///
    /// `EXDEV` for a directory that lies in a lower layer, whole or in part, if the overlay keeps
    /// no redirects or this one would be too long (mv(1) copies then);
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
        let from = At { parent, name };
        let to = At { parent: new_parent, name: new_name };
        let done = self.prepare(from, to, exchange).and_then(|moved| {
            let mut state = self.state();
            let done = state.rename_wholly(from, to, exchange);
            state.table.drop_unused(moved);
            done
        });
        let mut state = self.state();
        state.drop_unused(parent, name);
        state.drop_unused(new_parent, new_name);
        done
    }

    /// Copies up what is to move, which it returns.
    fn prepare(&self, from: At<'_>, to: At<'_>, exchange: Exchange) -> nix::Result<Ino> {
        let moved = self.state().admit_both(from, to, exchange)?;
        self.copy_up_file(moved)?;
        if exchange == Exchange::Swap {
            let other = self.state().admit(to.parent, to.name)?;
            self.copy_up_file(other)?;
        }
        Ok(moved)
    }

    /// Copies up anything but a directory; completes what is being copied up in a directory, since its
    /// path is about to change.
    fn copy_up_file(&self, ino: Ino) -> nix::Result<()> {
        if self.state().table.get(ino)?.is_folder() {
            return self.complete_below(ino);
        }
        self.copy_up_whole(ino)
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

    /// Whether what is to move can. A file will lie in the upper directory after a copy; for a
    /// directory of a lower layer it must be allowed to say where that is.
    fn require_movable(&mut self, at: At<'_>) -> nix::Result<()> {
        let is_folder = self.entry(at.parent, at.name)?.kind == Type::Directory;
        if !is_folder || self.overlay.redirect_dir || self.overlay.upper.is_none() {
            return Ok(());
        }
        let ino = self.admit(at.parent, at.name)?;
        if self.is_merged(ino)? { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// The rename, and the whiteout of an overlay inside that it may have to leave.
    fn rename_wholly(&mut self, from: At<'_>, to: At<'_>, exchange: Exchange) -> nix::Result<()> {
        self.rename(from, to, exchange)?;
        if !exchange.wants_whiteout() {
            return Ok(());
        }
        let nobody_in_particular = Asker { uid: 0, gid: 0, umask: 0 };
        match self.make(from.parent, from.name, Kind::Whiteout, 0, &nobody_in_particular) {
            Ok(made) => self.table.forget(made.ino, 1),
            Err(errno) => {
                // Back, unless something was replaced.
                self.rename(to, from, Exchange::Refuse)?;
                return Err(errno);
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: At<'_>, to: At<'_>, exchange: Exchange) -> nix::Result<()> {
        self.table.reserve()?;
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
        let sibling = from.parent == to.parent;
        if exchange == Exchange::Swap {
            self.loosen(from, sibling)?;
            self.loosen(to, sibling)?;
            return self.swap(from, to);
        }
        if target.is_some() && exchange.refuses() {
            return Err(Errno::EEXIST);
        }
        self.require_replaceable(from, to, target)?;
        self.loosen(from, sibling)?;
        match target {
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
            at = self.table.get(at)?.parent()?;
        }
        Ok(false)
    }

    /// Prepares what is at a name to lose it: a copied-up hard link gets a name of its own in the
    /// upper directory, a directory of a lower layer a redirect.
    fn loosen(&mut self, at: At<'_>, sibling: bool) -> nix::Result<()> {
        let entry = self.entry(at.parent, at.name)?;
        let (ino, kind) = (entry.ino, entry.kind);
        if kind != Type::Directory {
            return self.materialise(at);
        }
        self.admit(at.parent, at.name)?;
        if self.is_merged(ino)? { self.redirect(ino, sibling) } else { Ok(()) }
    }

    /// Whether what has the new name, if anything, may go.
    fn require_replaceable(
        &mut self,
        from: At<'_>,
        to: At<'_>,
        target: Option<Ino>,
    ) -> nix::Result<()> {
        let Some(target) = target else { return Ok(()) };
        let moves_folder = self.entry(from.parent, from.name)?.kind == Type::Directory;
        let is_folder = self.entry(to.parent, to.name)?.kind == Type::Directory;
        self.admit(to.parent, to.name)?;
        match (moves_folder, is_folder) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            (true, true) if !self.opened(target)?.listing.is_empty() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    /// Gives a copied-up hard link its own name in the upper directory, where so far only another
    /// of its names lies.
    fn materialise(&mut self, at: At<'_>) -> nix::Result<()> {
        let entry = self.entry(at.parent, at.name)?;
        if entry.top == LayerIndex::UPPER || entry.kind == Type::Directory {
            return Ok(());
        }
        let Place::Indexed(indexed) = self.table.get(entry.ino)?.place() else {
            return Err(Errno::EIO);
        };
        let folder = self.raise_folder(at.parent)?;
        let index = &self.upper()?.index;
        let difference = index.difference(&indexed)? - 1;
        index.folder()?.link(&indexed, &folder, at.name)?;
        if let Err(errno) = index.set_difference(&indexed, difference) {
            folder.unlink(at.name)?;
            return Err(errno);
        }
        self.mark_raised(at.parent, at.name)
    }

    /// Moves over something that exists.
    fn replace(&mut self, from: At<'_>, to: At<'_>, target: Ino) -> nix::Result<()> {
        let entry = self.entry(to.parent, to.name)?;
        let is_folder = entry.kind == Type::Directory;
        let (in_upper, covers) = (entry.top == LayerIndex::UPPER, entry.needs_whiteout());
        if is_folder && in_upper {
            let folder = self.upper_folder(to.parent)?;
            self.upper()?.empty_out(&folder, to.name)?;
        }
        let losing = self.losing(target, (to.parent, to.name))?;
        let over = self.opened(to.parent)?.listing.whiteouts.contains(to.name);
        self.shift_over(from, to, (over, covers), Some(losing))
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
        target: Option<Losing>,
    ) -> nix::Result<()> {
        let source = self.raise_folder(from.parent)?;
        let folder = self.raise_folder(to.parent)?;
        let entry = self.entry(from.parent, from.name)?;
        let leaves_whiteout = entry.covers;
        let mut moving = Moving { ino: entry.ino, kind: entry.kind, leaves_whiteout };
        if covers {
            self.cover(moving.ino, moving.kind, &source, from.name)?;
        }
        self.expect_whiteout(moving.ino, &folder)?;
        if let Some(losing) = target.as_ref().filter(|losing| losing.is_uncopied()) {
            self.write_count(losing)?;
        }
        match self.move_object(&moving, &source, from.name, &folder, to.name, over) {
            Ok(leaves_whiteout) => moving.leaves_whiteout = leaves_whiteout,
            Err(errno) => {
                target.as_ref().map_or(Ok(()), |losing| self.take_back_count(losing))?;
                return Err(errno);
            }
        }
        self.enter_moved(&moving, from, to, covers)?;
        let Some(losing) = target else { return Ok(()) };
        if !losing.is_uncopied()
            && let Err(errno) = self.write_count(&losing)
        {
            warn_of_count(to.name, errno);
        }
        self.drop_name(losing, to.name)
    }

    /// Makes sure that what is about to move to a name that lower layers have hides them there. A
    /// redirect does, as it sends the search elsewhere.
    fn cover(
        &mut self,
        ino: Ino,
        kind: Type,
        folder: &UpperFolder,
        name: &OsStr,
    ) -> nix::Result<()> {
        if kind != Type::Directory || self.is_merged(ino)? {
            return Ok(());
        }
        self.upper()?.make_opaque(folder, name)
    }

    /// Prepares the directory into which `ino` is about to move, if that is a whiteout of an overlay inside.
    fn expect_whiteout(&mut self, ino: Ino, folder: &UpperFolder) -> nix::Result<()> {
        let is_device = self.table.get(ino)?.mode() & libc::S_IFMT == libc::S_IFCHR;
        if is_device && self.attr(ino)?.is_whiteout() {
            self.upper()?.expect_whiteouts_in(folder)
        } else {
            Ok(())
        }
    }

    /// The rename on disk. Whether the old name has a whiteout then.
    fn move_object(
        &self,
        moving: &Moving,
        source: &UpperFolder,
        name: &OsStr,
        folder: &UpperFolder,
        new_name: &OsStr,
        over: bool,
    ) -> nix::Result<bool> {
        let upper = self.upper()?;
        let is_folder = moving.kind == Type::Directory;
        if over && is_folder && upper.whiteouts_are_devices() {
            upper.move_over_whiteout(source, name, true, folder, new_name)?;
            // The whiteout has come here in exchange.
            return Ok(moving.leaves_whiteout || source.unlink(name).is_err());
        }
        if moving.leaves_whiteout {
            upper.rename_leaving_whiteout(source, name, folder, new_name)?;
        } else {
            source.rename(name, folder, new_name, RenameFlags::empty())?;
        }
        if over {
            upper.unhide(folder, new_name);
        }
        Ok(moving.leaves_whiteout)
    }

    /// The rename in memory.
    fn enter_moved(
        &mut self,
        moving: &Moving,
        from: At<'_>,
        to: At<'_>,
        covers: bool,
    ) -> nix::Result<()> {
        self.table.move_entry((from.parent, from.name), (to.parent, to.name), covers)?;
        if moving.leaves_whiteout {
            self.opened(from.parent)?.listing.whiteouts.insert(Name::from(from.name));
        }
        self.opened(to.parent)?.listing.whiteouts.remove(to.name);
        for ino in [from.parent, to.parent, moving.ino] {
            self.table.outdate(ino);
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
        let one = self.entry(from.parent, from.name)?;
        let two = self.entry(to.parent, to.name)?;
        if two.covers {
            self.cover(one.ino, one.kind, &source, from.name)?;
        }
        if one.covers {
            self.cover(two.ino, two.kind, &folder, to.name)?;
        }
        self.expect_whiteout(one.ino, &folder)?;
        self.expect_whiteout(two.ino, &source)?;
        source.rename(from.name, &folder, to.name, RenameFlags::RENAME_EXCHANGE)?;
        self.table.swap_entries((from.parent, from.name), (to.parent, to.name))?;
        for ino in [from.parent, to.parent, one.ino, two.ino] {
            self.table.outdate(ino);
        }
        Ok(())
    }
}
