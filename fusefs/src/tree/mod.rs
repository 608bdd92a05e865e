//! The merged tree: plain arguments, plain results, no FUSE.
//!
//! Each operation is a method of [`Tree`]; the files of this module hold one kind each. Node ids
//! come from [`Tree::lookup`] and the operations that make something, each of which counts one
//! reference that [`Tree::forget`] gives back.

mod attr;
mod dir;
mod file;
mod folders;
mod lookup;
mod make;
mod object;
mod partial;
mod redirect;
mod remove;
mod rename;
mod up;
mod xattr;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

pub use crate::inode::Ino;
pub use crate::inode::attr::{Attr, Timestamp};
pub use attr::{Changes, Time};
pub use dir::{Listed, Wanted};
pub use file::Written;
pub use make::{Asker, Kind};
pub use rename::Exchange;

use crate::format::permissions::Permissions;
use crate::format::whiteout;
use crate::inode::entries::Entry;
use crate::inode::handles::{Held, Queue};
use crate::inode::table::Table;
use crate::layer::{Folder, Layer, LayerIndex};
use crate::overlay::Overlay;
use crate::upper::Upper;
use crate::upper::permissions::read as read_permissions;
use partial::Partials;

/// Longest name of a file, in bytes, as in nearly every file system (`NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// The merged tree of one [`Overlay`].
///
/// Clones are the same tree.
#[derive(Clone, Debug)]
pub struct Tree {
    overlay: Arc<Overlay>,
    /// Held by whoever copies a file up, so that each is copied once. Taken before `state`.
    copying: Arc<Mutex<()>>,
    state: Arc<Mutex<State>>,
}

impl Tree {
    /// Takes over `overlay`, keeping at most `descriptors` files and directories open besides
    /// those that must be.
    ///
    /// # Errors
    ///
    /// Those of fstat(2) on the topmost directory.
    pub fn new(overlay: Overlay, descriptors: usize) -> nix::Result<Self> {
        let (stat, top) = match &overlay.upper {
            Some(upper) => (upper.root.own_stat()?, LayerIndex::UPPER),
            None => (overlay.top()?.root.own_stat()?, LayerIndex(1)),
        };
        let number = overlay.number(stat.st_dev, stat.st_ino);
        let mut root = Attr::new(Ino::ROOT, number, &stat);
        let permissions = root_permissions(&overlay)?;
        if let Some(permissions) = permissions {
            root.show(permissions);
        }
        let table = Table::new(&root, top, permissions.is_some())?;
        Self::on(overlay, descriptors, table)
    }

    /// Goes on where another process, which must have ended, has left the same overlay: `nodes` is
    /// what its [`Tree::memory`] gave out. All node ids mean what they meant, and references count.
    /// Files and directories that had lost their last name are not there any more (`ENOENT`).
    ///
    /// # Errors
    ///
    /// `EINVAL` if `nodes` is something else; those of looking at the layers.
    pub fn resume(overlay: Overlay, descriptors: usize, nodes: OwnedFd) -> nix::Result<Self> {
        let tree = Self::on(overlay, descriptors, Table::resume(nodes)?)?;
        let mut state = tree.state();
        for ino in state.table.to_find_again() {
            if let Err(errno) = state.find_again(ino) {
                log::warn!("a file with several names is not where it was: {errno}");
            }
        }
        drop(state);
        Ok(tree)
    }

    fn on(overlay: Overlay, descriptors: usize, table: Table) -> nix::Result<Self> {
        let overlay = Arc::new(overlay);
        let state = State {
            overlay: Arc::clone(&overlay),
            table,
            held: Queue::new(descriptors),
            partials: Partials::default(),
        };
        let (copying, state) = (Arc::default(), Arc::new(Mutex::new(state)));
        let tree = Self { overlay, copying, state };
        tree.adopt_partials()?;
        Ok(tree)
    }

