//! Taking over the node table of a server that has died.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::Ino;
use super::node::Place;
use super::record::{ALIAS, KNOWN, LINKED, LISTED, NODE, Slot, State};
use super::records::{ROOT, Records};
use super::table::Table;

impl Table {
    /// What the memory of another process says: the same node ids, names and references. What no
    /// memory can hold is to be found again: see [`Table::to_find_again`].
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is no node table; `ENOMEM`.
    pub(crate) fn resume(memory: OwnedFd) -> nix::Result<Self> {
        let records = Records::open(memory)?;
        if !records.facts(ROOT).has(NODE) {
            return Err(Errno::EINVAL);
        }
        let all: Vec<Slot> = records.all().collect();
        let is_node = |slot: &Slot| records.facts(*slot).has(NODE);
        let count = all.iter().copied().filter(is_node).count();
        let mut table = Self::on(records, count);
        table.nodes.entry(ROOT).or_default();
        for slot in &all {
            table.take_over(*slot);
        }
        for slot in all {
            let ino = table.records.ino(slot);
            table.drop_unused(ino);
        }
        Ok(table)
    }

    fn take_over(&mut self, slot: Slot) {
        let record = self.records.record(slot);
        let (facts, parent) = (record.facts(), record.parent());
        let of = if facts.has(ALIAS) { Slot::of(Ino(record.number())) } else { slot };
        let stands_for_node = self.is_node(of) && (slot == of || facts.has(KNOWN));
        if !stands_for_node {
            // The kernel knows nothing of it.
            return self.free(slot);
        }
        if facts.has(LISTED) && self.is_node(parent) {
            let name = self.records.name(slot);
            self.orphans.insert((parent, name), slot);
        } else {
            self.change_facts(slot, |facts| facts.without(LISTED | KNOWN));
        }
        if self.records.facts(slot).has(KNOWN) {
            self.hold_parent(slot);
            if slot != of {
                self.nodes.entry(of).or_default().aliases.push(slot);
            }
        }
        if matches!(facts.state, State::Hidden | State::Nameless | State::Removed) {
            self.nodes.entry(slot).or_default().place = Some(Place::Removed);
        }
    }

    /// Whether the record is an entry of a directory that was not merged since.
    pub(super) fn abandon(&mut self, slot: Slot) -> bool {
        if self.orphans.is_empty() {
            return false;
        }
        let entry = (self.records.record(slot).parent(), self.records.name(slot));
        self.orphans.remove(&entry).is_some()
    }

    fn is_node(&self, slot: Slot) -> bool {
        !self.records.record(slot).is_free() && self.records.facts(slot).has(NODE)
    }

    /// The nodes of which the record does not say all: files with several names, or in the index.
    pub(crate) fn to_find_again(&self) -> Vec<Ino> {
        let linked = |slot: &Slot| self.is_node(*slot) && self.records.facts(*slot).has(LINKED);
        self.records.all().filter(linked).map(|slot| self.records.ino(slot)).collect()
    }
}
