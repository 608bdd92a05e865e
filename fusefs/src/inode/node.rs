//! What the server alone knows of nodes in use: what no other process could be told.

use std::sync::Arc;

use super::Ino;
use super::attr::Attr;
use super::handles::OpenFile;
use super::listing::Listing;
use super::record::Slot;
use crate::format::redirect::Redirect;
use crate::layer::stack::{Name, Search};
use crate::layer::{Folder, LayerIndex};
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

/// The part of a node that is not in its record. Most nodes have none.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Names of nodes that lie in this directory.
    pub(super) children: u32,
    /// Records of its other names, if it is a file with several.
    pub(super) aliases: Vec<Slot>,
    /// Where it lies, if the record does not say all.
    pub(super) place: Option<Place>,
    /// What the layer would say, if that is known.
    pub(super) attr: Option<Attr>,
    /// Its contents, while open.
    pub(crate) file: Option<Arc<OpenFile>>,
    /// Its key among the hard links, if it has ever had several names.
    pub(super) link_key: Option<LinkKey>,
    /// A directory's layers and entries, once used.
    pub(crate) opened: Option<Box<Opened>>,
}

impl Node {
    /// Whether it says nothing that the record does not.
    pub(super) fn is_plain(&self) -> bool {
        let Self { children, aliases, place, attr: _, file, link_key, opened } = self;
        *children == 0
            && aliases.is_empty()
            && place.is_none()
            && file.is_none()
            && link_key.is_none()
            && opened.is_none()
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
        let listing = Listing::new(0, std::collections::HashSet::new());
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
