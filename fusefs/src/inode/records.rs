//! The records of the node table: taken, freed, changed.
//!
//! ```text
//! record 0     word 0 what this is, word 1 births so far, word 2 changes noted
//! record 1     the root
//! records 2–3  notes: word 0 the record to change, words 2–7 what they are to be
//! ```
//!
//! A process that takes over the memory of one that was killed finds each change made or not made.
//! Most are one store. To take a name from one record and give it to another is several: the changes
//! are noted first, then their number is stored, which is the moment from which on they count; whoever
//! opens the memory makes them once more.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use nix::errno::Errno;

use super::Ino;
use super::record::{self, CONTINUES, Facts, Record, Slot};
use crate::layer::stack::Name;
use crate::sys::memory::{Line, PAGE_LINES, Shared};

/// What the first word says: the name of the form, and its version.
const MAGIC: u64 = u64::from_le_bytes(*b"rrnodes1");
/// Records that are not for nodes, and the root.
const RESERVED: u32 = 4;
/// The first note.
const NOTES: u32 = 2;
/// Where the root is.
pub(super) const ROOT: Slot = Slot(1);
/// Pages with a free record that are enough for the longest names of two files.
const SPARE_PAGES: usize = 16;
/// Pages without a record that are kept for the next ones.
const KEPT_PAGES: usize = 64;
/// Longest name of a file, in bytes.
const LONGEST_NAME: usize = 255;
/// What a record beyond the end looks like: free.
static FREE: Line = [const { AtomicU64::new(0) }; 8];

/// All records.
#[derive(Debug)]
pub(crate) struct Records {
    memory: Shared,
    /// For each page, which of its records are in use.
    used: Vec<u64>,
    /// Pages that have a free record.
    roomy: Vec<usize>,
    /// Pages that had none in use when last looked at, and were not given back since.
    empty: Vec<usize>,
    hasher: RandomState,
}

/// A change of one record: another directory and name, unless they stay, and what it is then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) slot: Slot,
    pub(super) name: Option<(Slot, &'a OsStr)>,
    pub(super) facts: Facts,
}

impl Records {
    /// Nothing but the root's record, which is empty.
    ///
    /// # Errors
    ///
    /// Those of making shared memory.
    pub(super) fn new() -> nix::Result<Self> {
        let mut records = Self::on(Shared::new(c"rrun-nodes")?);
        records.grow()?;
        records.word(0).store(MAGIC, Release);
        Ok(records)
    }

    /// What another process has left; a change that it has noted and not finished is made.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is something else; `ENOMEM`.
    pub(super) fn open(file: OwnedFd) -> nix::Result<Self> {
        let mut records = Self::on(Shared::open(file)?);
        if records.word(0).load(Acquire) != MAGIC {
            return Err(Errno::EINVAL);
        }
        records.make_noted_changes();
        for page in 0..records.memory.lines() / PAGE_LINES {
            records.used.push(records.look(page));
        }
        let has_room = |(page, used): (usize, &u64)| (*used != u64::MAX).then_some(page);
        records.roomy = records.used.iter().enumerate().rev().filter_map(has_room).collect();
        records.free_lost_rests();
        Ok(records)
    }

    fn on(memory: Shared) -> Self {
        let (used, roomy, empty) = (Vec::new(), Vec::new(), Vec::new());
        Self { memory, used, roomy, empty, hasher: RandomState::new() }
    }

    /// Frees the rests of names that a process has taken and not come to use.
    fn free_lost_rests(&mut self) {
        let mut lost: HashSet<Slot> = (RESERVED..self.end()).map(Slot).collect();
        lost.retain(|slot| self.record(*slot).birth() == CONTINUES);
        for slot in self.all() {
            let mut rest = self.record(slot).rest();
            while lost.remove(&rest) {
                rest = self.record(rest).rest();
            }
        }
        lost.into_iter().for_each(|slot| self.release(slot));
    }

    /// The place after the last record.
    fn end(&self) -> u32 {
        u32::try_from(self.memory.lines()).unwrap_or(u32::MAX)
    }

    /// Which records of a page are in use.
    fn look(&self, page: usize) -> u64 {
        let reserved = if page == 0 { (1 << RESERVED) - 1 } else { 0 };
        let lines = (0..PAGE_LINES).filter_map(|at| self.memory.line(page * PAGE_LINES + at));
        let used = lines.enumerate().filter(|(_, line)| !Record(line).is_free());
        used.fold(reserved, |used, (at, _)| used | 1 << at)
    }

