//! Bringing objects to the upper directory before they change.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::{State, Tree};
use crate::format::xattr as attribute;
use crate::inode::Ino;
use crate::inode::handles::OpenFile;
use crate::inode::node::{Link, LinkKey, Place};
use crate::layer::LayerIndex;
use crate::layer::stack::Name;
use crate::sys::xattr;
use crate::upper::copy_up::{Source, times};
use crate::upper::marks::{Record, origin_of};
use crate::upper::staging::Staged;
use crate::upper::{Upper, UpperFolder, index};

/// A copy to be made.
pub(super) struct Plan {
    pub(super) source: Source,
    pub(super) stat: FileStat,
    /// What the copy will say about where it comes from.
    pub(super) origin: Option<Record>,
    /// For a hard link: its name in the index and its key among the links of its layer.
    pub(super) link: Option<(Name, LinkKey)>,
}

impl Tree {
    /// Makes sure that `ino` lies in the upper directory. Of a regular file, no more than `limit`
    /// bytes are copied: the caller is about to cut it there.
    ///
    /// The data is copied without holding the state, so that others go on meanwhile.
    pub(super) fn copy_up(&self, ino: Ino, limit: Option<u64>) -> nix::Result<()> {
        if self.state().table.get(ino)?.is_upper() {
            return Ok(());
        }
        let upper = self.overlay.upper.as_ref().ok_or(Errno::EROFS)?;
        let _one_at_a_time = self.copying.lock();
        let Some(plan) = self.state().plan_copy(ino)? else { return Ok(()) };
        if self.copy_up_partly(ino, &plan, limit)? {
            return Ok(());
        }
        let Plan { source, stat, origin, .. } = &plan;
        let staged = upper.stage_copy(source, stat, origin.as_ref(), limit.unwrap_or(u64::MAX))?;
        self.state().finish_copy(ino, &plan, upper, staged)
    }
}

impl State {
    /// What has to be copied, if anything. Directories are dealt with here: they have no data.
    fn plan_copy(&mut self, ino: Ino) -> nix::Result<Option<Plan>> {
        let node = self.table.get(ino)?;
        if node.is_upper() {
            return Ok(None);
        }
        if node.is_folder() {
            return self.raise_folder(ino).map(|_folder| None);
        }
        let layer = match node.place() {
            Place::Lower(layer) => layer,
            Place::Hidden(folder, name) => {
                let stat = self.shown_stat(ino, folder.stat(&name)?)?;
                let source = Source { folder, name };
                return Ok(Some(Plan { source, stat, origin: None, link: None }));
            }
            _ => return Ok(None),
        };
        let (parent, name) = node.name()?;
        let folder = self.lower_folder(parent, layer)?;
        let stat = self.shown_stat(ino, folder.stat(&name)?)?;
        let mut link = None;
        if stat.st_nlink > 1 {
            let indexed = index::name_of(self.layer(layer)?, &folder, &name)?;
            link = Some((Name::from(indexed), (layer, stat.st_dev, stat.st_ino)));
        }
        let origin = Some(origin_of(self.layer(layer)?, &folder, &name, &stat)?);
        Ok(Some(Plan { source: Source { folder, name }, stat, origin, link }))
    }

    /// What the layer says of `ino`, with the permissions that an attribute there holds.
    fn shown_stat(&mut self, ino: Ino, mut stat: FileStat) -> nix::Result<FileStat> {
        if self.table.get(ino)?.is_held() {
            let attr = self.attr(ino)?;
            (stat.st_uid, stat.st_gid, stat.st_mode) = (attr.uid, attr.gid, attr.mode);
        }
        Ok(stat)
    }

    /// Puts the finished copy in its place.
    fn finish_copy(
        &mut self,
        ino: Ino,
        plan: &Plan,
        upper: &Upper,
        staged: Staged<'_>,
    ) -> nix::Result<()> {
        let node = self.table.get(ino)?;
        if node.nameless() {
            let file = reopen(&staged, node.is_regular())?;
            let place = Place::Nameless(Arc::new(file));
            return self.move_up(ino, place, upper.keeping.holds(plan.stat.st_mode));
        }
        let (parent, name) = node.name()?;
        let folder = self.raise_folder(parent)?;
        let entered = self.enter_index(plan, &staged, upper)?;
        if let Err(errno) = place_quietly(staged, &folder, &name) {
            if let Some((indexed, removed, _)) = entered {
                upper.index.withdraw(&indexed, removed)?;
            }
            return Err(errno);
        }
        let mut place = Place::Upper;
        if let Some((indexed, _, stat)) = entered {
            upper.index.remember(Name::clone(&indexed), stat.st_ino);
            let key = (LayerIndex::UPPER, stat.st_dev, stat.st_ino);
            self.table.links.insert(key, Link { ino, removed: 0 });
            self.table.set_link_key(ino, key)?;
            place = Place::Indexed(indexed);
        }
        self.mark_raised(parent, &name)?;
        self.move_up(ino, place, upper.keeping.holds(plan.stat.st_mode))
    }

