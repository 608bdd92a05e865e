//! Directories of lower layers under new names: the upper directory says where the layers below
//! keep them.

use nix::errno::Errno;

use super::State;
use crate::format::redirect::{self, Redirect};
use crate::inode::Ino;
use crate::inode::node::Opened;
use crate::layer::LayerIndex;
use crate::layer::stack::{Name, Search};
use crate::sys::xattr;

/// Bytes of an attribute that every file system has room for, unless it is full.
const SHORT: usize = 256;

impl State {
    /// Whether the directory `ino` shows something of a lower layer.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`; those of reading a directory.
    pub(super) fn is_merged(&mut self, ino: Ino) -> nix::Result<bool> {
        Ok(!self.opened(ino)?.lowers.is_empty())
    }

    /// Makes the lower parts of the directory `ino` independent of its name, so that it can be
    /// renamed: within its directory if it is to be a `sibling`, else to anywhere.
    ///
    /// What is written means what was there before, so that a rename that fails does no harm.
    ///
    /// # Errors
    ///
    /// `EXDEV` if the way from the root is too long to be written down, as kernel overlayfs;
    /// those of raising it and of setxattr(2).
    ///
    /// Source: Linux `fs/overlayfs/dir.c`, `ovl_set_redirect()`.
    pub(super) fn redirect(&mut self, ino: Ino, sibling: bool) -> nix::Result<()> {
        let folder = self.raise_folder(ino)?;
        let wanted = match self.opened(ino)?.redirect.clone() {
            Some(kept @ Redirect::FromRoot(_)) => kept,
            Some(kept) if sibling => kept,
            None if sibling => Redirect::Sibling(self.table.get(ino)?.name()?.1),
            _ => Redirect::FromRoot(self.way(ino, Self::step_below)?),
        };
        for layer in self.opened(ino)?.lowers.iter().map(|part| part.layer).collect::<Vec<_>>() {
            let path = self.way(ino, |opened| Self::step_in(opened, layer))?;
            let parts = &mut self.opened(ino)?.lowers;
            if let Some(part) = parts.iter_mut().find(|part| part.layer == layer) {
                part.search = Search::FromRoot(path);
            }
        }
        if self.opened(ino)?.redirect.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let value = redirect::format(&wanted).ok_or(Errno::EXDEV)?;
        match xattr::set(&folder.own_attributes(), redirect::ATTRIBUTE, &value, 0) {
            // The file system has less room for attributes.
            Err(Errno::E2BIG | Errno::ERANGE | Errno::ENOSPC) if value.len() > SHORT => {
                return Err(Errno::EXDEV);
            }
            set => set?,
        }
        self.opened(ino)?.redirect = Some(wanted);
        Ok(())
    }

    /// The way from the root of layers to the directory `ino`, one `step` for it and each above.
    fn way(&mut self, ino: Ino, step: impl Fn(&Opened) -> Search) -> nix::Result<Vec<Name>> {
        let mut up = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let (parent, name) = self.table.get(at)?.name()?;
            match step(self.opened(at)?) {
                Search::AsMerged => up.push(name),
                Search::Sibling(name) => up.push(name),
                Search::FromRoot(path) => {
                    up.extend(path.into_iter().rev());
                    break;
                }
            }
            at = parent;
        }
        up.reverse();
        Ok(up)
    }

    /// Where the layers below the upper one keep a directory.
    fn step_below(opened: &Opened) -> Search {
        match opened.redirect.clone() {
            None => Search::AsMerged,
            Some(redirect) => Search::AsMerged.below(redirect),
        }
    }

    /// Where one lower layer keeps it.
    fn step_in(opened: &Opened, layer: LayerIndex) -> Search {
        let part = opened.lowers.iter().find(|part| part.layer == layer);
        part.map_or(Search::AsMerged, |part| part.search.clone())
    }
}
