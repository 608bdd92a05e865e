//! The entries of one directory in the order in which listings show them.

use std::collections::HashSet;
use std::ffi::OsStr;

use hashbrown::HashTable;

use super::record::Slot;
use super::records::Records;
use crate::layer::stack::Name;

/// The cookies of `.` and `..`; those of entries are larger.
pub(crate) const DOT: u64 = 1;
/// See [`DOT`].
pub(crate) const DOT_DOT: u64 = 2;
/// Lines of entries that are gone which are not worth a rebuilding.
const FEW: usize = 16;

/// Records by cookie and by name. The names are in the records.
#[derive(Debug)]
pub(crate) struct Listing {
    /// By cookie: where a listing goes on after the entry. Cookies grow and are never used twice,
    /// so that a listing survives any change between two of its requests. Lines of entries that are
    /// gone have no record.
    lines: Vec<(u64, Slot)>,
    /// Positions of lines, by name.
    index: HashTable<u32>,
    last: u64,
    /// Names that whiteouts of the upper directory hide.
    pub(crate) whiteouts: HashSet<Name>,
}

impl Listing {
    /// No entries yet, and room for `expected`.
    pub(super) fn new(expected: usize, whiteouts: HashSet<Name>) -> Self {
        let lines = Vec::with_capacity(expected);
        Self { lines, index: HashTable::with_capacity(expected), last: DOT_DOT, whiteouts }
    }

    /// The line of the entry `name`.
    pub(super) fn position(&self, records: &Records, name: &OsStr) -> Option<usize> {
        let is_it = |at: &u32| records.is_called(self.slot(*at), name);
        self.index.find(records.hash(name), is_it).map(|at| *at as usize)
    }

    fn slot(&self, position: u32) -> Slot {
        self.lines.get(position as usize).map_or(Slot::NONE, |(_, slot)| *slot)
    }

    /// The record of the entry `name`.
    pub(super) fn get(&self, records: &Records, name: &OsStr) -> Option<Slot> {
        let position = self.position(records, name)?;
        self.lines.get(position).map(|(_, slot)| *slot)
    }

    /// Adds a record at the end, which must have its name by now.
    pub(super) fn insert(&mut self, records: &Records, slot: Slot) {
        self.last += 1;
        // More lines than that do not fit into memory.
        let position = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        self.lines.push((self.last, slot));
        let Self { lines, index, .. } = self;
        let hash = |at: &u32| {
            let slot = lines.get(*at as usize).map_or(Slot::NONE, |(_, slot)| *slot);
            records.hash_of(slot)
        };
        index.insert_unique(records.hash_of(slot), position, hash);
    }

    /// Takes the entry `name` out, whose record must have that name still.
    pub(super) fn remove(&mut self, records: &Records, name: &OsStr) -> Option<Slot> {
        let lines = &self.lines;
        let is_it = |at: &u32| {
            lines.get(*at as usize).is_some_and(|(_, slot)| records.is_called(*slot, name))
        };
        let (position, _) = self.index.find_entry(records.hash(name), is_it).ok()?.remove();
        let (_, slot) = self.lines.get_mut(position as usize)?;
        let slot = std::mem::replace(slot, Slot::NONE);
        if self.lines.len() > 2 * self.index.len() + FEW {
            self.rebuild(records);
        }
        Some(slot)
    }

    /// Drops the lines of entries that are gone.
    fn rebuild(&mut self, records: &Records) {
        let whiteouts = std::mem::take(&mut self.whiteouts);
        let old = std::mem::replace(self, Self::new(self.index.len(), whiteouts));
        for (cookie, slot) in old.lines.into_iter().filter(|(_, slot)| *slot != Slot::NONE) {
            self.last = cookie - 1;
            self.insert(records, slot);
        }
        self.last = old.last;
    }

    /// Lets another record stand in a line; its name must be that of the one before, or become so
    /// before anybody looks.
    pub(super) fn replace(&mut self, line: usize, other: Slot) {
        if let Some((_, slot)) = self.lines.get_mut(line) {
            *slot = other;
        }
    }

    /// The first entry after `cookie`, with its own cookie.
    pub(super) fn after(&self, cookie: u64) -> Option<(u64, Slot)> {
        let from = self.lines.partition_point(|(own, _)| *own <= cookie);
        let mut rest = self.lines.get(from..)?.iter();
        rest.find(|(_, slot)| *slot != Slot::NONE).copied()
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All records.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.lines.iter().map(|(_, slot)| *slot).filter(|slot| *slot != Slot::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::record::Facts;
    use crate::inode::records::ROOT;
    use crate::layer::LayerIndex;

    #[test]
    fn cookies_outlive_all_changes() {
        let mut records = Records::new().unwrap();
        let mut listing = Listing::new(0, HashSet::new());
        let mut cookies = Vec::new();
        for number in 0..1000 {
            let name = format!("name{number}");
            let facts = Facts::entry(0, LayerIndex::UPPER, false);
            let slot = records.insert(ROOT, OsStr::new(&name), 0, facts).unwrap();
            listing.insert(&records, slot);
            cookies.push((listing.last, slot));
            if number % 10 != 0 {
                let removed = listing.remove(&records, OsStr::new(&name));
                assert_eq!(removed, Some(slot));
                records.free(slot);
            }
        }
        assert!(listing.lines.len() < 300, "lines of what is gone go too");
        let mut left = cookies.iter().step_by(10).copied();
        let mut at = 0;
        while let Some((cookie, slot)) = listing.after(at) {
            assert_eq!(Some((cookie, slot)), left.next());
            at = cookie;
        }
        assert_eq!(left.next(), None);
        assert_eq!(listing.after(cookies[14].0), Some(cookies[20]), "also after one that is gone");
        assert_eq!(listing.get(&records, OsStr::new("name20")), Some(cookies[20].1));
        assert_eq!(listing.get(&records, OsStr::new("name21")), None);
    }
}
