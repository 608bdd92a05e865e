//! Every node the kernel or a known node refers to, and every entry of a directory in use.
//!
//! A record is both: an entry from the moment when its directory is merged, a node from the moment when
//! somebody asks for it. Other names of a file are records that refer to the file's.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::Ino;
use super::attr::Attr;
use super::known::Known;
use super::node::{Link, LinkKey, Node, Opened, Place};
use super::record::{ALIAS, Facts, HELD, KNOWN, LINKED, LISTED, NODE, Slot, State};
use super::records::{Change, ROOT, Records};
use crate::layer::LayerIndex;
use crate::layer::stack::Name;
use crate::sys::memory;

/// So many nodes are not worth giving their memory back.
const FEW: usize = 2048;

/// All nodes and entries.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) records: Records,
    /// What the records do not say.
    pub(super) nodes: HashMap<Slot, Box<Node>>,
    /// How many records stand for nodes, and how many have since memory was given back.
    pub(super) count: usize,
    peak: usize,
    /// Directories in several layers: those whose contents show, topmost first.
    pub(super) spans: HashMap<Slot, Box<[LayerIndex]>>,
    /// Files with several names. Kept for the life of the mount: they are few.
    pub(crate) links: HashMap<LinkKey, Link>,
    /// Entries that another process left, until their directory is merged.
    pub(super) orphans: HashMap<(Slot, Name), Slot>,
}

impl Table {
    /// A table of nothing but the root, which stays for ever.
    ///
    /// # Errors
    ///
    /// Those of making shared memory.
    pub(crate) fn new(root: &Attr, top: LayerIndex, is_held: bool) -> nix::Result<Self> {
        let records = Records::new()?;
        let record = records.record(ROOT);
        record.set_number(root.number);
        let mode = short(root.mode);
        let facts = Facts { mode, top, length: 0, state: State::Named, flags: NODE };
        record.set_facts(facts.with_if(HELD, is_held));
        record.publish(0, 1);
        let mut table = Self::on(records, 1);
        table.nodes.entry(ROOT).or_default().attr = Some(*root);
        Ok(table)
    }

    pub(super) fn on(records: Records, count: usize) -> Self {
        Self {
            records,
            nodes: HashMap::new(),
            count,
            peak: count,
            spans: HashMap::new(),
            links: HashMap::new(),
            orphans: HashMap::new(),
        }
    }

