//! Descriptors held for nodes, no more than the process may have.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{fdatasync, fsync, ftruncate};

use super::Ino;
use crate::layer::LayerIndex;
use crate::upper::partial::Partial;

/// A regular file that somebody uses, or the mere path of anything else that has lost its name.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The descriptor; its file position means nothing.
    pub(crate) file: OwnedFd,
    /// Whether it may be written through.
    pub(crate) writable: bool,
    /// What the file lacks while it is being copied up block by block.
    pub(crate) partial: Option<Partial>,
}

impl OpenFile {
    /// A file that is all there.
    pub(crate) fn whole(file: OwnedFd, writable: bool) -> Self {
        Self { file, writable, partial: None }
    }

    /// Reads some bytes at `offset`, as pread(2).
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> nix::Result<usize> {
        match &self.partial {
            Some(partial) => partial.read(self.as_fd(), buffer, offset),
            None => pread(self, buffer, signed(offset)?),
        }
    }

    /// Writes some bytes at `offset`, as pwrite(2).
    pub(crate) fn write(&self, data: &[u8], offset: u64) -> nix::Result<usize> {
        match &self.partial {
            Some(partial) => partial.write(self.as_fd(), data, offset),
            None => pwrite(self, data, signed(offset)?),
        }
    }

    /// Gives it another size, as ftruncate(2).
    pub(crate) fn set_size(&self, size: u64) -> nix::Result<()> {
        match &self.partial {
            Some(partial) => partial.set_size(self.as_fd(), size),
            None => ftruncate(self, signed(size)?),
        }
    }

    /// Writes it to the disk, as fsync(2) or fdatasync(2).
    pub(crate) fn sync(&self, data_only: bool) -> nix::Result<()> {
        match &self.partial {
            Some(partial) => partial.sync(self.as_fd(), data_only),
            None if data_only => fdatasync(self),
            None => fsync(self),
        }
    }
}

/// An offset as the kernel's `loff_t`.
///
/// # Errors
///
/// `EFBIG` if it is too large for one.
pub(crate) fn signed(offset: u64) -> nix::Result<i64> {
    i64::try_from(offset).map_err(|_too_big| Errno::EFBIG)
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
