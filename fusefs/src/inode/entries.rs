//! Entries of directories: looked up, added, moved, taken out.

use std::collections::HashSet;
use std::ffi::OsStr;

use nix::dir::Type;
use nix::errno::Errno;

use super::Ino;
use super::listing::Listing;
use super::node::Opened;
use super::record::{ALIAS, COVERS, Facts, KNOWN, LISTED, NODE, Slot};
use super::records::Change;
use super::table::{Table, short};
use crate::layer::stack::{Merged, Name};
use crate::layer::{LayerIndex, mode_of_type, type_of_mode};

/// An entry of a merged directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    slot: Slot,
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
}

impl Entry {
    /// Whether removing it must leave a whiteout.
    pub(crate) fn needs_whiteout(&self) -> bool {
        self.covers || self.top != LayerIndex::UPPER
    }
}

/// A name in a directory.
pub(crate) type At<'a> = (Ino, &'a OsStr);

impl Table {
    fn opened_of(&self, parent: Ino) -> Option<&Opened> {
        self.get(parent).ok()?.opened()
    }

    fn entry_slot(&self, (parent, name): At<'_>) -> Option<Slot> {
        self.opened_of(parent)?.listing.get(&self.records, name)
    }

    /// The entry `name` of a directory in use.
    pub(crate) fn entry(&self, at: At<'_>) -> Option<Entry> {
        self.entry_slot(at).map(|slot| self.entry_of(slot))
    }

    fn entry_of(&self, slot: Slot) -> Entry {
        let record = self.records.record(slot);
        let facts = record.facts();
        let (mut ino, mut number) = (self.records.ino(slot), record.number());
        if facts.has(ALIAS) {
            let target = Ino(number);
            // What it was another name of may be forgotten.
            let found = self.records.find(target).map(|slot| self.records.record(slot).number());
            (ino, number) = found.map_or((ino, 0), |number| (target, number));
        }
        let kind = type_of_mode(u32::from(facts.mode));
        Entry { slot, ino, kind, top: facts.top, covers: facts.has(COVERS), number }
    }

    /// The first entry of a directory in use after `cookie`, with its name and own cookie.
    pub(crate) fn entry_after(&self, parent: Ino, cookie: u64) -> Option<(u64, Name, Type)> {
        let (cookie, slot) = self.opened_of(parent)?.listing.after(cookie)?;
        let kind = type_of_mode(u32::from(self.records.facts(slot).mode));
        Some((cookie, self.records.name(slot), kind))
    }

    /// For a directory, the layers whose contents show, topmost first.
    pub(crate) fn span(&self, entry: &Entry) -> Vec<LayerIndex> {
        let alone = || if entry.kind == Type::Directory { vec![entry.top] } else { Vec::new() };
        self.spans.get(&entry.slot).map_or_else(alone, |span| span.to_vec())
    }

    /// The listing of the directory `parent` of what was merged. What another process knew of it keeps
    /// its node ids.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; nothing is kept then.
    pub(crate) fn list(
        &mut self,
        parent: Ino,
        merged: Vec<Merged>,
        whiteouts: HashSet<Name>,
    ) -> nix::Result<Listing> {
        let mut listing = Listing::new(merged.len(), whiteouts);
        for entry in merged {
            match self.list_one(Slot::of(parent), entry) {
                Ok(slot) => listing.insert(&self.records, slot),
                Err(errno) => {
                    listing.slots().for_each(|slot| self.free(slot));
                    return Err(errno);
                }
            }
        }
        Ok(listing)
    }

    fn list_one(&mut self, parent: Slot, entry: Merged) -> nix::Result<Slot> {
        let Merged { name, kind, top, covers, folders, .. } = entry;
        let slot = match self.adopt(parent, &name) {
            Some(slot) => {
                self.change_facts(slot, |facts| {
                    let facts = Facts { top, ..facts };
                    facts.with(LISTED).with_if(COVERS, covers)
                });
                slot
            }
            None => {
                let facts = Facts::entry(short(mode_of_type(kind)), top, covers);
                self.records.insert(parent, &name, 0, facts)?
            }
        };
        if folders.len() > 1 {
            self.spans.insert(slot, folders.into());
        }
        Ok(slot)
    }