    /// The memory that holds all node ids and what they stand for: whoever has it when this process
    /// dies can [`Tree::resume`].
    ///
    /// # Errors
    ///
    /// `EMFILE`.
    pub fn memory(&self) -> nix::Result<OwnedFd> {
        let copy = self.state().table.memory().try_clone_to_owned();
        copy.map_err(|_no_descriptor| Errno::EMFILE)
    }

    /// How many nodes are in memory.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.state().table.len()
    }

    /// The state, for a moment. A panic elsewhere does not make it unusable: every change to it
    /// is made after the disk was changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permissions of the topmost directory, if an attribute holds them.
fn root_permissions(overlay: &Overlay) -> nix::Result<Option<Permissions>> {
    match &overlay.upper {
        Some(upper) => upper.held(&upper.root.own_attributes(), libc::S_IFDIR),
        None => {
            let top = overlay.top()?;
            let read = |name| read_permissions(&top.root.own_attributes(), name);
            top.permissions.map_or(Ok(None), read)
        }
    }
}

/// What is known about the tree.
#[derive(Debug)]
struct State {
    overlay: Arc<Overlay>,
    table: Table,
    held: Queue,
    partials: Partials,
}

impl State {
    /// The writable layer.
    ///
    /// # Errors
    ///
    /// `EROFS` if there is none.
    fn upper(&self) -> nix::Result<&Upper> {
        self.overlay.upper.as_ref().ok_or(Errno::EROFS)
    }

    fn layer(&self, index: LayerIndex) -> nix::Result<&Layer> {
        self.overlay.layer(index)
    }

    fn layer_root(&self, index: LayerIndex) -> nix::Result<Arc<Folder>> {
        self.layer(index).map(|layer| Arc::clone(&layer.root))
    }

    /// Notes a descriptor that was opened, and closes another if there are too many.
    fn hold(&mut self, held: Held) {
        let victim = self.held.push(held);
        let Some(victim) = victim.filter(|victim| *victim != held) else { return };
        match victim {
            Held::File(ino) => {
                if let Ok(node) = self.table.node(ino) {
                    node.file = None;
                    self.table.tidy(ino);
                }
            }
            Held::Folder(ino, layer) if ino != Ino::ROOT => self.close_folder(ino, layer),
            Held::Folder(..) => {}
        }
    }

    /// The entry `name` of the directory `parent`.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, `EINVAL` for what is not a name.
    fn entry(&mut self, parent: Ino, name: &OsStr) -> nix::Result<Entry> {
        check_name(name)?;
        self.opened(parent)?;
        self.table.entry((parent, name)).ok_or(Errno::ENOENT)
    }
}

/// Whether `name` can be the name of a file.
fn check_name(name: &OsStr) -> nix::Result<()> {
    let bytes = name.as_bytes();
    if bytes.len() > LONGEST_NAME {
        return Err(Errno::ENAMETOOLONG);
    }
    let legal =
        !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|b| matches!(b, 0 | b'/'));
    if legal { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether `name` may be given to a new file: it may not look like a marker of the format.
fn check_new_name(name: &OsStr) -> nix::Result<()> {
    check_name(name)?;
    if whiteout::reserved(name) { Err(Errno::EINVAL) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_components() {
        let longest = "n".repeat(LONGEST_NAME);
        let too_long = "n".repeat(LONGEST_NAME + 1);
        for (name, expected) in [
            ("file", Ok(())),
            ("...", Ok(())),
            (longest.as_str(), Ok(())),
            (too_long.as_str(), Err(Errno::ENAMETOOLONG)),
            ("", Err(Errno::EINVAL)),
            (".", Err(Errno::EINVAL)),
            ("..", Err(Errno::EINVAL)),
            ("a/b", Err(Errno::EINVAL)),
            ("a\0b", Err(Errno::EINVAL)),
        ] {
            assert_eq!(check_name(OsStr::new(name)), expected, "{name:?}");
        }
        assert_eq!(check_new_name(OsStr::new(".wh.file")), Err(Errno::EINVAL));
    }
}
