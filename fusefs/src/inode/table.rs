//! Every node the kernel or a known node refers to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;

use nix::dir::Type;
use nix::errno::Errno;

use super::Ino;
use super::attr::Attr;
use super::handles::OpenFile;
use crate::format::redirect::Redirect;
use crate::layer::stack::{Merged, Name, Search};
use crate::layer::{Folder, LayerIndex};
use crate::sys::memory;
use crate::upper::UpperFolder;

/// Where the topmost object of a node lies.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Under the node's name in this lower layer.
    Lower(LayerIndex),
    /// Under the node's name in the upper directory.
    Upper,
    /// In the index of copied-up hard links.
    Indexed(Name),
    /// Where it always was in a lower layer, but the merged tree has no name for it any more.
    Hidden(Arc<Folder>, Name),
    /// Among the partial copies in the work directory, under this name there.
    Partial(Arc<OpenFile>, Name),
    /// In the upper directory's file system, without a name.
    Nameless(Arc<OpenFile>),
    /// Nowhere: a directory that was removed. What is in memory is all that is left of it.
    Removed,
}

/// One file, directory or other object of the merged tree.
#[derive(Debug)]
pub(crate) struct Node {
    /// References that the kernel holds.
    pub(crate) lookups: u64,
    /// Names of other nodes in the table that lie in this directory.
    children: u32,
    /// The names by which the node is known: one, or more for a hard link, or none once it is gone.
    names: Vec<(Ino, Name)>,
    /// Metadata, right only while `fresh`.
    pub(crate) attr: Attr,
    /// Whether `attr` is what the layer would say.
    pub(crate) fresh: bool,
    /// Whether an attribute holds owner and permissions: what `attr` says of them is then right even
    /// if not fresh.
    pub(crate) held: bool,
    /// Where it lies.
    pub(crate) place: Place,
    /// Its contents, while open.
    pub(crate) file: Option<Arc<OpenFile>>,
    /// Its key among the hard links, if it has ever had several names.
    pub(crate) link_key: Option<LinkKey>,
    /// A directory's layers and entries, once used.
    pub(crate) opened: Option<Box<Opened>>,
}

impl Node {
    /// A node that nothing refers to yet.
    pub(crate) fn new(attr: Attr, place: Place) -> Self {
        Self {
            lookups: 0,
            children: 0,
            names: Vec::new(),
            attr,
            fresh: true,
            held: false,
            place,
            file: None,
            link_key: None,
            opened: None,
        }
    }

    /// Directory and name of one of its names.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it has none.
    pub(crate) fn name(&self) -> nix::Result<(Ino, Name)> {
        self.names.first().cloned().ok_or(Errno::ENOENT)
    }

    /// Whether it has no name left.
    pub(crate) fn nameless(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether no name leads to it any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.place, Place::Hidden(..) | Place::Nameless(_) | Place::Removed)
    }

    /// By how many names it is known.
    pub(crate) fn names_known(&self) -> usize {
        self.names.len()
    }

    /// Whether what it shows may be changed in place.
    pub(crate) fn is_upper(&self) -> bool {
        !matches!(self.place, Place::Lower(_) | Place::Hidden(..))
    }
}

/// The directories and entries of a merged directory.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Its directory in the upper layer. The inner `None` means closed for the moment.
    pub(crate) upper: Option<Option<Arc<UpperFolder>>>,
    /// Its directories in lower layers, topmost first.
    pub(crate) lowers: Vec<LowerPart>,
    /// What its directory in the upper layer says of the layers below.
    pub(crate) redirect: Option<Redirect>,
    /// Its entries.
    pub(crate) listing: Listing,
    /// Whether new entries inherit an access control list, if known.
    pub(crate) default_acl: Option<bool>,
}

impl Opened {
    /// A new directory of the upper layer.
    pub(crate) fn empty() -> Self {
        let listing = Listing::new(Vec::new(), HashSet::new(), || Ino::ROOT);
        Self { upper: Some(None), lowers: Vec::new(), redirect: None, listing, default_acl: None }
    }
}