    /// The memory, to be given to another process.
    pub(super) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        self.memory.line(0).and_then(|line| line.get(at)).unwrap_or(&FREE[0])
    }

    fn line(&self, slot: Slot) -> &Line {
        let line = usize::try_from(slot.0).ok().and_then(|at| self.memory.line(at));
        line.unwrap_or(&FREE)
    }

    /// The record in this place.
    pub(super) fn record(&self, slot: Slot) -> Record<'_> {
        Record(self.line(slot))
    }

    /// What the record is.
    pub(super) fn facts(&self, slot: Slot) -> Facts {
        self.record(slot).facts()
    }

    /// The node id that goes with the record.
    pub(super) fn ino(&self, slot: Slot) -> Ino {
        Ino(record::join(self.record(slot).birth(), slot.0))
    }

    /// The record of a node id, if it is still its.
    pub(super) fn find(&self, ino: Ino) -> Option<Slot> {
        let slot = Slot::of(ino);
        let record = self.record(slot);
        (!record.is_free() && self.ino(slot) == ino).then_some(slot)
    }

    /// All records in use but those of names' rests.
    pub(super) fn all(&self) -> impl Iterator<Item = Slot> {
        let slots = [ROOT].into_iter().chain((RESERVED..self.end()).map(Slot));
        slots.filter(|slot| {
            let record = self.record(*slot);
            !record.is_free() && record.birth() != CONTINUES
        })
    }

    /// Makes sure that the next few records can be taken.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn reserve(&mut self) -> nix::Result<()> {
        if self.roomy.len() < SPARE_PAGES { self.grow().map(drop) } else { Ok(()) }
    }

    /// Takes a record for `name` in the directory of `parent`.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG`; `ENOMEM`.
    pub(super) fn insert(
        &mut self,
        parent: Slot,
        name: &OsStr,
        number: u64,
        facts: Facts,
    ) -> nix::Result<Slot> {
        let length = length(name)?;
        let rest = self.insert_rest(name)?;
        let slot = self.take()?;
        let record = self.record(slot);
        record.set_number(number);
        record.set_name(parent, rest, name.as_bytes());
        record.set_facts(Facts { length, ..facts });
        record.publish(self.next_birth(), 0);
        Ok(slot)
    }

    /// Records for what of a name does not fit into its own.
    fn insert_rest(&mut self, name: &OsStr) -> nix::Result<Slot> {
        let mut rest = Slot::NONE;
        for part in record::parts_of_rest(name.as_bytes()).rev() {
            match self.take() {
                Ok(slot) => {
                    self.record(slot).continue_name(part, rest);
                    rest = slot;
                }
                Err(errno) => {
                    self.free_rest(rest);
                    return Err(errno);
                }
            }
        }
        Ok(rest)
    }

    /// Numbers records, so that no node id is used twice. After 2³² of them an id could only come
    /// back for the same record.
    fn next_birth(&self) -> u32 {
        loop {
            let birth = record::low(self.word(1).fetch_add(1, Relaxed) + 1);
            if birth != 0 && birth != CONTINUES {
                return birth;
            }
        }
    }

    /// Frees a record and those with the rest of its name.
    pub(super) fn free(&mut self, slot: Slot) {
        let rest = self.record(slot).rest();
        self.release(slot);
        self.free_rest(rest);
    }

    fn free_rest(&mut self, mut rest: Slot) {
        while rest != Slot::NONE && self.record(rest).birth() == CONTINUES {
            let next = self.record(rest).rest();
            self.release(rest);
            rest = next;
        }
    }

    /// Makes all `changes`, or none if the process is killed. There is room for two.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG`; `ENOMEM`; nothing is changed then.
    pub(super) fn change(&mut self, changes: &[Change<'_>]) -> nix::Result<()> {
        let renamed = changes.iter().filter(|change| change.name.is_some());
        let old: Vec<_> = renamed.map(|change| self.record(change.slot).rest()).collect();
        self.note(changes)?;
        self.make_noted_changes();
        old.into_iter().for_each(|rest| self.free_rest(rest));
        Ok(())
    }

    /// Writes down what is to be changed.
    fn note(&mut self, changes: &[Change<'_>]) -> nix::Result<()> {
        let rests = self.insert_rests(changes)?;
        for ((note, change), rest) in (NOTES..RESERVED).zip(changes).zip(rests) {
            let (note, record) = (self.record(Slot(note)), self.record(change.slot));
            note.copy_name_and_facts(record);
            let mut length = record.facts().length;
            if let Some((parent, name)) = change.name {
                note.set_name(parent, rest, name.as_bytes());
                length = self::length(name)?;
            }
            note.set_facts(Facts { length, ..change.facts });
            note.publish(0, change.slot.0);
        }
        self.word(2).store(changes.len() as u64, Release);
        Ok(())
    }

    /// The rests of all new names, one for each change.
    fn insert_rests(&mut self, changes: &[Change<'_>]) -> nix::Result<Vec<Slot>> {
        let mut rests = Vec::with_capacity(changes.len());
        for change in changes {
            let rest = change.name.map_or(Ok(Slot::NONE), |(_, name)| {
                length(name).and_then(|_short| self.insert_rest(name))
            });
            match rest {
                Ok(rest) => rests.push(rest),
                Err(errno) => {
                    rests.into_iter().for_each(|rest| self.free_rest(rest));
                    return Err(errno);
                }
            }
        }
        Ok(rests)
    }

    fn make_noted_changes(&self) {
        let noted = self.word(2).load(Acquire);
        for note in (NOTES..RESERVED).zip(0..noted).map(|(note, _)| self.record(Slot(note))) {
            self.record(Slot(note.lookups())).copy_name_and_facts(note);
        }
        self.word(2).store(0, Release);
    }

    fn take(&mut self) -> nix::Result<Slot> {
        let page = match self.roomy.last() {
            Some(page) => *page,
            None => self.grow()?,
        };
        let used = self.used.get_mut(page).ok_or(Errno::ENOMEM)?;
        let at = used.trailing_ones();
        *used |= 1_u64.checked_shl(at).ok_or(Errno::ENOMEM)?;
        if *used == u64::MAX {
            self.roomy.pop();
        }
        let slot = page * PAGE_LINES + usize::try_from(at).unwrap_or(0);
        u32::try_from(slot).map(Slot).map_err(|_too_many| Errno::ENOMEM)
    }

    /// Adds pages; returns the first.
    fn grow(&mut self) -> nix::Result<usize> {
        let first = self.used.len();
        self.memory.grow()?;
        self.used.resize(self.memory.lines() / PAGE_LINES, 0);
        if let Some(page) = self.used.first_mut().filter(|_| first == 0) {
            *page = (1 << RESERVED) - 1;
        }
        self.roomy.extend((first..self.used.len()).rev());
        Ok(first)
    }

    fn release(&mut self, slot: Slot) {
        self.record(slot).clear();
        let (page, at) = (slot.0 as usize / PAGE_LINES, slot.0 as usize % PAGE_LINES);
        let Some(used) = self.used.get_mut(page) else { return };
        if *used == u64::MAX {
            self.roomy.push(page);
        }
        *used &= !(1 << at);
        if *used == 0 {
            self.empty.push(page);
            if self.empty.len() > KEPT_PAGES {
                self.give_back();
            }
        }
    }

    /// Gives empty pages back to the kernel.
    pub(super) fn give_back(&mut self) {
        for page in std::mem::take(&mut self.empty) {
            if self.used.get(page) == Some(&0)
                && let Err(errno) = self.memory.give_back(page)
            {
                log::debug!("memory of nodes that are gone is kept: {errno}");
            }
        }
    }

    /// The name that a record holds.
    pub(super) fn name(&self, slot: Slot) -> Name {
        let mut room = [0; LONGEST_NAME];
        Name::from(OsStr::from_bytes(self.read_name(slot, &mut room)))
    }

    fn read_name<'a>(&self, slot: Slot, room: &'a mut [u8; LONGEST_NAME]) -> &'a [u8] {
        let record = self.record(slot);
        let length = usize::from(record.facts().length);
        let name = room.get_mut(..length).unwrap_or_default();
        let mut read = record.read_name(name);
        let mut rest = record.rest();
        while read < length && rest != Slot::NONE {
            let record = self.record(rest);
            read += record.read_rest(name.get_mut(read..).unwrap_or_default());
            rest = record.rest();
        }
        name
    }

    /// Whether a record holds `name`.
    pub(super) fn is_called(&self, slot: Slot, name: &OsStr) -> bool {
        let mut room = [0; LONGEST_NAME];
        usize::from(self.facts(slot).length) == name.len()
            && self.read_name(slot, &mut room) == name.as_bytes()
    }

    /// Where a name belongs in an index.
    pub(super) fn hash(&self, name: &OsStr) -> u64 {
        self.hasher.hash_one(name.as_bytes())
    }

    /// The same for the name that a record holds.
    pub(super) fn hash_of(&self, slot: Slot) -> u64 {
        let mut room = [0; LONGEST_NAME];
        self.hasher.hash_one(self.read_name(slot, &mut room))
    }
}

