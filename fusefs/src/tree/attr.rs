//! Metadata: read, changed.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use nix::sys::time::TimeSpec;

use super::{State, Tree};
use crate::format::permissions::Permissions;
use crate::inode::Ino;
use crate::inode::attr::{Attr, Timestamp};
use crate::inode::handles::OpenFile;
use crate::inode::node::Place;
use crate::layer::stack::Name;
use crate::upper::permissions::{self, Target};
use crate::upper::{Upper, UpperFolder};

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The present.
    Now,
    /// This time.
    At(Timestamp),
}

/// The metadata to change; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes, of a regular file.
    pub size: Option<u64>,
    /// Last access.
    pub accessed: Option<Time>,
    /// Last change of the contents.
    pub modified: Option<Time>,
    /// Whether who sets the size may not keep set-id bits.
    pub clears_set_id: bool,
}

impl Tree {
    /// The metadata of `ino`, from memory unless something has changed it since.
    ///
    /// # Errors
    ///
    /// `ESTALE` if `ino` is not known.
    pub fn attr(&self, ino: Ino) -> nix::Result<Attr> {
        self.state().attr(ino)
    }

    /// Changes metadata.
    ///
    /// # Errors
    ///
    /// `EPERM`, `EINVAL` (an owner that the user namespace lacks), `EROFS`, `ENOSPC`, `EISDIR`.
    pub fn set_attr(&self, ino: Ino, changes: &Changes) -> nix::Result<Attr> {
        self.copy_up(ino, changes.size)?;
        let mut state = self.state();
        state.change(ino, changes)?;
        state.attr(ino)
    }

    /// Takes the set-group-id bit away: who gave the file an access control list is not in its group.
    ///
    /// # Errors
    ///
    /// Those of chmod(2).
    pub fn clear_set_gid(&self, ino: Ino) -> nix::Result<()> {
        let mut state = self.state();
        let mode = state.attr(ino)?.mode;
        if mode & libc::S_ISGID == 0 {
            return Ok(());
        }
        let spot = state.spot(ino)?;
        state.table.outdate(ino);
        let mode = mode & 0o7777 & !libc::S_ISGID;
        state.change_permissions(ino, &spot, (None, None), Some(mode))
    }

    /// The state of the file system that holds the topmost layer.
    ///
    /// # Errors
    ///
    /// Those of statvfs(3).
    pub fn stat_fs(&self) -> nix::Result<Statvfs> {
        match &self.overlay.upper {
            Some(upper) => fstatvfs(&*upper.root),
            None => fstatvfs(&*self.overlay.top()?.root),
        }
    }
}

/// Something that may be changed.
pub(super) enum Spot {
    /// By its name in the upper or the work directory.
    Named(Arc<UpperFolder>, Name),
    /// In the index of hard links.
    Indexed(Name),
    /// Without a name.
    Open(Arc<OpenFile>),
}

impl Spot {
    /// The object itself.
    pub(super) fn target<'a>(&'a self, upper: &'a Upper) -> nix::Result<Target<'a>> {
        Ok(match self {
            Self::Named(folder, name) => Target::Named(folder, name),
            Self::Indexed(name) => Target::Named(upper.index.folder()?, name),
            Self::Open(file) => Target::Open(file.as_fd()),
        })
    }
}

impl State {
    /// The metadata of a node.
    pub(super) fn attr(&mut self, ino: Ino) -> nix::Result<Attr> {
        if let Some(attr) = self.table.get(ino)?.attr() {
            return Ok(attr);
        }
        let attr = self.fetch_attr(ino)?;
        self.table.set_attr(ino, &attr);
        Ok(attr)
    }

