//! Files that are being copied up block by block.
//!
//! A huge file of a lower layer that somebody changes becomes a partial copy: what is written is copied,
//! the rest shows through. A thread that runs when a processor has nothing else to do completes it and
//! moves it to its place; the end of the mount, a new name or a hole do so at once.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::up::{Plan, quietly};
use super::{State, Tree};
use crate::inode::Ino;
use crate::inode::handles::OpenFile;
use crate::inode::known::Known;
use crate::inode::node::Place;
use crate::layer::stack::Name;
use crate::sys::schedule;
use crate::sys::xattr::Subject;
use crate::upper::copy_up::Source;
use crate::upper::partial::Leftover;

/// Bytes from which a file is copied block by block. A smaller one takes milliseconds.
const SMALLEST: u64 = 8 << 20;

/// How long a partial copy is left alone at first: mostly its user is about to write more of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The files that are being copied up.
#[derive(Debug, Default)]
pub(super) struct Partials {
    files: Vec<Ino>,
    /// Whether a thread is there that completes them.
    attended: bool,
    /// The mount has ended.
    ended: bool,
}

impl Tree {
    /// Begins a partial copy, if that is better than a whole one: returns whether it did.
    pub(super) fn copy_up_partly(
        &self,
        ino: Ino,
        plan: &Plan,
        limit: Option<u64>,
    ) -> nix::Result<bool> {
        let Some(upper) = self.overlay.upper.as_ref() else { return Ok(false) };
        let size = plan.stat.st_size.unsigned_abs().min(limit.unwrap_or(u64::MAX));
        let path = {
            let state = self.state();
            let node = state.table.get(ino)?;
            let huge = node.is_regular() && size >= SMALLEST;
            if !huge || node.nameless() || plan.link.is_some() {
                return Ok(false);
            }
            state.path(ino)?
        };
        let begun =
            upper.begin_partial((&plan.source, &plan.stat), plan.origin.as_ref(), size, path)?;
        let Some((id, file, partial)) = begun else { return Ok(false) };
        let file = OpenFile { file, writable: true, partial: Some(partial) };
        let held = upper.keeping.holds(plan.stat.st_mode);
        self.state().own_partial(ino, file, id, held)?;
        self.attend();
        Ok(true)
    }

    /// Makes sure that the whole of `ino` lies in the upper directory, under its name.
    ///
    /// # Errors
    ///
    /// Those of copying up.
    pub(super) fn copy_up_whole(&self, ino: Ino) -> nix::Result<()> {
        self.copy_up(ino, None)?;
        self.complete(ino)
    }

    /// Completes all partial copies below the directory `ino`.
    ///
    /// # Errors
    ///
    /// Those of copying up.
    pub(super) fn complete_below(&self, ino: Ino) -> nix::Result<()> {
        let below: Vec<Ino> = {
            let state = self.state();
            let files = state.partials.files.iter().copied();
            files.filter(|file| state.lies_below(*file, ino)).collect()
        };
        below.into_iter().try_for_each(|file| self.complete(file))
    }

    /// Completes what is still being copied up, since the mount has ended. What cannot be completed (a
    /// full disk) stays in the work directory and is taken up by the next mount.
    pub fn finish(&self) {
        let files = {
            let partials = &mut self.state().partials;
            partials.ended = true;
            partials.files.clone()
        };
        for ino in files {
            if let Err(errno) = self.complete(ino) {
                log::warn!("a huge file stays in the work directory until the next mount: {errno}");
            }
        }
    }

    /// Takes up what an unclean end has left.
    ///
    /// # Errors
    ///
    /// Those of looking for it; `ESTALE` if it is a copy of a file that is not there any more, which
    /// happens only when the lower layers are others than they were.
    pub(super) fn adopt_partials(&self) -> nix::Result<()> {
        let Some(upper) = self.overlay.upper.as_ref() else { return Ok(()) };
        for leftover in upper.leftover_partials()? {
            let Some((ino, source)) = self.find_original(&leftover)? else {
                // Removed, or written anew, just before the end.
                upper.drop_partial(&leftover.id)?;
                continue;
            };
            let Some((file, partial)) = upper.adopt_partial(&leftover, &source)? else {
                log::error!("{:?} was changed over another lower file", leftover.origin.path);
                return Err(Errno::ESTALE);
            };
            let permissions = upper.held(&Subject::open(file.as_fd())?, libc::S_IFREG)?;
            let file = OpenFile { file, writable: true, partial: Some(partial) };
            let mut state = self.state();
            state.own_partial(ino, file, leftover.id, permissions.is_some())?;
            if let Some(permissions) = permissions {
                state.table.set_mode(ino, libc::S_IFREG | permissions.mode);
            }
            drop(state);
            self.forget(ino, 1);
        }
        self.attend();
        Ok(())
    }

