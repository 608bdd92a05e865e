//! A directory's parts in the layers, and its merged entries.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;

use super::State;
use crate::format::redirect::Redirect;
use crate::inode::Ino;
use crate::inode::handles::Held;
use crate::inode::node::{LowerPart, Opened};
use crate::layer::stack::{self, Merge, Name, Outcome, Search};
use crate::layer::{Folder, LayerIndex, Traits};
use crate::upper::UpperFolder;

/// A directory being merged, layer by layer.
struct Opening {
    ino: Ino,
    parent: Ino,
    name: Name,
    /// The layers in which the parent saw the name as a directory.
    seen: Vec<LayerIndex>,
    search: Search,
    merge: Merge,
    upper: Option<Option<Arc<UpperFolder>>>,
    redirect: Option<Redirect>,
    lowers: Vec<LowerPart>,
}

impl State {
    /// The directory `ino`, merged on first use and from memory ever after.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`; `ESTALE`; those of reading a directory.
    pub(super) fn opened(&mut self, ino: Ino) -> nix::Result<&mut Opened> {
        if self.table.get(ino)?.opened().is_none() {
            let opened = self.merge(ino)?;
            self.table.node(ino)?.opened = Some(Box::new(opened));
        }
        self.table.opened(ino)?.ok_or(Errno::EIO)
    }

    fn merge(&mut self, ino: Ino) -> nix::Result<Opened> {
        let mut opening = self.opening(ino)?;
        let last = self.overlay.last_layer();
        for layer in (0..=last.0).map(LayerIndex) {
            let found_by = opening.search.clone();
            match self.search(&mut opening, layer)? {
                Outcome::Absent => {}
                Outcome::Blocked => break,
                Outcome::Found(folder) => {
                    let part = (layer, found_by, folder);
                    if self.add_part(&mut opening, part, layer == last)? {
                        break;
                    }
                }
            }
        }
        let (entries, whiteouts) = opening.merge.finish();
        let listing = self.table.list(ino, entries, whiteouts)?;
        let Opening { upper, redirect, lowers, .. } = opening;
        Ok(Opened { upper, redirect, lowers, listing, default_acl: None })
    }

    fn opening(&mut self, ino: Ino) -> nix::Result<Opening> {
        let node = self.table.get(ino)?;
        if !node.is_folder() {
            return Err(Errno::ENOTDIR);
        }
        let start = |parent, name, seen| Opening {
            ino,
            parent,
            name,
            seen,
            search: Search::AsMerged,
            merge: Merge::default(),
            upper: None,
            redirect: None,
            lowers: Vec::new(),
        };
        if ino == Ino::ROOT {
            return Ok(start(ino, Name::from(OsStr::new(".")), Vec::new()));
        }
        let (parent, name) = node.name()?;
        let entry = self.entry(parent, &name)?;
        let seen = self.table.span(&entry);
        Ok(start(parent, name, seen))
    }

    /// What `layer` has of the directory.
    fn search(&mut self, opening: &mut Opening, layer: LayerIndex) -> nix::Result<Outcome> {
        if opening.ino == Ino::ROOT {
            return self.root_part(layer);
        }
        match &opening.search {
            Search::AsMerged if !opening.seen.contains(&layer) => Ok(Outcome::Absent),
            Search::AsMerged => {
                let folder = if layer == LayerIndex::UPPER {
                    self.upper_folder(opening.parent)?.folder(&opening.name)
                } else {
                    self.lower_folder(opening.parent, layer)?.folder(&opening.name)
                };
                folder.map(Outcome::Found)
            }
            Search::Sibling(name) => match self.lower_folder(opening.parent, layer) {
                Ok(parent) => stack::find(&parent, name),
                Err(Errno::ENOENT) => Ok(Outcome::Absent),
                Err(errno) => Err(errno),
            },
            Search::FromRoot(path) => {
                let (outcome, below) = stack::walk(&*self.layer_root(layer)?, path)?;
                match (outcome, below) {
                    (Outcome::Found(folder), below) => {
                        // With nowhere left to look, an impossible path finds nothing below.
                        opening.search = Search::FromRoot(below.unwrap_or_default());
                        Ok(Outcome::Found(folder))
                    }
                    (Outcome::Absent, Some(below)) => {
                        opening.search = Search::FromRoot(below);
                        Ok(Outcome::Absent)
                    }
                    _ => Ok(Outcome::Blocked),
                }
            }
        }
    }

    fn root_part(&self, layer: LayerIndex) -> nix::Result<Outcome> {
        let here = OsStr::new(".");
        if layer != LayerIndex::UPPER {
            return self.layer(layer)?.root.folder(here).map(Outcome::Found);
        }
        match &self.overlay.upper {
            Some(upper) => upper.root.folder(here).map(Outcome::Found),
            None => Ok(Outcome::Absent),
        }
    }