    fn fetch_attr(&mut self, ino: Ino) -> nix::Result<Attr> {
        let stat = self.stat(ino)?;
        let node = self.table.get(ino)?;
        let mut attr = Attr::new(ino, node.number(), &stat);
        if node.mode() & libc::S_IFMT == libc::S_IFCHR && attr.is_regular() {
            attr.show_as_whiteout();
        }
        if node.is_held()
            && let Some(permissions) = self.held(ino)?
        {
            attr.show(permissions);
        }
        if attr.is_folder() {
            attr.links = if self.lies_in_several(ino)? { 1 } else { attr.links };
        }
        match &self.table.get(ino)?.place() {
            // Names that nobody has asked for may be left.
            Place::Hidden(..) => {
                let key = (self.table.get(ino)?.top(), stat.st_dev, stat.st_ino);
                let removed = self.table.links.get(&key).map(|link| link.removed);
                attr.links = removed.map_or(0, |removed| attr.links.saturating_sub(removed));
            }
            Place::Nameless(_) if attr.links > 0 => {
                let index = &self.upper()?.index;
                if let Some(name) = index.find_upper(stat.st_ino) {
                    let links = i64::from(attr.links) + index.difference(&name)?;
                    attr.links = u32::try_from(links).unwrap_or(0);
                }
            }
            Place::Nameless(_) | Place::Partial(..) | Place::Removed | Place::Upper => {}
            Place::Indexed(name) => {
                let links = i64::from(attr.links) + self.upper()?.index.difference(name)?;
                attr.links = u32::try_from(links).unwrap_or(1).max(1);
            }
            Place::Lower(layer) => {
                if let Some(link) = self.table.links.get(&(*layer, stat.st_dev, stat.st_ino)) {
                    attr.links = attr.links.saturating_sub(link.removed).max(1);
                }
            }
        }
        Ok(attr)
    }

    /// Whether a directory shows several of the layers' directories.
    fn lies_in_several(&mut self, ino: Ino) -> nix::Result<bool> {
        let node = self.table.get(ino)?;
        if let Some(opened) = node.opened() {
            return Ok(opened.lowers.len() + usize::from(opened.upper.is_some()) > 1);
        }
        let Ok((parent, name)) = node.name() else { return Ok(false) };
        let entry = self.entry(parent, &name)?;
        Ok(self.table.span(&entry).len() > 1)
    }

    /// The permissions that an attribute of `ino` holds.
    fn held(&mut self, ino: Ino) -> nix::Result<Option<Permissions>> {
        let node = self.table.get(ino)?;
        let (mode, place) = (kept_kind(node.mode()), node.place());
        let lower = match place {
            Place::Lower(layer) => Some(layer),
            Place::Hidden(..) => Some(node.top()),
            _ => None,
        };
        let Some(layer) = lower else {
            let overlay = Arc::clone(&self.overlay);
            let upper = overlay.upper.as_ref().ok_or(Errno::EROFS)?;
            return self.with_object(ino, |object| upper.held(&object.attributes()?, mode));
        };
        let Some(attribute) = self.layer(layer)?.permissions else { return Ok(None) };
        self.with_object(ino, |object| permissions::read(&object.attributes()?, attribute))
    }

    /// What the layer says.
    pub(super) fn stat(&mut self, ino: Ino) -> nix::Result<FileStat> {
        let node = self.table.get(ino)?;
        if let Some(folder) = node.opened().and_then(|opened| opened.upper.as_ref()?.as_ref()) {
            return folder.own_stat();
        }
        self.with_object(ino, |object| object.stat())
    }

    /// Where to change `ino`, which lies in the upper directory.
    pub(super) fn spot(&mut self, ino: Ino) -> nix::Result<Spot> {
        if ino == Ino::ROOT {
            let root = Arc::clone(&self.upper()?.root);
            return Ok(Spot::Named(root, Name::from(OsStr::new("."))));
        }
        match self.table.get(ino)?.place() {
            Place::Upper => {
                let (parent, name) = self.table.get(ino)?.name()?;
                Ok(Spot::Named(self.upper_folder(parent)?, name))
            }
            Place::Indexed(name) => Ok(Spot::Indexed(name)),
            Place::Partial(_, id) => {
                let folder = self.upper()?.partial_folder(&id)?;
                Ok(Spot::Named(Arc::new(folder), Upper::partial_name()))
            }
            Place::Nameless(file) => Ok(Spot::Open(file)),
            Place::Removed => Err(Errno::ENOENT),
            Place::Lower(_) | Place::Hidden(..) => Err(Errno::EROFS),
        }
    }

