//! What the kernel knows: node ids, the nodes behind them, the descriptors they hold.
//!
//! ```text
//! table     every node and every entry of a directory in use
//!   record, records   their form in memory that another process can hold
//!   listing           the order and the names of one directory's entries
//!   node              what the server alone knows: descriptors, places, metadata
//! ```

pub(crate) mod attr;
pub(crate) mod entries;
pub(crate) mod handles;
pub(crate) mod known;
pub(crate) mod listing;
pub(crate) mod node;
mod record;
mod records;
mod resume;
pub(crate) mod table;

/// A node id: what the kernel calls a file by.
///
/// The place of a record and, above it, the number of records that there were when it was taken:
/// never used twice within a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the merged tree.
    pub const ROOT: Self = Self(1);
}
