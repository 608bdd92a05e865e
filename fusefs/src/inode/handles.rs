//! Descriptors held for nodes, no more than the process may have.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Ino;
use crate::layer::LayerIndex;

/// A regular file that somebody uses, or the mere path of anything else that has lost its name.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The descriptor; its file position means nothing.
    pub(crate) file: OwnedFd,
    /// Whether it may be written through.
    pub(crate) writable: bool,
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A descriptor that can be closed and opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// The contents of a file.
    File(Ino),
    /// A directory in one layer.
    Folder(Ino, LayerIndex),
}

/// Which descriptors to close first: those opened first.
#[derive(Debug)]
pub(crate) struct Queue {
    held: VecDeque<Held>,
    limit: usize,
}

impl Queue {
    /// Allows `limit` descriptors.
    pub(crate) fn new(limit: usize) -> Self {
        Self { held: VecDeque::new(), limit }
    }

    /// Notes a new descriptor; returns one to close in exchange.
    pub(crate) fn push(&mut self, held: Held) -> Option<Held> {
        self.held.push_back(held);
        if self.held.len() > self.limit { self.held.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut queue = Queue::new(2);
        assert_eq!(queue.push(Held::File(Ino(1))), None);
        assert_eq!(queue.push(Held::File(Ino(2))), None);
        assert_eq!(queue.push(Held::File(Ino(3))), Some(Held::File(Ino(1))));
    }
}
