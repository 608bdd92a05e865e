//! The form of one record of the node table, in memory that another process can hold.
//!
//! ```text
//! word 0     bits 32–63 birth, 0–31 references that the kernel holds; 0 if the record is free
//! word 1     the inode number, 0 until it is known; of another name of a file, that file's node id
//! word 2     bits 32–63 the record of the directory, 0–31 that with the rest of the name, or 0
//! word 3     bits 0–15 type and permissions, 16–31 layer, 32–39 bytes of the name,
//!            40–47 where it lies, 48–63 what it is
//! words 4–7  the first 32 bytes of the name
//!
//! the rest of a name: word 0 all ones, then as in word 2; words 1–7 the next 56 bytes
//! ```
//!
//! Each change is one store, or is noted in whole before it is made: see `records`.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::Ino;
use crate::layer::LayerIndex;
use crate::sys::memory::Line;

/// The position of a record in the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    /// No record.
    pub(super) const NONE: Self = Self(0);

    /// The record of a node.
    pub(super) fn of(ino: Ino) -> Self {
        Self(low(ino.0))
    }
}

/// Bytes of a name in its record.
const INLINE: usize = 32;
/// Bytes of a name in each record of its rest.
const MORE: usize = 56;
/// The birth of what holds the rest of a name.
pub(super) const CONTINUES: u32 = u32::MAX;
/// The words of a name in its record, and in one of its rest.
const NAME: usize = 4;
const REST: usize = 1;

/// Where the object of a node lies, as far as another process can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Under its name, in the layer that the record names.
    Named,
    /// In the index of hard links.
    Indexed,
    /// In its lower layer, without a name in the merged tree.
    Hidden,
    /// Among the partial copies.
    Partial,
    /// Without a name.
    Nameless,
    /// Nowhere.
    Removed,
}

/// A directory's listing has it.
pub(super) const LISTED: u16 = 1;
/// It stands for a node: the kernel or another node refers to it.
pub(super) const NODE: u16 = 1 << 1;
/// The node is known by this name, and so holds its directory.
pub(super) const KNOWN: u16 = 1 << 2;
/// It is another name of a file.
pub(super) const ALIAS: u16 = 1 << 3;
/// Something below would show if the upper directory's object went away.
pub(super) const COVERS: u16 = 1 << 4;
/// An attribute holds owner and permissions.
pub(super) const HELD: u16 = 1 << 5;
/// It has ever had several names.
pub(super) const LINKED: u16 = 1 << 6;

/// What word 3 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) mode: u16,
    pub(super) top: LayerIndex,
    pub(super) length: u8,
    pub(super) state: State,
    pub(super) flags: u16,
}

impl Facts {
    /// An entry of a directory.
    pub(super) fn entry(mode: u16, top: LayerIndex, covers: bool) -> Self {
        let flags = LISTED | if covers { COVERS } else { 0 };
        Self { mode, top, length: 0, state: State::Named, flags }
    }

