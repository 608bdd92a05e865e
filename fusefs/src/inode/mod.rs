//! What the kernel knows: node ids, the nodes behind them, the descriptors they hold.

pub(crate) mod attr;
pub(crate) mod handles;
pub(crate) mod table;

/// A node id: what the kernel calls a file by.
///
/// Small integers in the order of discovery; never used twice within a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the merged tree.
    pub const ROOT: Self = Self(1);
}