    /// The memory that holds all node ids and what they stand for.
    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.records.memory()
    }

    /// Makes sure that the next few records can be taken.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn reserve(&mut self) -> nix::Result<()> {
        self.records.reserve()
    }

    /// The node `ino`.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it was forgotten.
    pub(crate) fn get(&self, ino: Ino) -> nix::Result<Known<'_>> {
        let slot = self.records.find(ino).ok_or(Errno::ESTALE)?;
        let facts = self.records.facts(slot);
        if facts.has(NODE) { Ok(Known { table: self, slot, facts }) } else { Err(Errno::ESTALE) }
    }

    /// What the server alone knows of the node `ino`, to be changed.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it was forgotten.
    pub(crate) fn node(&mut self, ino: Ino) -> nix::Result<&mut Node> {
        let slot = self.get(ino)?.slot;
        Ok(self.nodes.entry(slot).or_default())
    }

    /// The layers and entries of the directory `ino`, if they are in memory.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it was forgotten.
    pub(crate) fn opened(&mut self, ino: Ino) -> nix::Result<Option<&mut Opened>> {
        let slot = self.get(ino)?.slot;
        Ok(self.nodes.get_mut(&slot).and_then(|node| node.opened.as_deref_mut()))
    }

    /// Whether the node is known.
    pub(crate) fn contains(&self, ino: Ino) -> bool {
        self.get(ino).is_ok()
    }

    /// How many nodes are known.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn change_facts(&self, slot: Slot, change: impl FnOnce(Facts) -> Facts) {
        let record = self.records.record(slot);
        record.set_facts(change(record.facts()));
    }

    /// Says where the node `ino` lies from now on.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it was forgotten.
    pub(crate) fn set_place(&mut self, ino: Ino, place: Place) -> nix::Result<()> {
        let Known { slot, mut facts, .. } = self.get(ino)?;
        let (state, top) = match place {
            Place::Lower(layer) => (State::Named, layer),
            Place::Upper => (State::Named, LayerIndex::UPPER),
            Place::Indexed(_) => (State::Indexed, facts.top),
            Place::Hidden(..) => (State::Hidden, facts.top),
            Place::Partial(..) => (State::Partial, facts.top),
            Place::Nameless(_) => (State::Nameless, facts.top),
            Place::Removed => (State::Removed, facts.top),
        };
        (facts.state, facts.top) = (state, top);
        self.records.record(slot).set_facts(facts);
        if state != State::Named {
            self.nodes.entry(slot).or_default().place = Some(place);
        } else if let Some(node) = self.nodes.get_mut(&slot) {
            node.place = None;
        }
        Ok(())
    }

    /// Notes what the layer says of the node `ino`. Where the kernel is about to know it for ever it
    /// is not kept, but its type and permissions are.
    pub(crate) fn set_attr(&mut self, ino: Ino, attr: &Attr) {
        self.set_mode(ino, attr.mode);
        if let Some(node) = self.records.find(ino).and_then(|slot| self.nodes.get_mut(&slot)) {
            node.attr = Some(*attr);
        }
    }

    /// Notes type and permissions.
    pub(crate) fn set_mode(&mut self, ino: Ino, mode: u32) {
        if let Some(slot) = self.records.find(ino)
            && self.records.facts(slot).mode != short(mode)
        {
            self.change_facts(slot, |facts| Facts { mode: short(mode), ..facts });
        }
    }

    /// Notes that the layer would say something else than before.
    pub(crate) fn outdate(&mut self, ino: Ino) {
        if let Some(node) = self.records.find(ino).and_then(|slot| self.nodes.get_mut(&slot)) {
            node.attr = None;
        }
    }

    /// Notes whether an attribute holds owner and permissions.
    pub(crate) fn set_held(&mut self, ino: Ino, is_held: bool) {
        if let Some(slot) = self.records.find(ino) {
            self.change_facts(slot, |facts| facts.with_if(HELD, is_held));
        }
    }

    /// Notes that the file has or had several names.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it was forgotten.
    pub(crate) fn set_link_key(&mut self, ino: Ino, key: LinkKey) -> nix::Result<()> {
        self.node(ino)?.link_key = Some(key);
        self.change_facts(Slot::of(ino), |facts| facts.with(LINKED));
        Ok(())
    }

    /// Makes an entry a node, which nothing refers to yet.
    pub(crate) fn admit(&mut self, ino: Ino, (mode, number): (u32, u64)) {
        let Some(slot) = self.records.find(ino) else { return };
        self.records.record(slot).set_number(number);
        self.change_facts(slot, |facts| Facts { mode: short(mode), ..facts.with(NODE) });
        self.count += 1;
        self.peak = self.peak.max(self.count);
    }

    /// A node that has no name and one reference.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn insert_nameless(&mut self, mode: u32, number: u64) -> nix::Result<Ino> {
        let facts = Facts::entry(short(mode), LayerIndex::UPPER, false).without(LISTED);
        let facts = Facts { state: State::Nameless, ..facts };
        let slot = self.records.insert(Slot::NONE, "".as_ref(), number, facts)?;
        let ino = self.records.ino(slot);
        self.admit(ino, (mode, number));
        self.refer(ino)?;
        Ok(ino)
    }

    /// Counts one more reference of the kernel.
    ///
    /// # Errors
    ///
    /// `ESTALE` if the node was forgotten.
    pub(crate) fn refer(&mut self, ino: Ino) -> nix::Result<()> {
        let record = self.records.record(self.get(ino)?.slot);
        // A node that has as many stays for ever.
        record.set_lookups(record.lookups().saturating_add(1));
        Ok(())
    }

    /// Gives up `count` of the kernel's references to `ino`, and with the last one the node.
    pub(crate) fn forget(&mut self, ino: Ino, count: u64) {
        if let Ok(known) = self.get(ino) {
            let record = self.records.record(known.slot);
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            match record.lookups() {
                u32::MAX => {}
                lookups => record.set_lookups(lookups.saturating_sub(count)),
            }
        }
        self.drop_unused(ino);
        self.give_back();
    }

    /// Gives memory back to the kernel when most of the nodes that there have been are gone.
    fn give_back(&mut self) {
        if self.peak > FEW && self.count < self.peak / 8 {
            self.peak = self.count;
            self.nodes.shrink_to_fit();
            self.spans.shrink_to_fit();
            self.records.give_back();
            memory::give_back();
        }
    }

    /// Drops `ino` if nothing refers to it, and then those that only it referred to.
    pub(crate) fn drop_unused(&mut self, ino: Ino) {
        let mut unsure = vec![ino];
        while let Some(ino) = unsure.pop() {
            if let Ok(known) = self.get(ino)
                && !self.is_used(known)
            {
                let slot = known.slot;
                self.drop_node(slot, &mut unsure);
            }
        }
    }

    fn is_used(&self, known: Known<'_>) -> bool {
        // Nothing but the node knows of a partial copy.
        self.records.record(known.slot).lookups() > 0
            || self.nodes.get(&known.slot).is_some_and(|node| node.children > 0)
            || known.slot == ROOT
            || known.facts.state == State::Partial
    }

    /// Makes a node a mere entry, or nothing.
    fn drop_node(&mut self, slot: Slot, unsure: &mut Vec<Ino>) {
        let node = self.nodes.remove(&slot).unwrap_or_default();
        for named in node.aliases.into_iter().chain([slot]) {
            if self.records.facts(named).has(KNOWN) {
                self.change_facts(named, |facts| facts.without(KNOWN));
                unsure.extend(self.let_parent_go(named));
            }
        }
        for entry in node.opened.iter().flat_map(|opened| opened.listing.slots()) {
            self.drop_entry(entry);
        }
        self.change_facts(slot, |facts| Facts { state: State::Named, ..facts.without(NODE) });
        self.count -= 1;
        if !self.records.facts(slot).has(LISTED) || self.abandon(slot) {
            self.free(slot);
        }
    }

    /// The directory of a record is held by one name fewer.
    pub(super) fn let_parent_go(&mut self, slot: Slot) -> Option<Ino> {
        let parent = self.records.record(slot).parent();
        let node = self.nodes.get_mut(&parent)?;
        node.children = node.children.saturating_sub(1);
        (node.children == 0).then(|| self.records.ino(parent))
    }

    /// The same with one name more.
    pub(super) fn hold_parent(&mut self, slot: Slot) {
        let parent = self.records.record(slot).parent();
        self.nodes.entry(parent).or_default().children += 1;
    }

    /// Forgets an entry with its directory, but not the node that is known by other names.
    fn drop_entry(&mut self, slot: Slot) {
        if self.records.facts(slot).has(NODE) {
            self.change_facts(slot, |facts| facts.without(LISTED));
        } else {
            self.free(slot);
        }
    }

    pub(super) fn free(&mut self, slot: Slot) {
        self.spans.remove(&slot);
        self.records.free(slot);
    }

    /// Forgets what the server knows of `ino` beside the record, if that is nothing but metadata.
    pub(crate) fn tidy(&mut self, ino: Ino) {
        let slot = Slot::of(ino);
        if self.nodes.get(&slot).is_some_and(|node| node.is_plain()) {
            self.nodes.remove(&slot);
        }
    }

    /// Makes several changes of records at once.
    pub(super) fn change(&mut self, changes: &[Change<'_>]) -> nix::Result<()> {
        self.records.change(changes)
    }

    /// Whether the record is another name of some file.
    pub(super) fn is_alias(&self, slot: Slot) -> bool {
        self.records.facts(slot).has(ALIAS)
    }
}

/// Type and permissions as they fit into a record: all bits that `st_mode` has.
pub(super) fn short(mode: u32) -> u16 {
    u16::try_from(mode & 0xffff).unwrap_or(u16::MAX)
}