    /// The node of a lower file at the leftover's path, with one reference; none if there is no lower
    /// file.
    fn find_original(&self, leftover: &Leftover) -> nix::Result<Option<(Ino, Source)>> {
        let (mut ino, mut above) = (Ino::ROOT, None);
        for name in &leftover.origin.path {
            let found = self.lookup(ino, name);
            if let Some(above) = above {
                self.forget(above, 1);
            }
            match found {
                Ok(attr) => (ino, above) = (attr.ino, Some(attr.ino)),
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        }
        let mut state = self.state();
        let node = state.table.get(ino)?;
        let (Place::Lower(layer), true) = (node.place(), node.is_regular()) else {
            state.table.forget(ino, 1);
            return Ok(None);
        };
        let (parent, name) = node.name()?;
        let folder = state.lower_folder(parent, layer)?;
        Ok(Some((ino, Source { folder, name })))
    }

    /// Copies what is missing of `ino` and moves it to its place, if it is a partial copy.
    fn complete(&self, ino: Ino) -> nix::Result<()> {
        let mut next = Some(0);
        while let Some(block) = next {
            let Some(file) = self.state().partial(ino) else { return Ok(()) };
            next = complete_some(&file, block)?;
        }
        let _one_at_a_time = self.copying.lock();
        self.state().place_partial(ino)
    }

    /// Sees to it that somebody completes the partial copies, when there is time.
    fn attend(&self) {
        let partials = &mut self.state().partials;
        if partials.files.is_empty() || partials.attended {
            return;
        }
        let tree = self.clone();
        let name = String::from("rrun-complete");
        partials.attended =
            thread::Builder::new().name(name).spawn(move || tree.attendant()).is_ok();
    }

    /// What the attending thread does.
    fn attendant(&self) {
        if let Err(errno) = schedule::enter_idle_class() {
            log::debug!("completing huge files at full priority: {errno}");
        }
        loop {
            thread::sleep(PATIENCE);
            let file = {
                let partials = &mut self.state().partials;
                let next = partials.files.first().filter(|_some| !partials.ended).copied();
                partials.attended = next.is_some();
                next
            };
            let Some(ino) = file else { return };
            if let Err(errno) = self.complete(ino) {
                // A full disk, most likely; whoever writes next will hear of it.
                log::debug!("cannot complete a huge file yet: {errno}");
                self.state().partials.files.rotate_left(1);
            }
        }
    }
}

fn complete_some(file: &OpenFile, block: u64) -> nix::Result<Option<u64>> {
    file.partial.as_ref().map_or(Ok(None), |partial| partial.complete_some(file.as_fd(), block))
}

impl State {
    /// Enters a partial copy as the place of `ino`.
    fn own_partial(&mut self, ino: Ino, file: OpenFile, id: Name, held: bool) -> nix::Result<()> {
        self.move_up(ino, Place::Partial(Arc::new(file), id), held)?;
        self.partials.files.push(ino);
        Ok(())
    }

    /// The file `ino`, if it is a partial copy.
    fn partial(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        match self.table.get(ino).ok()?.place() {
            Place::Partial(file, _) => Some(file),
            _ => None,
        }
    }

    /// Moves a partial copy, now whole, to its place.
    fn place_partial(&mut self, ino: Ino) -> nix::Result<()> {
        let node = self.table.get(ino)?;
        let Place::Partial(_, id) = node.place() else { return Ok(()) };
        let (parent, name) = node.name()?;
        let folder = self.raise_folder(parent)?;
        quietly(&folder, || self.upper()?.place_partial(&id, &folder, &name))?;
        self.mark_raised(parent, &name)?;
        let is_held = self.table.get(ino)?.is_held();
        self.move_up(ino, Place::Upper, is_held)?;
        self.partials.files.retain(|file| *file != ino);
        self.table.drop_unused(ino);
        Ok(())
    }

    /// Removes a partial copy from the work directory: its file is about to lose its name.
    pub(super) fn disown_partial(&mut self, ino: Ino) -> nix::Result<()> {
        let Place::Partial(_, id) = self.table.get(ino)?.place() else { return Ok(()) };
        self.upper()?.drop_partial(&id)?;
        self.partials.files.retain(|file| *file != ino);
        Ok(())
    }

    /// The names that lead to `ino` from the root.
    fn path(&self, ino: Ino) -> nix::Result<Vec<Arc<OsStr>>> {
        let (mut path, mut at) = (Vec::new(), ino);
        while at != Ino::ROOT {
            let (parent, name) = self.table.get(at)?.name()?;
            path.push(name);
            at = parent;
        }
        path.reverse();
        Ok(path)
    }

    /// Whether `folder` is among the directories above `ino`.
    fn lies_below(&self, ino: Ino, folder: Ino) -> bool {
        let mut at = ino;
        while at != Ino::ROOT {
            if at == folder {
                return true;
            }
            let Ok((parent, _name)) = self.table.get(at).and_then(Known::name) else {
                return false;
            };
            at = parent;
        }
        false
    }
}
