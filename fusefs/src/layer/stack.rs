//! Who has a name, and who hides it: the entries of one directory merged over all its layers.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::dir::Type;
use nix::errno::Errno;

use super::{Folder, LayerIndex, Traits, type_of_mode};
use crate::format::redirect::Redirect;
use crate::format::whiteout::{self, Marker};

/// One component of a path, shared by everybody who keeps it.
pub(crate) type Name = Arc<OsStr>;

/// A visible entry of a merged directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Merged {
    /// Its name.
    pub(crate) name: Name,
    /// What it is in the topmost layer that has it.
    pub(crate) kind: Type,
    /// The topmost layer that has it.
    pub(crate) top: LayerIndex,
    /// Whether something would show if the upper directory's entry went away.
    pub(crate) covers: bool,
    /// For a directory: the layers whose contents show, topmost first.
    pub(crate) folders: Vec<LayerIndex>,
    /// Whether layers further down may still add to it.
    open: bool,
}

/// The entries of a directory, built from its topmost layer down.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    entries: Vec<Merged>,
    index: HashMap<Name, usize>,
    /// Names hidden by a whiteout in a layer seen already.
    hidden: HashSet<Name>,
    /// Those of them that the upper directory hides.
    whiteouts: HashSet<Name>,
}

impl Merge {
    /// Adds the next layer below, in which whiteouts of an overlay inside may be if it is `nested`. `true`
    /// if a marker in it hides all that follow.
    ///
    /// # Errors
    ///
    /// Those of reading a directory.
    pub(crate) fn add(
        &mut self,
        layer: LayerIndex,
        folder: &Folder,
        nested: bool,
    ) -> nix::Result<bool> {
        let mut opaque = false;
        let mut gone: Vec<Name> = Vec::new();
        folder.for_each_entry(|name, kind| {
            match whiteout::marker(name) {
                Marker::Opaque => opaque = true,
                Marker::Internal => {}
                Marker::Whiteout(name) => gone.push(name.into()),
                Marker::None => match true_kind(folder, name, kind)? {
                    Some(Type::File) if nested && folder.is_nested_whiteout(name)? => {
                        self.show(layer, name, Type::CharacterDevice);
                    }
                    Some(kind) => self.show(layer, name, kind),
                    None => gone.push(name.into()),
                },
            }
            Ok(())
        })?;
        // A whiteout hides the layers below its own only.
        for name in gone {
            self.hide(layer, name);
        }
        Ok(opaque)
    }

    fn show(&mut self, layer: LayerIndex, name: &OsStr, kind: Type) {
        if self.hidden.contains(name) {
            return;
        }
        if let Some(position) = self.index.get(name) {
            if let Some(entry) = self.entries.get_mut(*position) {
                entry.meet(layer, kind);
            }
            return;
        }
        let name = Name::from(name);
        let is_folder = kind == Type::Directory;
        self.index.insert(Arc::clone(&name), self.entries.len());
        let folders = if is_folder { vec![layer] } else { Vec::new() };
        self.entries.push(Merged { name, kind, top: layer, covers: false, folders, open: true });
    }

    fn hide(&mut self, layer: LayerIndex, name: Name) {
        if layer == LayerIndex::UPPER {
            self.whiteouts.insert(Arc::clone(&name));
        }
        if let Some(entry) = self.index.get(&name).and_then(|at| self.entries.get_mut(*at)) {
            entry.open = false;
        }
        self.hidden.insert(name);
    }

    /// The visible entries, and the names that whiteouts of the upper directory hide.
    pub(crate) fn finish(self) -> (Vec<Merged>, HashSet<Name>) {
        (self.entries, self.whiteouts)
    }
}

impl Merged {
    /// Meets the same name in a layer further down.
    fn meet(&mut self, layer: LayerIndex, kind: Type) {
        if !self.open {
            return;
        }
        self.covers |= self.top == LayerIndex::UPPER;
        if self.kind == Type::Directory && kind == Type::Directory {
            self.folders.push(layer);
        } else {
            self.open = false;
        }
    }
}

/// The type of an entry, or `None` if it is a whiteout.
fn true_kind(folder: &Folder, name: &OsStr, kind: Option<Type>) -> nix::Result<Option<Type>> {
    match kind {
        Some(kind) if kind != Type::CharacterDevice => Ok(Some(kind)),
        _ => {
            let stat = folder.stat(name)?;
            let hidden = whiteout::is_whiteout(stat.st_mode, stat.st_rdev);
            Ok((!hidden).then(|| type_of_mode(stat.st_mode)))
        }
    }
}

/// Components of the longest path that is followed. What is deeper cannot have been written by an
/// overlay, since no attribute holds it; redirects of many layers could add up to it.
const DEEPEST: usize = 4096;

/// Where the layers further down keep a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// Under its own name, in those layers where the merged parent saw it.
    AsMerged,
    /// Under another name in the same parent.
    Sibling(Name),
    /// At these components from the root of each layer.
    FromRoot(Vec<Name>),
}

impl Search {
    /// Where to look below a directory that was found so and has this `redirect`.
    pub(crate) fn below(&self, redirect: Redirect) -> Self {
        match (self, redirect) {
            (_, Redirect::FromRoot(path)) => Self::FromRoot(path),
            (Self::FromRoot(path), Redirect::Sibling(name)) => {
                let mut path = path.clone();
                path.pop();
                path.push(name);
                Self::FromRoot(path)
            }
            (_, Redirect::Sibling(name)) => Self::Sibling(name),
        }
    }
}

/// What one layer has to say to a [`Search`].
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing; layers further down may have it.
    Absent,
    /// Something that hides the layers further down.
    Blocked,
    /// The directory.
    Found(Folder),
}

