//! Copying a huge file up block by block: only what is written is copied, the rest shows through from
//! the lower layer until somebody has time for it.
//!
//! Such a copy lies in the work directory until it is whole. Nothing in the upper directory stands for
//! it before, so that another program that is given the two never takes half a file for a whole one.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat, futimens};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{fdatasync, fsync, ftruncate};

use super::copy_up::{Source, copy_stretch, cut_now, next_data, times};
use super::marks::{Record, contents, write_origin};
use super::staging::Staged;
use super::{Upper, UpperFolder};
use crate::format::partial::{BLOCK, Origin, Present};
use crate::layer::stack::Name;
use crate::sys::copy::share_blocks;

/// The directory of partial copies, beneath the work directory.
const FOLDER: &str = "partial";
/// The copy, in a directory of its own there.
const DATA: &str = "data";
/// Which of its blocks count.
const PRESENT: &str = "present";
/// What it is a copy of.
const ORIGIN: &str = "origin";

/// Blocks that are copied in one step: what somebody who wants to write has to wait for.
const STEP: u64 = (1 << 20) / BLOCK;

/// A partial copy, open.
#[derive(Debug)]
pub(crate) struct Partial {
    original: OwnedFd,
    record: OwnedFd,
    present: Mutex<Present>,
}

/// What an unclean end has left.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// Its name among the partial copies.
    pub(crate) id: Name,
    /// What it is a copy of.
    pub(crate) origin: Origin,
}

/// The methods take the copy itself as `copy`, open for reading and writing. They pass on the errors of
/// the system calls.
impl Partial {
    /// Reads into `buffer` from `offset` on: as pread(2), perhaps less than there is room for.
    pub(crate) fn read(
        &self,
        copy: BorrowedFd<'_>,
        buffer: &mut [u8],
        offset: u64,
    ) -> nix::Result<usize> {
        let present = self.present();
        let (own, end) = present.stretch(offset);
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
        let room = buffer.get_mut(..length).ok_or(Errno::EFAULT)?;
        pread(if own { copy } else { self.original.as_fd() }, room, signed(offset)?)
    }

    /// Writes `data` at `offset`: as pwrite(2), perhaps a part. Blocks that it covers in part are
    /// copied first.
    pub(crate) fn write(
        &self,
        copy: BorrowedFd<'_>,
        data: &[u8],
        offset: u64,
    ) -> nix::Result<usize> {
        let mut present = self.present();
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        for edge in [offset, end] {
            if !edge.is_multiple_of(BLOCK) {
                self.fill(copy, &mut present, edge / BLOCK)?;
            }
        }
        let mut put = pwrite(copy, data, signed(offset)?)?;
        let mut stop = offset + put as u64;
        if stop < end && !present.has(stop / BLOCK) {
            // A full disk in the middle of a block whose rest was not copied: that block does not count.
            stop = stop / BLOCK * BLOCK;
            put = usize::try_from(stop.saturating_sub(offset)).unwrap_or(0);
        }
        if put == 0 && !data.is_empty() {
            return Err(Errno::ENOSPC);
        }
        self.mark(&mut present, offset / BLOCK, stop.div_ceil(BLOCK))?;
        Ok(put)
    }

    /// Gives the file another size.
    pub(crate) fn set_size(&self, copy: BorrowedFd<'_>, size: u64) -> nix::Result<()> {
        let mut present = self.present();
        if !size.is_multiple_of(BLOCK) {
            self.fill(copy, &mut present, size / BLOCK)?;
        }
        ftruncate(copy, signed(size)?)?;
        if size < present.base() {
            present.cut(size);
            write_whole(&self.record, &present.base().to_le_bytes(), 0)?;
        }
        Ok(())
    }

    /// Writes everything to the disk: the data first, so that the record never promises more.
    pub(crate) fn sync(&self, copy: BorrowedFd<'_>, data_only: bool) -> nix::Result<()> {
        let _nobody_writes = self.present();
        if data_only {
            fdatasync(copy)?;
        } else {
            fsync(copy)?;
        }
        fsync(&self.record)
    }

    /// Copies some of what only the original has, from block `from` on. Returns where to go on, or
    /// `None` when nothing is missing any more.
    pub(crate) fn complete_some(
        &self,
        copy: BorrowedFd<'_>,
        from: u64,
    ) -> nix::Result<Option<u64>> {
        let mut present = self.present();
        let Some((first, end)) = present.missing(from, STEP) else { return Ok(None) };
        let (mut at, stop) = (signed(first * BLOCK)?, signed((end * BLOCK).min(present.base()))?);
        let (accessed, modified) = times(&fstat(copy)?);
        while let Some((start, data_end)) = next_data(self.original.as_fd(), at, stop)? {
            copy_stretch(self.original.as_fd(), copy, start, data_end)?;
            at = data_end;
        }
        // To the inside, nothing has changed.
        futimens(copy, &accessed, &modified)?;
        self.mark(&mut present, first, end)?;
        Ok(Some(end))
    }