    /// Adds an object of the upper directory; `covers` as in [`Entry`]. It is a node, and has one
    /// reference.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ESTALE` if the directory is not in use.
    pub(crate) fn insert_made(
        &mut self,
        at: At<'_>,
        (mode, number): (u32, u64),
        covers: bool,
    ) -> nix::Result<Ino> {
        let facts = Facts::entry(short(mode), LayerIndex::UPPER, covers);
        let slot = self.insert_entry(at, number, facts)?;
        let ino = self.records.ino(slot);
        self.admit(ino, (mode, number));
        self.know(at)?;
        self.refer(ino)?;
        Ok(ino)
    }

    /// Adds another name of the node `of`, in the upper directory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ESTALE` if the directory is not in use or the node forgotten.
    pub(crate) fn insert_name(&mut self, at: At<'_>, of: Ino, covers: bool) -> nix::Result<()> {
        let mode = self.get(of)?.facts.mode;
        let facts = Facts::entry(mode, LayerIndex::UPPER, covers).with(ALIAS);
        self.insert_entry(at, of.0, facts)?;
        self.know(at)
    }

    fn insert_entry(
        &mut self,
        (parent, name): At<'_>,
        number: u64,
        facts: Facts,
    ) -> nix::Result<Slot> {
        let slot = self.records.insert(Slot::of(parent), name, number, facts)?;
        let Self { records, nodes, .. } = self;
        let opened = nodes.get_mut(&Slot::of(parent)).and_then(|node| node.opened.as_mut());
        opened.ok_or(Errno::ESTALE)?.listing.insert(records, slot);
        Ok(slot)
    }

    /// Makes its name one by which an entry's node is known.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such entry; `ESTALE` if the node was forgotten.
    pub(crate) fn know(&mut self, at: At<'_>) -> nix::Result<()> {
        let entry = self.entry(at).ok_or(Errno::ENOENT)?;
        if self.records.facts(entry.slot).has(KNOWN) {
            return Ok(());
        }
        self.change_facts(entry.slot, |facts| facts.with(KNOWN));
        self.hold_parent(entry.slot);
        if self.is_alias(entry.slot) {
            self.node(entry.ino)?.aliases.push(entry.slot);
        }
        Ok(())
    }

    /// Says which node an entry stands for, and its inode number.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such entry.
    pub(crate) fn settle(&mut self, at: At<'_>, ino: Ino, number: u64) -> nix::Result<()> {
        let slot = self.entry_slot(at).ok_or(Errno::ENOENT)?;
        let is_other = self.records.ino(slot) != ino;
        self.records.record(slot).set_number(if is_other { ino.0 } else { number });
        self.change_facts(slot, |facts| facts.with_if(ALIAS, is_other));
        Ok(())
    }

    /// The node id that belongs to an entry itself.
    pub(crate) fn own_ino(&self, entry: &Entry) -> Ino {
        self.records.ino(entry.slot)
    }

    /// Whether a node id still means what it meant, be it a node or an entry only.
    pub(crate) fn is_current(&self, ino: Ino) -> bool {
        self.records.find(ino).is_some()
    }

    /// Notes that an entry's object now lies in the upper directory, above the one it came from.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such entry.
    pub(crate) fn raise(&mut self, at: At<'_>) -> nix::Result<()> {
        let entry = self.entry(at).ok_or(Errno::ENOENT)?;
        if entry.kind == Type::Directory {
            let below = self.span(&entry).into_iter();
            let span = std::iter::once(LayerIndex::UPPER).chain(below).collect();
            self.spans.insert(entry.slot, span);
        }
        self.change_facts(entry.slot, |facts| Facts {
            top: LayerIndex::UPPER,
            ..facts.with(COVERS)
        });
        Ok(())
    }

    /// Takes an entry out of its directory; its node stays until [`Table::drop_unused`].
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such entry.
    pub(crate) fn remove_entry(&mut self, at: At<'_>) -> nix::Result<()> {
        let slot = self.unlist(at).ok_or(Errno::ENOENT)?;
        let facts = self.records.facts(slot);
        self.records.record(slot).set_facts(facts.without(LISTED | KNOWN));
        self.lose_name(slot, facts);
        Ok(())
    }

    fn unlist(&mut self, (parent, name): At<'_>) -> Option<Slot> {
        let Self { records, nodes, .. } = self;
        let opened = nodes.get_mut(&Slot::of(parent))?.opened.as_mut()?;
        opened.listing.remove(records, name)
    }