fn length(name: &OsStr) -> nix::Result<u8> {
    u8::try_from(name.len()).map_err(|_too_long| Errno::ENAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerIndex;

    fn entry() -> Facts {
        Facts::entry(0o100_644, LayerIndex(3), true)
    }

    fn copy(records: &Records) -> Records {
        Records::open(records.memory().try_clone_to_owned().unwrap()).unwrap()
    }

    fn insert(records: &mut Records, name: &str) -> Slot {
        records.insert(ROOT, OsStr::new(name), 77, entry()).unwrap()
    }

    #[test]
    fn names_of_any_length_are_kept_and_their_records_freed() {
        let mut records = Records::new().unwrap();
        for length in [0, 1, 31, 32, 33, 88, 89, 255] {
            let name = "n".repeat(length);
            let slot = insert(&mut records, &name);
            assert_eq!(*records.name(slot), *OsStr::new(&name));
            assert!(records.is_called(slot, OsStr::new(&name)));
            assert!(!records.is_called(slot, OsStr::new(&"m".repeat(length.max(1)))));
            assert_eq!(*copy(&records).name(slot), *OsStr::new(&name));
            records.free(slot);
            assert_eq!(records.used[0].count_ones(), RESERVED, "{length}");
        }
        let too_long = records.insert(ROOT, OsStr::new(&"n".repeat(256)), 0, entry());
        assert_eq!(too_long, Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn a_node_id_is_never_used_twice() {
        let mut records = Records::new().unwrap();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let slot = insert(&mut records, "name");
            assert_eq!(slot, Slot(RESERVED), "the record is");
            assert!(seen.insert(records.ino(slot)));
            assert_eq!(records.find(records.ino(slot)), Some(slot));
            records.free(slot);
        }
        assert!(seen.into_iter().all(|ino| records.find(ino).is_none()));
    }

    #[test]
    fn what_was_noted_is_made_by_whoever_comes_next() {
        let long = "n".repeat(100);
        for killed in [false, true] {
            let mut records = Records::new().unwrap();
            let [one, two] = ["one", "two"].map(|name| insert(&mut records, name));
            let changes = [
                Change { slot: two, name: None, facts: entry().without(record::LISTED) },
                Change { slot: one, name: Some((two, OsStr::new(&long))), facts: entry() },
            ];
            records.note(&changes).unwrap();
            if killed {
                // Before the number of changes was stored.
                records.word(2).store(0, Release);
            }
            let others = copy(&records);
            assert_eq!(others.facts(two).has(record::LISTED), killed);
            let expected = if killed { (ROOT, "one") } else { (two, long.as_str()) };
            assert_eq!(others.record(one).parent(), expected.0);
            assert_eq!(*others.name(one), *OsStr::new(expected.1));
            assert_eq!(others.ino(one), records.ino(one));
            let rests = if killed { 0 } else { 2 };
            assert_eq!(others.used[0].count_ones(), RESERVED + 2 + rests, "no rest is lost");
        }
    }

    #[test]
    fn pages_without_records_are_given_back() {
        let mut records = Records::new().unwrap();
        let slots: Vec<_> = (0..20_000).map(|_| insert(&mut records, "name")).collect();
        let pages = |records: &Records| {
            nix::sys::stat::fstat(records.memory()).unwrap().st_blocks * 512 / 4096
        };
        assert!(pages(&records) >= 20_000 / 64);
        slots.into_iter().for_each(|slot| records.free(slot));
        assert!(pages(&records) <= 2 + KEPT_PAGES.try_into().unwrap_or(0));
        records.give_back();
        assert_eq!(pages(&records), 1, "the root's");
        let again = insert(&mut records, "again");
        assert_eq!(*records.name(again), *OsStr::new("again"));
    }
}