/// A merged directory's part in one lower layer.
#[derive(Debug)]
pub(crate) struct LowerPart {
    /// The layer.
    pub(crate) layer: LayerIndex,
    /// How to find it there.
    pub(crate) search: Search,
    /// The directory, while open.
    pub(crate) folder: Option<Arc<Folder>>,
}

/// An entry of a merged directory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: Name,
    /// The node it stands for.
    pub(crate) ino: Ino,
    /// The type of that node.
    pub(crate) kind: Type,
    /// The topmost layer that has the name.
    pub(crate) top: LayerIndex,
    /// Whether something below would show if the upper directory's object went away.
    pub(crate) covers: bool,
    /// The inode number; 0 until a look at the object has told it, and which node the name of a hard
    /// link stands for.
    pub(crate) number: u64,
    /// For a directory: the layers whose contents show.
    pub(crate) folders: Box<[LayerIndex]>,
}

impl Entry {
    /// An object of the upper directory. `covers` as in the field of that name.
    pub(crate) fn upper(name: Name, (ino, number): (Ino, u64), kind: Type, covers: bool) -> Self {
        let folders: &[LayerIndex] =
            if kind == Type::Directory { &[LayerIndex::UPPER] } else { &[] };
        let top = LayerIndex::UPPER;
        Self { name, ino, kind, top, covers, number, folders: folders.into() }
    }

    /// Whether removing it must leave a whiteout.
    pub(crate) fn needs_whiteout(&self) -> bool {
        self.covers || self.top != LayerIndex::UPPER
    }
}

/// The entries of a directory in the order in which listings show them.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// By cookie: where a listing goes on after the entry. Cookies grow and are never used twice,
    /// so that a listing survives any change between two of its requests.
    entries: BTreeMap<u64, Entry>,
    cookies: HashMap<Name, u64>,
    last: u64,
    /// Names that whiteouts of the upper directory hide.
    pub(crate) whiteouts: HashSet<Name>,
}

/// The cookies of `.` and `..`; those of entries are larger.
pub(crate) const DOT: u64 = 1;
/// See [`DOT`].
pub(crate) const DOT_DOT: u64 = 2;

impl Listing {
    /// The merged `entries`, each with a node id from `number`.
    pub(crate) fn new(
        entries: Vec<Merged>,
        whiteouts: HashSet<Name>,
        mut number: impl FnMut() -> Ino,
    ) -> Self {
        let mut listing = Self { last: DOT_DOT, whiteouts, ..Self::default() };
        listing.cookies.reserve(entries.len());
        for Merged { name, kind, top, covers, folders, .. } in entries {
            let (ino, folders) = (number(), folders.into());
            listing.insert(Entry { name, ino, kind, top, covers, number: 0, folders });
        }
        listing
    }

    /// The entry `name`.
    pub(crate) fn get(&self, name: &OsStr) -> Option<&Entry> {
        self.entries.get(self.cookies.get(name)?)
    }

    /// The entry `name`, to be changed.
    pub(crate) fn get_mut(&mut self, name: &OsStr) -> Option<&mut Entry> {
        self.entries.get_mut(self.cookies.get(name)?)
    }

    /// Adds an entry at the end.
    pub(crate) fn insert(&mut self, entry: Entry) {
        self.last += 1;
        self.cookies.insert(Arc::clone(&entry.name), self.last);
        self.entries.insert(self.last, entry);
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, name: &OsStr) -> Option<Entry> {
        let cookie = self.cookies.remove(name)?;
        self.entries.remove(&cookie)
    }