    /// Adds what was found; `true` if it hides all layers below.
    fn add_part(
        &mut self,
        opening: &mut Opening,
        (layer, found_by, folder): (LayerIndex, Search, Folder),
        is_last: bool,
    ) -> nix::Result<bool> {
        let may_nest = match &self.overlay.upper {
            Some(upper) if layer == LayerIndex::UPPER => upper.has_whiteouts(),
            _ => self.layer(layer)?.whiteouts,
        };
        // Like kernel overlayfs: nothing can stand above the root, so its attributes say nothing.
        let skip = is_last || opening.ino == Ino::ROOT;
        let mut traits = Traits::default();
        if !skip || may_nest {
            traits = folder.traits()?;
        }
        let marked = opening.merge.add(layer, &folder, may_nest && traits.whiteouts)?;
        if skip {
            traits = Traits::default();
        }
        if layer == LayerIndex::UPPER {
            opening.upper = Some(Some(Arc::new(UpperFolder::of_upper_layer(folder))));
        } else {
            let folder = Some(Arc::new(folder));
            opening.lowers.push(LowerPart { layer, search: found_by, folder });
        }
        self.hold(Held::Folder(opening.ino, layer));
        if let Some(redirect) = traits.redirect {
            opening.search = opening.search.below(redirect.clone());
            if layer == LayerIndex::UPPER {
                opening.redirect = Some(redirect);
            }
        }
        Ok(marked || traits.opaque)
    }

    /// The part of the directory `ino` in a lower layer.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it has none there.
    pub(super) fn lower_folder(&mut self, ino: Ino, layer: LayerIndex) -> nix::Result<Arc<Folder>> {
        let mut down: Vec<(Ino, Vec<Name>)> = Vec::new();
        let mut at = ino;
        let mut folder = loop {
            let part = self.opened(at)?.lowers.iter().find(|part| part.layer == layer);
            let part = part.ok_or(Errno::ENOENT)?;
            if let Some(folder) = &part.folder {
                break Arc::clone(folder);
            }
            match part.search.clone() {
                Search::FromRoot(path) => {
                    down.push((at, path));
                    break self.layer_root(layer)?;
                }
                Search::Sibling(name) => {
                    down.push((at, vec![name]));
                    at = self.table.get(at)?.parent()?;
                }
                Search::AsMerged => {
                    let (parent, name) = self.table.get(at)?.name()?;
                    down.push((at, vec![name]));
                    at = parent;
                }
            }
        };
        for (ino, path) in down.into_iter().rev() {
            for name in path {
                folder = Arc::new(folder.folder(&name)?);
            }
            self.keep_lower(ino, layer, &folder)?;
        }
        Ok(folder)
    }

    fn keep_lower(&mut self, ino: Ino, layer: LayerIndex, folder: &Arc<Folder>) -> nix::Result<()> {
        let parts = &mut self.opened(ino)?.lowers;
        if let Some(part) = parts.iter_mut().find(|part| part.layer == layer) {
            part.folder = Some(Arc::clone(folder));
        }
        self.hold(Held::Folder(ino, layer));
        Ok(())
    }

    /// The part of the directory `ino` in the upper layer.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it has none there.
    pub(super) fn upper_folder(&mut self, ino: Ino) -> nix::Result<Arc<UpperFolder>> {
        let mut down: Vec<(Ino, Name)> = Vec::new();
        let mut at = ino;
        let mut folder = loop {
            match &self.opened(at)?.upper {
                None => return Err(Errno::ENOENT),
                Some(Some(folder)) => break Arc::clone(folder),
                Some(None) => {
                    let (parent, name) = self.table.get(at)?.name()?;
                    down.push((at, name));
                    at = parent;
                }
            }
        };
        for (ino, name) in down.into_iter().rev() {
            folder = Arc::new(folder.upper_folder(&name)?);
            self.opened(ino)?.upper = Some(Some(Arc::clone(&folder)));
            self.hold(Held::Folder(ino, LayerIndex::UPPER));
        }
        Ok(folder)
    }

    /// Closes the descriptor of a directory in one layer; it can be opened again by its name.
    pub(super) fn close_folder(&mut self, ino: Ino, layer: LayerIndex) {
        let Ok(Some(opened)) = self.table.opened(ino) else { return };
        if layer == LayerIndex::UPPER {
            if let Some(upper) = &mut opened.upper {
                *upper = None;
            }
        } else if let Some(part) = opened.lowers.iter_mut().find(|part| part.layer == layer) {
            part.folder = None;
        }
    }
}
