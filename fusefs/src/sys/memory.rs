//! The process's memory, and memory that it can share.

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Gives freed memory back to the kernel. The C library keeps it otherwise.
///
/// Source: `malloc_trim(3)`.
pub(crate) fn give_back() {
    // SAFETY: takes a number, and the C library locks its own state.
    unsafe { libc::malloc_trim(0) };
}

/// Words of a line.
const WORDS: usize = 8;

/// 64 bytes of shared memory: one line of a processor's cache.
pub(crate) type Line = [AtomicU64; WORDS];

/// Lines of a page, which is the least that can be given back.
pub(crate) const PAGE_LINES: usize = 64;
/// Bytes of a page.
const PAGE: usize = PAGE_LINES * size_of::<Line>();
/// Lines by which the memory grows: 1 MiB, of which the kernel provides what is used.
const PIECE_LINES: usize = 256 * PAGE_LINES;
/// Bytes of a piece.
const PIECE: NonZeroUsize = NonZeroUsize::new(PIECE_LINES * size_of::<Line>()).unwrap();

/// A file in memory that other processes can be given, mapped piece by piece. New lines are zero.
#[derive(Debug)]
pub(crate) struct Shared {
    file: OwnedFd,
    pieces: Vec<Piece>,
}

impl Shared {
    /// Nothing yet, under a name for those who look at the process from outside.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub(crate) fn new(name: &CStr) -> nix::Result<Self> {
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
        Ok(Self { file, pieces: Vec::new() })
    }

    /// What another process has written.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it could become smaller while we look at it; `ENOMEM`.
    pub(crate) fn open(file: OwnedFd) -> nix::Result<Self> {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS)?;
        if seals & SealFlag::F_SEAL_SHRINK.bits() == 0 {
            return Err(Errno::EINVAL);
        }
        let size = usize::try_from(fstat(&file)?.st_size).map_err(|_negative| Errno::EINVAL)?;
        let mut memory = Self { file, pieces: Vec::new() };
        for _ in 0..size / PIECE {
            memory.map()?;
        }
        Ok(memory)
    }

    /// How many lines there are.
    pub(crate) fn lines(&self) -> usize {
        self.pieces.len() * PIECE_LINES
    }

    /// The line `at`.
    pub(crate) fn line(&self, at: usize) -> Option<&Line> {
        self.pieces.get(at / PIECE_LINES)?.lines().get(at % PIECE_LINES)
    }

    /// Adds lines at the end.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EFBIG` beyond the process's limit of a file's size.
    pub(crate) fn grow(&mut self) -> nix::Result<()> {
        let size = (self.pieces.len() + 1) * PIECE.get();
        ftruncate(&self.file, i64::try_from(size).map_err(|_too_big| Errno::EFBIG)?)?;
        self.map()
    }

    fn map(&mut self) -> nix::Result<()> {
        let at = self.pieces.len() * PIECE.get();
        let at = i64::try_from(at).map_err(|_too_big| Errno::EFBIG)?;
        self.pieces.push(Piece::map(self.file.as_fd(), at)?);
        Ok(())
    }

    /// Gives the memory of a page back to the kernel; its lines are zero again.
    ///
    /// # Errors
    ///
    /// Those of fallocate(2).
    pub(crate) fn give_back(&self, page: usize) -> nix::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let signed = |bytes| i64::try_from(bytes).map_err(|_too_big| Errno::EFBIG);
        fallocate(&self.file, flags, signed(page * PAGE)?, signed(PAGE)?)
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A mapped piece of the file.
#[derive(Debug)]
struct Piece(NonNull<Line>);

impl Piece {
    /// Maps what `file` has at the offset `at`, where it has a whole piece and cannot become smaller.
    fn map(file: BorrowedFd<'_>, at: i64) -> nix::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is ours.
        let start = unsafe { mmap(None, PIECE, access, MapFlags::MAP_SHARED, file, at) }?;
        Ok(Self(start.cast()))
    }

    fn lines(&self) -> &[Line] {
        // SAFETY: the mapping is there as long as we are, aligned to a page, and of atomics, which
        // hold any bits and may be changed by others. The file's seal keeps its pages from going.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), PIECE_LINES) }
    }
}

// SAFETY: the memory belongs to no thread, and is reached through atomics alone.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this size, and no reference to its lines outlives us.
        let _cannot_fail = unsafe { munmap(self.0.cast(), PIECE.get()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn others_see_what_is_written_and_what_is_given_back_is_zero() {
        let mut memory = Shared::new(c"test").unwrap();
        assert!(memory.line(0).is_none());
        memory.grow().unwrap();
        memory.grow().unwrap();
        let last = memory.lines() - 1;
        memory.line(last).unwrap()[7].store(7, Relaxed);
        memory.line(0).unwrap()[0].store(1, Relaxed);
        let other = Shared::open(memory.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.lines(), memory.lines());
        assert_eq!(other.line(last).unwrap()[7].load(Relaxed), 7);
        memory.give_back(last / PAGE_LINES).unwrap();
        assert_eq!(other.line(last).unwrap()[7].load(Relaxed), 0);
        assert_eq!(other.line(0).unwrap()[0].load(Relaxed), 1);
        assert!(other.line(last + 1).is_none());
    }

    #[test]
    fn what_could_become_smaller_is_refused() {
        let file = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert_eq!(Shared::open(file).unwrap_err(), Errno::EINVAL);
    }
}