    /// The first entry after `cookie`, with its own cookie.
    pub(crate) fn after(&self, cookie: u64) -> Option<(u64, &Entry)> {
        let from = cookie.max(DOT_DOT).checked_add(1)?;
        self.entries.range(from..).next().map(|(cookie, entry)| (*cookie, entry))
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What makes two names of one layer the same file: layer, device and inode number.
pub(crate) type LinkKey = (LayerIndex, u64, u64);

/// A file with several names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The node that all its names stand for.
    pub(crate) ino: Ino,
    /// How many of its names in a lower layer are gone from the merged tree.
    pub(crate) removed: u32,
}

/// Room for so many nodes is not worth giving back.
const KEPT_ROOM: usize = 2048;

/// All nodes.
#[derive(Debug)]
pub(crate) struct Table {
    /// Boxed, since a map keeps up to half of its places free.
    nodes: HashMap<Ino, Box<Node>>,
    last: Ino,
    /// Files with several names. Kept for the life of the mount: they are few.
    pub(crate) links: HashMap<LinkKey, Link>,
}

impl Table {
    /// A table of nothing but the root, which stays for ever.
    pub(crate) fn new(mut root: Node) -> Self {
        root.lookups = 1;
        let nodes = HashMap::from([(Ino::ROOT, Box::new(root))]);
        Self { nodes, last: Ino::ROOT, links: HashMap::new() }
    }

    /// A node id that was never used.
    pub(crate) fn fresh_ino(&mut self) -> Ino {
        self.last.0 += 1;
        self.last
    }

    /// The node `ino`.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it was forgotten.
    pub(crate) fn get(&self, ino: Ino) -> nix::Result<&Node> {
        self.nodes.get(&ino).map(Box::as_ref).ok_or(Errno::ESTALE)
    }

    /// The node `ino`, to be changed.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it was forgotten.
    pub(crate) fn get_mut(&mut self, ino: Ino) -> nix::Result<&mut Node> {
        self.nodes.get_mut(&ino).map(Box::as_mut).ok_or(Errno::ESTALE)
    }

    /// Whether the node is known.
    pub(crate) fn contains(&self, ino: Ino) -> bool {
        self.nodes.contains_key(&ino)
    }

    /// How many nodes are known.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a node, which has no name yet.
    pub(crate) fn insert(&mut self, node: Node) {
        self.nodes.insert(node.attr.ino, Box::new(node));
    }

    /// Gives the node `ino` the name `name` in `parent`, unless it is known by it.
    ///
    /// # Errors
    ///
    /// `ESTALE` if either node was forgotten.
    pub(crate) fn add_name(&mut self, ino: Ino, parent: Ino, name: &Name) -> nix::Result<()> {
        let node = self.get_mut(ino)?;
        if node.names.iter().any(|(p, n)| *p == parent && n == name) {
            return Ok(());
        }
        node.names.push((parent, Arc::clone(name)));
        self.get_mut(parent)?.children += 1;
        Ok(())
    }

    /// Takes the name `name` in `parent` from the node `ino`.
    ///
    /// # Errors
    ///
    /// `ESTALE` if either node was forgotten.
    pub(crate) fn remove_name(&mut self, ino: Ino, parent: Ino, name: &OsStr) -> nix::Result<()> {
        let node = self.get_mut(ino)?;
        let before = node.names.len();
        node.names.retain(|(p, n)| *p != parent || **n != *name);
        if node.names.len() < before {
            self.get_mut(parent)?.children -= 1;
        }
        Ok(())
    }

    /// Gives up `count` of the kernel's references to `ino`, and with the last one the node.
    pub(crate) fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.drop_unused(ino);
        self.give_back();
    }

    /// Gives memory back to the kernel when most of the nodes that there have been are gone.
    fn give_back(&mut self) {
        let room = self.nodes.capacity();
        if room > KEPT_ROOM && self.nodes.len() < room / 8 {
            self.nodes.shrink_to_fit();
            memory::give_back();
        }
    }

    /// Drops `ino` if nothing refers to it, and then those that only it referred to.
    pub(crate) fn drop_unused(&mut self, ino: Ino) {
        let mut unsure = vec![ino];
        while let Some(ino) = unsure.pop() {
            // Nothing but the node knows of a partial copy.
            let used = |node: &Node| {
                let partial = matches!(node.place, Place::Partial(..));
                node.lookups > 0 || node.children > 0 || ino == Ino::ROOT || partial
            };
            if self.get(ino).is_ok_and(used) {
                continue;
            }
            let Some(node) = self.nodes.remove(&ino) else { continue };
            for (parent, _name) in node.names {
                if let Some(parent_node) = self.nodes.get_mut(&parent) {
                    parent_node.children -= 1;
                    unsure.push(parent);
                }
            }
        }
    }
}
