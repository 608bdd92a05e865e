//! Shared memory maps of files, by the C library.
#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZero;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};

/// A shared map of the first bytes of a file.
pub(crate) struct Map {
    start: NonNull<libc::c_void>,
    length: usize,
}

impl Map {
    /// Maps `length` bytes of `file`, to be written too if `write`.
    pub(crate) fn new(file: &File, length: usize, write: bool) -> Self {
        let write = if write { ProtFlags::PROT_WRITE } else { ProtFlags::empty() };
        let (size, flags) = (NonZero::new(length).unwrap(), MapFlags::MAP_SHARED);
        // SAFETY: the kernel chooses a place where nothing of ours is.
        let start = unsafe { mmap(None, size, ProtFlags::PROT_READ | write, flags, file, 0) };
        Self { start: start.unwrap(), length }
    }

    /// What is there now.
    pub(crate) fn read(&self, at: usize) -> u8 {
        assert!(at < self.length);
        let byte = self.start.as_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: the byte lies in the map, which others change only between our instructions.
        unsafe { byte.read_volatile() }
    }

    /// Changes one byte of a map that may be written.
    pub(crate) fn write(&self, at: usize, byte: u8) {
        assert!(at < self.length);
        let place = self.start.as_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: the byte lies in the map, and nothing else of ours refers to it.
        unsafe { place.write_volatile(byte) }
    }

    /// Has it written to the file.
    pub(crate) fn sync(&self) {
        // SAFETY: this is the whole map.
        unsafe { msync(self.start, self.length, MsFlags::MS_SYNC) }.unwrap();
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the map any more.
        unsafe { munmap(self.start, self.length) }.unwrap();
    }
}