/// Looks for the directory `name` in `parent`, a directory of one layer.
///
/// # Errors
///
/// `EACCES` and the like.
pub(crate) fn find(parent: &Folder, name: &OsStr) -> nix::Result<Outcome> {
    match parent.folder(name) {
        Ok(folder) => Ok(Outcome::Found(folder)),
        Err(Errno::ENOTDIR) => Ok(Outcome::Blocked),
        Err(Errno::ENOENT) => {
            let hidden = parent.has(&whiteout::marker_for(name))?;
            Ok(if hidden { Outcome::Blocked } else { Outcome::Absent })
        }
        Err(errno) => Err(errno),
    }
}

/// Follows `path` from the root of one layer. On the way, directories and whiteouts beside them may
/// hide what is below or send the layers further down elsewhere; the second result is where those
/// are to look, `None` for nowhere.
///
/// # Errors
///
/// `EACCES` and the like; `EIO` for a broken redirect.
///
/// Source: Linux `fs/overlayfs/namei.c`, `ovl_lookup_layer()`.
pub(crate) fn walk(root: &Folder, path: &[Name]) -> nix::Result<(Outcome, Option<Vec<Name>>)> {
    let mut below = Some(path.to_vec());
    let mut here: Option<Folder> = None;
    for (depth, name) in path.iter().enumerate() {
        let folder = match find(here.as_ref().unwrap_or(root), name)? {
            Outcome::Found(folder) => folder,
            Outcome::Absent => return Ok((Outcome::Absent, below)),
            Outcome::Blocked => return Ok((Outcome::Blocked, None)),
        };
        if here.as_ref().unwrap_or(root).has(&whiteout::marker_for(name))? {
            below = None;
        }
        let rest = path.get(depth + 1..).unwrap_or_default();
        if !rest.is_empty() {
            let mut traits = folder.traits()?;
            traits.opaque |= folder.has(OsStr::from_bytes(whiteout::OPAQUE))?;
            below = path_below(below, path.get(..depth).unwrap_or_default(), rest, traits);
        }
        here = Some(folder);
    }
    Ok((here.map_or(Outcome::Absent, Outcome::Found), below))
}

/// Where layers further down look after passing a directory with these `traits`.
fn path_below(
    below: Option<Vec<Name>>,
    before: &[Name],
    rest: &[Name],
    traits: Traits,
) -> Option<Vec<Name>> {
    if traits.opaque {
        return None;
    }
    let mut path = match traits.redirect {
        None => return below,
        Some(Redirect::FromRoot(path)) => path,
        Some(Redirect::Sibling(name)) => {
            let mut path = before.to_vec();
            path.push(name);
            path
        }
    };
    path.extend_from_slice(rest);
    below.filter(|_not_hidden| path.len() <= DEEPEST).map(|_| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPPER: LayerIndex = LayerIndex::UPPER;
    const FIRST: LayerIndex = LayerIndex(1);
    const SECOND: LayerIndex = LayerIndex(2);

    fn found(merge: Merge) -> Vec<(String, Type, LayerIndex, bool, Vec<LayerIndex>)> {
        let (entries, _) = merge.finish();
        let plain = |entry: Merged| {
            let name = entry.name.to_string_lossy().into_owned();
            (name, entry.kind, entry.top, entry.covers, entry.folders)
        };
        entries.into_iter().map(plain).collect()
    }

    #[test]
    fn directories_merge_until_something_else_comes() {
        let mut merge = Merge::default();
        let name = OsStr::new("d");
        merge.show(UPPER, name, Type::Directory);
        merge.show(FIRST, name, Type::Directory);
        merge.show(SECOND, name, Type::File);
        merge.show(LayerIndex(3), name, Type::Directory);
        let expected = vec![("d".into(), Type::Directory, UPPER, true, vec![UPPER, FIRST])];
        assert_eq!(found(merge), expected);
    }

    #[test]
    fn the_topmost_file_hides_all_others() {
        let mut merge = Merge::default();
        merge.show(FIRST, OsStr::new("f"), Type::File);
        merge.show(SECOND, OsStr::new("f"), Type::Directory);
        assert_eq!(found(merge), vec![("f".into(), Type::File, FIRST, false, vec![])]);
    }

    #[test]
    fn a_whiteout_hides_lower_layers_and_not_its_own() {
        let mut merge = Merge::default();
        merge.show(UPPER, OsStr::new("f"), Type::Directory);
        merge.hide(UPPER, OsStr::new("f").into());
        merge.hide(UPPER, OsStr::new("g").into());
        merge.show(FIRST, OsStr::new("f"), Type::Directory);
        merge.show(FIRST, OsStr::new("g"), Type::File);
        assert_eq!(merge.whiteouts.len(), 2);
        assert_eq!(found(merge), vec![("f".into(), Type::Directory, UPPER, false, vec![UPPER])]);
    }

    #[test]
    fn directories_on_the_way_send_lower_layers_elsewhere() {
        let names =
            |names: &[&str]| names.iter().map(|n| OsStr::new(n).into()).collect::<Vec<Name>>();
        let below = |traits| {
            path_below(Some(names(&["a", "b", "c"])), &names(&["a"]), &names(&["c"]), traits)
        };
        let redirect = |redirect| Traits { redirect: Some(redirect), ..Traits::default() };
        assert_eq!(below(Traits::default()), Some(names(&["a", "b", "c"])));
        assert_eq!(below(Traits { opaque: true, ..Traits::default() }), None);
        let sibling = Redirect::Sibling(OsStr::new("x").into());
        assert_eq!(below(redirect(sibling)), Some(names(&["a", "x", "c"])));
        let from_root = Redirect::FromRoot(names(&["p", "q"]));
        assert_eq!(below(redirect(from_root)), Some(names(&["p", "q", "c"])));
    }
}
