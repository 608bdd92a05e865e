//! Looking at one node.

use nix::errno::Errno;
use std::sync::Arc;

use super::Ino;
use super::attr::Attr;
use super::handles::OpenFile;
use super::node::{LinkKey, Node, Opened, Place};
use super::record::{Facts, HELD, KNOWN, Slot, State};
use super::table::Table;
use crate::layer::LayerIndex;
use crate::layer::stack::Name;

/// One file, directory or other object of the merged tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(super) table: &'a Table,
    pub(super) slot: Slot,
    pub(super) facts: Facts,
}

impl<'a> Known<'a> {
    fn node(self) -> Option<&'a Node> {
        self.table.nodes.get(&self.slot).map(Box::as_ref)
    }

    /// The inode number.
    pub(crate) fn number(self) -> u64 {
        self.table.records.record(self.slot).number()
    }

    /// Type and permissions, as they were when somebody last looked.
    pub(crate) fn mode(self) -> u32 {
        u32::from(self.facts.mode)
    }

    /// Whether it is a directory.
    pub(crate) fn is_folder(self) -> bool {
        self.mode() & libc::S_IFMT == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    pub(crate) fn is_regular(self) -> bool {
        self.mode() & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether an attribute holds owner and permissions.
    pub(crate) fn is_held(self) -> bool {
        self.facts.has(HELD)
    }

    /// By how many names it is known.
    pub(crate) fn names_known(self) -> usize {
        usize::from(self.facts.has(KNOWN)) + self.node().map_or(0, |node| node.aliases.len())
    }

    /// Whether it has no name left.
    pub(crate) fn nameless(self) -> bool {
        self.names_known() == 0
    }

    /// The record with one of its names.
    fn named(self) -> nix::Result<Slot> {
        if self.facts.has(KNOWN) {
            return Ok(self.slot);
        }
        self.node().and_then(|node| node.aliases.first().copied()).ok_or(Errno::ENOENT)
    }

    /// The directory with one of its names.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it has none.
    pub(crate) fn parent(self) -> nix::Result<Ino> {
        let records = &self.table.records;
        Ok(records.ino(records.record(self.named()?).parent()))
    }

    /// Directory and name of one of its names.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it has none.
    pub(crate) fn name(self) -> nix::Result<(Ino, Name)> {
        Ok((self.parent()?, self.table.records.name(self.named()?)))
    }

    /// Whether no name leads to it any more.
    pub(crate) fn is_gone(self) -> bool {
        matches!(self.facts.state, State::Hidden | State::Nameless | State::Removed)
    }

    /// Whether what it shows may be changed in place.
    pub(crate) fn is_upper(self) -> bool {
        match self.facts.state {
            State::Named => self.facts.top == LayerIndex::UPPER,
            State::Hidden => false,
            _ => true,
        }
    }

    /// The topmost layer that has it, or had it when it had a name.
    pub(crate) fn top(self) -> LayerIndex {
        self.facts.top
    }

    /// Where it lies.
    pub(crate) fn place(self) -> Place {
        let place = match self.facts.state {
            State::Named if self.facts.top == LayerIndex::UPPER => Some(Place::Upper),
            State::Named => Some(Place::Lower(self.facts.top)),
            _ => self.node().and_then(|node| node.place.clone()),
        };
        place.unwrap_or(Place::Removed)
    }

    /// Its metadata, if it is in memory and right.
    pub(crate) fn attr(self) -> Option<Attr> {
        self.node()?.attr
    }

    /// Its contents, while open.
    pub(crate) fn file(self) -> Option<&'a Arc<OpenFile>> {
        self.node()?.file.as_ref()
    }

    /// A directory's layers and entries, once used.
    pub(crate) fn opened(self) -> Option<&'a Opened> {
        self.node()?.opened.as_deref()
    }

    /// Its key among the hard links, if it has ever had several names.
    pub(crate) fn link_key(self) -> Option<LinkKey> {
        self.node()?.link_key
    }
}