    /// What follows when the record of an entry, which was `facts`, is no entry any more.
    fn lose_name(&mut self, slot: Slot, facts: Facts) {
        if facts.has(KNOWN) {
            self.let_parent_go(slot);
        }
        if facts.has(ALIAS) {
            let target = Slot::of(Ino(self.records.record(slot).number()));
            if let Some(node) = self.nodes.get_mut(&target).filter(|_| facts.has(KNOWN)) {
                node.aliases.retain(|alias| *alias != slot);
            }
        }
        if facts.has(ALIAS) || !facts.has(NODE) {
            self.free(slot);
        }
    }

    /// Gives an entry another directory and name, in the upper directory; what had that name loses
    /// it. Its node is known by the new name.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such entry; `ENOMEM`.
    pub(crate) fn move_entry(&mut self, from: At<'_>, to: At<'_>, covers: bool) -> nix::Result<()> {
        let moved = self.entry_slot(from).ok_or(Errno::ENOENT)?;
        self.know(from)?;
        let replaced = self.entry_slot(to).map(|slot| (slot, self.records.facts(slot)));
        let gone = replaced.map(|(slot, facts)| {
            let facts = facts.without(LISTED | KNOWN);
            Change { slot, name: None, facts }
        });
        let facts = self.records.facts(moved).with_if(COVERS, covers);
        let facts = Facts { top: LayerIndex::UPPER, ..facts };
        let name = Some((Slot::of(to.0), to.1));
        self.unlist(from);
        self.unlist(to);
        self.let_parent_go(moved);
        let changes: Vec<_> =
            gone.into_iter().chain([Change { slot: moved, name, facts }]).collect();
        self.change(&changes)?;
        self.hold_parent(moved);
        if let Some((slot, facts)) = replaced {
            self.lose_name(slot, facts);
        }
        let Self { records, nodes, .. } = self;
        let opened = nodes.get_mut(&Slot::of(to.0)).and_then(|node| node.opened.as_mut());
        opened.ok_or(Errno::ESTALE)?.listing.insert(records, moved);
        Ok(())
    }

    /// Exchanges two entries, both of the upper directory.
    ///
    /// # Errors
    ///
    /// `ENOENT` if one is missing; `ENOMEM`.
    pub(crate) fn swap_entries(&mut self, one: At<'_>, two: At<'_>) -> nix::Result<()> {
        self.know(one)?;
        self.know(two)?;
        let first = self.entry_slot(one).ok_or(Errno::ENOENT)?;
        let second = self.entry_slot(two).ok_or(Errno::ENOENT)?;
        let facts = |own, other: Slot| {
            let covers = self.records.facts(other).has(COVERS);
            let facts: Facts = self.records.facts(own);
            Facts { top: LayerIndex::UPPER, ..facts.with_if(COVERS, covers) }
        };
        let changes = [
            Change {
                slot: first,
                name: Some((Slot::of(two.0), two.1)),
                facts: facts(first, second),
            },
            Change {
                slot: second,
                name: Some((Slot::of(one.0), one.1)),
                facts: facts(second, first),
            },
        ];
        for slot in [first, second] {
            self.let_parent_go(slot);
        }
        let places = [(one, second), (two, first)].map(|(at, slot)| (at, self.line_of(at), slot));
        for ((parent, _name), line, slot) in places {
            self.put_in_line(parent, line, slot);
        }
        let done = self.change(&changes);
        for slot in [first, second] {
            self.hold_parent(slot);
        }
        done
    }

    fn line_of(&self, (parent, name): At<'_>) -> Option<usize> {
        self.opened_of(parent)?.listing.position(&self.records, name)
    }

    fn put_in_line(&mut self, parent: Ino, line: Option<usize>, slot: Slot) {
        let node = self.nodes.get_mut(&Slot::of(parent));
        if let (Some(line), Some(opened)) = (line, node.and_then(|node| node.opened.as_mut())) {
            opened.listing.replace(line, slot);
        }
    }

    /// The record that another process left for an entry, if there is one.
    fn adopt(&mut self, parent: Slot, name: &Name) -> Option<Slot> {
        if self.orphans.is_empty() {
            return None;
        }
        self.orphans.remove(&(parent, Name::clone(name)))
    }
}