    /// Notes that `ino` lies in the upper directory from now on.
    pub(super) fn move_up(&mut self, ino: Ino, place: Place, is_held: bool) -> nix::Result<()> {
        self.table.set_place(ino, place)?;
        self.table.set_held(ino, is_held);
        self.table.node(ino)?.file = None;
        self.table.outdate(ino);
        self.table.tidy(ino);
        Ok(())
    }

    /// Makes the staged copy of a hard link, if it is one, known under the lower file's name: that name, how
    /// many names the lower file has lost, and the copy's metadata.
    fn enter_index(
        &self,
        plan: &Plan,
        staged: &Staged<'_>,
        upper: &Upper,
    ) -> nix::Result<Option<(Name, u32, FileStat)>> {
        let Some((indexed, key)) = &plan.link else { return Ok(None) };
        let removed = self.table.links.get(key).map_or(0, |link| link.removed);
        let copy = (staged.folder(), staged.name());
        let stat = copy.0.stat(copy.1)?;
        let names = i64::try_from(plan.stat.st_nlink).unwrap_or(i64::MAX) - i64::from(removed);
        // The copy will have two links of its own: its place and the index.
        upper.index.enter(copy, indexed, names - 2)?;
        Ok(Some((Name::clone(indexed), removed, stat)))
    }

    /// Notes that the entry's object now lies in the upper directory, above the one it came from.
    pub(super) fn mark_raised(&mut self, parent: Ino, name: &OsStr) -> nix::Result<()> {
        self.opened(parent)?;
        self.table.raise((parent, name))
    }

    /// The upper directory's part of the directory `ino`, made with those above it if need be.
    ///
    /// # Errors
    ///
    /// `EROFS` without an upper directory; `ENOENT` if the directory was removed; those of making
    /// a directory with the original's owner and attributes.
    pub(super) fn raise_folder(&mut self, ino: Ino) -> nix::Result<Arc<UpperFolder>> {
        let overlay = Arc::clone(&self.overlay);
        let upper = overlay.upper.as_ref().ok_or(Errno::EROFS)?;
        let mut down = Vec::new();
        let mut at = ino;
        while self.opened(at)?.upper.is_none() {
            let (parent, name) = self.table.get(at)?.name()?;
            down.push((at, parent, name));
            at = parent;
        }
        if self.table.get(ino)?.nameless() && ino != Ino::ROOT {
            return Err(Errno::ENOENT);
        }
        for (ino, parent, name) in down.into_iter().rev() {
            let layer = self.opened(ino)?.lowers.first().map(|part| part.layer);
            let layer = layer.ok_or(Errno::ENOENT)?;
            let lower = self.lower_folder(ino, layer)?;
            let above = self.upper_folder(parent)?;
            let stat = self.shown_stat(ino, lower.own_stat()?)?;
            let staged = upper.stage_folder(self.layer(layer)?, &lower, &stat)?;
            place_quietly(staged, &above, &name)?;
            self.mark_raised(parent, &name)?;
            self.opened(ino)?.upper = Some(None);
            self.move_up(ino, Place::Upper, upper.keeping.holds(stat.st_mode))?;
        }
        self.upper_folder(ino)
    }

    /// Whether new entries of `ino`, which has an upper part, inherit an access control list.
    pub(super) fn inherits_acl(&mut self, ino: Ino) -> nix::Result<bool> {
        if let Some(known) = self.opened(ino)?.default_acl {
            return Ok(known);
        }
        let folder = self.upper_folder(ino)?;
        let inherits = default_acl(&folder)?.is_some();
        self.opened(ino)?.default_acl = Some(inherits);
        Ok(inherits)
    }
}

/// The default access control list of a directory.
pub(super) fn default_acl(folder: &UpperFolder) -> nix::Result<Option<Vec<u8>>> {
    match xattr::get(&folder.own_attributes(), attribute::DEFAULT_ACL) {
        Ok(acl) => Ok(Some(acl)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Moves a copy to its place without changing the times of the directory: to the inside, nothing
/// has changed there.
fn place_quietly(staged: Staged<'_>, folder: &UpperFolder, name: &Name) -> nix::Result<()> {
    quietly(folder, || staged.place(folder, name))
}

/// Does something in a directory without changing the directory's times. If they cannot be given back,
/// what was done is still done: newer times are no reason to fail.
pub(super) fn quietly(
    folder: &UpperFolder,
    act: impl FnOnce() -> nix::Result<()>,
) -> nix::Result<()> {
    let (accessed, modified) = times(&folder.own_stat()?);
    act()?;
    if let Err(errno) = folder.set_times(OsStr::new("."), &accessed, &modified) {
        log::debug!("a directory's times are those of a copy: {errno}");
    }
    Ok(())
}

/// Opens a staged object before it loses its name.
fn reopen(staged: &Staged<'_>, is_regular: bool) -> nix::Result<OpenFile> {
    let open = OpenFile::whole;
    if is_regular {
        staged.folder().writable(staged.name()).map(|file| open(file, true))
    } else {
        staged.folder().path_only(staged.name()).map(|file| open(file, false))
    }
}