    fn change(&mut self, ino: Ino, changes: &Changes) -> nix::Result<()> {
        let before = self.table.get(ino)?.mode();
        let spot = self.spot(ino)?;
        self.table.outdate(ino);
        let (owner, mut mode) = ((changes.uid, changes.gid), changes.mode);
        if let Some(size) = changes.size {
            self.file(ino, true)?.set_size(size)?;
            if changes.clears_set_id {
                mode = without_set_id(mode.unwrap_or(before)).or(mode);
            }
        }
        self.change_permissions(ino, &spot, owner, mode)?;
        if changes.accessed.is_some() || changes.modified.is_some() {
            let (accessed, modified) = (time_spec(changes.accessed), time_spec(changes.modified));
            spot.target(self.upper()?)?.set_times(&accessed, &modified)?;
        }
        Ok(())
    }

    /// Gives `ino`, which lies at `spot`, another owner, group or mode.
    pub(super) fn change_permissions(
        &mut self,
        ino: Ino,
        spot: &Spot,
        (uid, gid): (Option<u32>, Option<u32>),
        mode: Option<u32>,
    ) -> nix::Result<()> {
        if (uid, gid, mode) == (None, None, None) {
            return Ok(());
        }
        let held = self.table.get(ino)?.is_held();
        let kind = kept_kind(self.table.get(ino)?.mode());
        let overlay = Arc::clone(&self.overlay);
        let upper = overlay.upper.as_ref().ok_or(Errno::EROFS)?;
        let target = spot.target(upper)?;
        if !held && !mode.is_some_and(|mode| upper.keeping.holds(kind | mode & 0o7777)) {
            if uid.is_some() || gid.is_some() {
                target.set_owner(uid, gid)?;
            }
            return mode.map_or(Ok(()), |mode| target.set_mode(mode));
        }
        let before = self.attr(ino)?;
        let mut wanted = before.permissions();
        if uid.is_some() || gid.is_some() {
            // As chown(2) on disk.
            let cleared = without_set_id(before.mode).filter(|_| before.is_regular());
            wanted.mode = cleared.unwrap_or(wanted.mode);
        }
        wanted.uid = uid.unwrap_or(wanted.uid);
        wanted.gid = gid.unwrap_or(wanted.gid);
        wanted.mode = mode.map_or(wanted.mode, |mode| mode & 0o7777);
        let given = upper.give(&target, &target.stat()?, wanted);
        let given = given.and_then(|given| match (held, given.held) {
            (true, false) => upper.release(&target, kind),
            _ => Ok(()),
        });
        // Whatever has failed, the attribute says what counts now.
        let (is_held, mode) = match given {
            Ok(()) => (upper.keeping.holds(kind | wanted.mode), wanted.mode),
            Err(_) => {
                let now = upper.held(&target.attributes()?, kind)?;
                (now.is_some(), now.unwrap_or(before.permissions()).mode)
            }
        };
        self.table.set_held(ino, is_held);
        self.table.set_mode(ino, before.mode & libc::S_IFMT | mode);
        self.table.outdate(ino);
        given
    }
}

/// The type on disk of something of this `mode`, as far as it can have attributes: a device may be the
/// whiteout of an overlay inside, a regular file.
fn kept_kind(mode: u32) -> u32 {
    match mode & libc::S_IFMT {
        libc::S_IFCHR => libc::S_IFREG,
        kind => kind,
    }
}

/// The permissions after somebody wrote to the file, if that changes them: set-user-id goes, and
/// set-group-id where the group may execute (elsewhere it means mandatory locking).
pub(super) fn without_set_id(mode: u32) -> Option<u32> {
    let mut cleared = mode & !SFlag::S_IFMT.bits() & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        cleared &= !libc::S_ISGID;
    }
    (cleared != mode & !SFlag::S_IFMT.bits()).then_some(cleared)
}

fn time_spec(time: Option<Time>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(Time::Now) => TimeSpec::UTIME_NOW,
        Some(Time::At(time)) => TimeSpec::new(time.seconds, i64::from(time.nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::without_set_id;

    #[test]
    fn writing_clears_what_would_lend_rights() {
        for (mode, expected) in [
            (0o100_755, None),
            (0o104_755, Some(0o755)),
            (0o102_755, Some(0o755)),
            (0o102_745, None),
            (0o106_755, Some(0o755)),
            (0o106_745, Some(0o2745)),
        ] {
            assert_eq!(without_set_id(mode), expected, "{mode:o}");
        }
    }
}