    pub(super) fn has(self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    pub(super) fn with(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    pub(super) fn without(mut self, flags: u16) -> Self {
        self.flags &= !flags;
        self
    }

    /// The same, if `wanted`, else without.
    pub(super) fn with_if(self, flags: u16, wanted: bool) -> Self {
        if wanted { self.with(flags) } else { self.without(flags) }
    }

    pub(super) fn pack(self) -> u64 {
        let state = match self.state {
            State::Named => 0,
            State::Indexed => 1,
            State::Hidden => 2,
            State::Partial => 3,
            State::Nameless => 4,
            State::Removed => 5,
        };
        u64::from(self.mode)
            | u64::from(self.top.0) << 16
            | u64::from(self.length) << 32
            | state << 40
            | u64::from(self.flags) << 48
    }

    pub(super) fn unpack(word: u64) -> Self {
        let [m0, m1, t0, t1, length, state, f0, f1] = word.to_le_bytes();
        let state = match state {
            0 => State::Named,
            1 => State::Indexed,
            2 => State::Hidden,
            3 => State::Partial,
            4 => State::Nameless,
            _ => State::Removed,
        };
        Self {
            mode: u16::from_le_bytes([m0, m1]),
            top: LayerIndex(u16::from_le_bytes([t0, t1])),
            length,
            state,
            flags: u16::from_le_bytes([f0, f1]),
        }
    }
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a>(pub(super) &'a Line);

impl<'a> Record<'a> {
    fn word(self, at: usize) -> u64 {
        self.0.get(at).map_or(0, |word| word.load(Relaxed))
    }

    fn set_word(self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(value, Relaxed);
        }
    }

    /// Its birth; 0 if it is free, and for the root.
    pub(super) fn birth(self) -> u32 {
        high(self.0[0].load(Acquire))
    }

    pub(super) fn is_free(self) -> bool {
        self.0[0].load(Acquire) == 0
    }

    /// Makes it what its other words say, in one store.
    pub(super) fn publish(self, birth: u32, lookups: u32) {
        self.0[0].store(join(birth, lookups), Release);
    }

    /// Makes it free, in one store.
    pub(super) fn clear(self) {
        self.0[0].store(0, Release);
    }

    /// References that the kernel holds.
    pub(super) fn lookups(self) -> u32 {
        low(self.word(0))
    }

    pub(super) fn set_lookups(self, lookups: u32) {
        self.publish(self.birth(), lookups);
    }

    pub(super) fn number(self) -> u64 {
        self.word(1)
    }

    pub(super) fn set_number(self, number: u64) {
        self.set_word(1, number);
    }

    pub(super) fn parent(self) -> Slot {
        Slot(high(self.word(2)))
    }

    /// Where the rest of the name is, or the rest of the rest.
    pub(super) fn rest(self) -> Slot {
        let word = if self.birth() == CONTINUES { 0 } else { 2 };
        Slot(low(self.word(word)))
    }

    pub(super) fn facts(self) -> Facts {
        Facts::unpack(self.0[3].load(Acquire))
    }

    /// Changes what it is, in one store.
    pub(super) fn set_facts(self, facts: Facts) {
        self.0[3].store(facts.pack(), Release);
    }

    /// Writes directory and name but for the rest, whose record is given. Not in one store.
    pub(super) fn set_name(self, parent: Slot, rest: Slot, name: &[u8]) {
        self.set_word(2, join(parent.0, rest.0));
        self.set_bytes(NAME, name.get(..INLINE).unwrap_or(name));
    }

    /// Makes it hold `part` of a name's rest, which goes on in `rest`.
    pub(super) fn continue_name(self, part: &[u8], rest: Slot) {
        self.set_bytes(REST, part);
        self.publish(CONTINUES, rest.0);
    }

    /// Copies all but word 0 and 1 from `other`.
    pub(super) fn copy_name_and_facts(self, other: Record<'_>) {
        (2..self.0.len()).for_each(|at| self.set_word(at, other.word(at)));
    }

    fn set_bytes(self, from: usize, bytes: &[u8]) {
        for (at, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, byte)| *to = *byte);
            self.set_word(from + at, u64::from_le_bytes(word));
        }
    }

    /// Puts as much of the name into `room` as it has, beginning at the word `from`.
    fn bytes(self, from: usize, room: &mut [u8]) {
        for (at, chunk) in room.chunks_mut(8).enumerate() {
            let word = self.word(from + at).to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(to, byte)| *to = byte);
        }
    }

    /// Reads the part of the name that is in the record itself; returns how much that is.
    pub(super) fn read_name(self, room: &mut [u8]) -> usize {
        let size = room.len().min(INLINE);
        self.bytes(NAME, room.get_mut(..size).unwrap_or_default());
        size
    }

    /// The same for a record of the rest.
    pub(super) fn read_rest(self, room: &mut [u8]) -> usize {
        let size = room.len().min(MORE);
        self.bytes(REST, room.get_mut(..size).unwrap_or_default());
        size
    }
}

/// What of a name does not fit into its record, in the parts that do fit into others.
pub(super) fn parts_of_rest(name: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    name.get(INLINE..).unwrap_or_default().chunks(MORE)
}

pub(super) fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

pub(super) fn high(word: u64) -> u32 {
    u32::try_from(word >> 32).unwrap_or(u32::MAX)
}

pub(super) fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_their_word() {
        let states = [
            State::Named,
            State::Indexed,
            State::Hidden,
            State::Partial,
            State::Nameless,
            State::Removed,
        ];
        for state in states {
            let facts = Facts {
                mode: 0o100_644,
                top: LayerIndex(500),
                length: 255,
                state,
                flags: LISTED | LINKED,
            };
            assert_eq!(Facts::unpack(facts.pack()), facts);
        }
        assert_eq!(Facts::unpack(u64::MAX).state, State::Removed, "whatever comes");
    }
}