    /// Copies `block` from the original unless it is there.
    fn fill(&self, copy: BorrowedFd<'_>, present: &mut Present, block: u64) -> nix::Result<()> {
        if present.has(block) {
            return Ok(());
        }
        let start = block * BLOCK;
        let end = (start + BLOCK).min(present.base());
        copy_stretch(self.original.as_fd(), copy, signed(start)?, signed(end)?)?;
        self.mark(present, block, block + 1)
    }

    fn mark(&self, present: &mut Present, first: u64, end: u64) -> nix::Result<()> {
        match present.mark(first, end, true) {
            Some((at, bytes)) => write_whole(&self.record, bytes, at),
            None => Ok(()),
        }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        // Bits are set after the data is there: a panic in between loses nothing.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upper {
    /// Begins a partial copy of a regular file. `None` where the file system can share the blocks
    /// instead, which is better.
    ///
    /// # Errors
    ///
    /// Those of [`Upper::stage_copy`].
    pub(crate) fn begin_partial(
        &self,
        (source, stat): (&Source, &FileStat),
        mark: Option<&Record>,
        size: u64,
        path: Vec<Name>,
    ) -> nix::Result<Option<(Name, OwnedFd, Partial)>> {
        let staged = Staged::reserve(self);
        staged.folder().make_folder(staged.name(), 0o700)?;
        let folder = staged.folder().upper_folder(staged.name())?;
        let copy = folder.create(DATA.as_ref(), 0o600)?;
        let original = contents(source.folder.file(&source.name)?)?;
        if share_blocks(original.as_fd(), copy.as_fd()).is_ok() {
            return Ok(None);
        }
        ftruncate(&copy, signed(size)?)?;
        self.copy_metadata(
            &source.folder.attributes_of(&source.name)?,
            stat,
            &folder,
            DATA.as_ref(),
        )?;
        if size < stat.st_size.unsigned_abs() {
            cut_now(&folder, DATA.as_ref())?;
        }
        if let Some(mark) = mark {
            write_origin(&folder.attributes_of(DATA.as_ref())?, mark);
        }
        let base = size.min(u64::try_from(stat.st_size).unwrap_or(0));
        let present = Present::nothing_of(base);
        let record = folder.create(PRESENT.as_ref(), 0o600)?;
        write_whole(&record, &present.format(), 0)?;
        let origin = Origin { size: stat.st_size.unsigned_abs(), modified: modified(stat), path };
        write_whole(&folder.create(ORIGIN.as_ref(), 0o600)?, &origin.format(), 0)?;
        let id = Name::from(self.fresh_partial()?);
        staged.place(self.partials()?, &id)?;
        Ok(Some((id, copy, Partial { original, record, present: Mutex::new(present) })))
    }

    /// What an unclean end has left in the work directory, but for remains that mean nothing.
    ///
    /// # Errors
    ///
    /// Those of reading directories and files; `EIO` if a record is broken.
    pub(crate) fn leftover_partials(&self) -> nix::Result<Vec<Leftover>> {
        let mut ids: Vec<Name> = Vec::new();
        let folder = match self.workdir.upper_folder(FOLDER.as_ref()) {
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            folder => folder?,
        };
        folder.for_each_entry(|name, _kind| {
            ids.push(Name::from(name));
            Ok(())
        })?;
        let mut found = Vec::new();
        for id in ids {
            let partial = folder.upper_folder(&id)?;
            if partial.stat(DATA.as_ref()) == Err(Errno::ENOENT) {
                // Completed and moved to its place.
                self.drop_partial(&id)?;
                continue;
            }
            let bytes = read_whole(&partial.file(ORIGIN.as_ref())?)?;
            found.push(Leftover { id, origin: Origin::parse(&bytes).ok_or(Errno::EIO)? });
        }
        Ok(found)
    }

    /// Opens what an unclean end has left, which is a copy of `source`. `None` if that is another file
    /// than it was.
    ///
    /// Where the record promises a block that the file system has no data for, the machine went down
    /// before the data was written: the block does not count. (Nobody was told otherwise: fsync(2)
    /// writes data and record.)
    ///
    /// # Errors
    ///
    /// Those of open(2) and read(2); `EIO` if the record is broken.
    pub(crate) fn adopt_partial(
        &self,
        leftover: &Leftover,
        source: &Source,
    ) -> nix::Result<Option<(OwnedFd, Partial)>> {
        let stat = source.folder.stat(&source.name)?;
        let origin = &leftover.origin;
        if (origin.size, origin.modified) != (stat.st_size.unsigned_abs(), modified(&stat)) {
            return Ok(None);
        }
        let folder = self.partial_folder(&leftover.id)?;
        let copy = folder.writable(DATA.as_ref())?;
        let record = folder.writable(PRESENT.as_ref())?;
        let mut present = Present::parse(&read_whole(&record)?).ok_or(Errno::EIO)?;
        present.cut(fstat(&copy)?.st_size.unsigned_abs());
        distrust_holes(&copy, &mut present)?;
        write_whole(&record, &present.format(), 0)?;
        let original = source.folder.file(&source.name)?;
        Ok(Some((copy, Partial { original, record, present: Mutex::new(present) })))
    }

    /// Moves a completed copy to its place.
    ///
    /// # Errors
    ///
    /// Those of rename(2).
    pub(crate) fn place_partial(
        &self,
        id: &OsStr,
        to: &UpperFolder,
        name: &OsStr,
    ) -> nix::Result<()> {
        let folder = self.partial_folder(id)?;
        folder.rename(DATA.as_ref(), to, name, nix::fcntl::RenameFlags::empty())?;
        // What is left means nothing without the copy, and goes with the next mount.
        if let Err(errno) = self.drop_partial(id) {
            log::debug!("the work directory keeps the record of a copy: {errno}");
        }
        Ok(())
    }

    /// Removes what the work directory has of a partial copy.
    ///
    /// # Errors
    ///
    /// Those of rename(2).
    pub(crate) fn drop_partial(&self, id: &OsStr) -> nix::Result<()> {
        Staged::take(self, self.partials()?, id).map(drop)
    }

    /// The directory in which a partial copy has the name [`Upper::partial_name`].
    ///
    /// # Errors
    ///
    /// Those of open(2).
    pub(crate) fn partial_folder(&self, id: &OsStr) -> nix::Result<UpperFolder> {
        self.partials()?.upper_folder(id)
    }

    /// What every partial copy is called in its directory.
    pub(crate) fn partial_name() -> Name {
        Name::from(OsStr::new(DATA))
    }

    /// The directory of all partial copies, made if need be.
    fn partials(&self) -> nix::Result<&UpperFolder> {
        if let Some(folder) = self.partials.get() {
            return Ok(folder);
        }
        match self.workdir.make_folder(FOLDER.as_ref(), 0o700) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let opened = self.workdir.upper_folder(FOLDER.as_ref())?;
        Ok(self.partials.get_or_init(|| opened))
    }

    /// A name that no partial copy has.
    fn fresh_partial(&self) -> nix::Result<OsString> {
        let folder = self.partials()?;
        loop {
            let name = self.fresh_name();
            match folder.stat(&name) {
                Err(Errno::ENOENT) => return Ok(name),
                found => found.map(drop)?,
            }
        }
    }
}

/// Takes back the bits of blocks that the file system holds no data for.
fn distrust_holes(copy: &OwnedFd, present: &mut Present) -> nix::Result<()> {
    let (mut at, end) = (0, present.base());
    while at < end {
        let data = next_data(copy.as_fd(), signed(at)?, signed(end)?)?;
        let (start, stop) =
            data.map_or((end, end), |(start, stop)| (start.unsigned_abs(), stop.unsigned_abs()));
        present.mark(at.div_ceil(BLOCK), start / BLOCK, false);
        at = stop.max(at + 1);
    }
    Ok(())
}

/// The last change of a file in nanoseconds since 1970.
fn modified(stat: &FileStat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

fn signed(offset: u64) -> nix::Result<i64> {
    i64::try_from(offset).map_err(|_too_big| Errno::EFBIG)
}

fn write_whole(file: &OwnedFd, mut bytes: &[u8], offset: u64) -> nix::Result<()> {
    let mut at = signed(offset)?;
    while !bytes.is_empty() {
        let put = pwrite(file, bytes, at)?;
        bytes = bytes.get(put..).ok_or(Errno::EIO)?;
        at += i64::try_from(put).map_err(|_too_big| Errno::EFBIG)?;
    }
    Ok(())
}

fn read_whole(file: &OwnedFd) -> nix::Result<Vec<u8>> {
    let size = usize::try_from(fstat(file)?.st_size).map_err(|_negative| Errno::EIO)?;
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match pread(file, room, i64::try_from(filled).map_err(|_too_big| Errno::EFBIG)?)? {
            0 => return Err(Errno::EIO),
            got => filled += got,
        }
    }
    Ok(bytes)
}
