//! Copying an object of a lower layer, with all that belongs to it.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::sys::stat::{FileStat, SFlag};
use nix::sys::time::TimeSpec;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, ftruncate, lseek};

use super::marks::{Record, contents, origin_of, write_origin};
use super::permissions::Target;
use super::staging::Staged;
use super::{Upper, UpperFolder};
use crate::format::permissions::Permissions;
use crate::format::xattr as attribute;
use crate::layer::stack::Name;
use crate::layer::{Folder, Layer};
use crate::sys::copy::share_blocks;
use crate::sys::xattr::{self, Subject};

/// Bytes per system call where data has to pass through memory.
const COPY_STEP: usize = 128 * 1024;

/// What is copied: a name in a directory of a lower layer.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The directory.
    pub(crate) folder: Arc<Folder>,
    /// The name.
    pub(crate) name: Name,
}

impl Upper {
    /// Copies anything but a directory to the work directory: data (no more than `limit` bytes of
    /// it), holes, owner, permissions, attributes, times. Blocks are shared where they can be.
    ///
    /// # Errors
    ///
    /// `ENOSPC` or `EDQUOT`; `EPERM` or `EINVAL` if the owner cannot be given; `EIO` if the file
    /// is shorter than its metadata says. Nothing is left behind.
    ///
    /// Source: Linux `fs/overlayfs/copy_up.c`.
    pub(crate) fn stage_copy(
        &self,
        source: &Source,
        stat: &FileStat,
        origin: Option<&Record>,
        limit: u64,
    ) -> nix::Result<Staged<'_>> {
        let staged = Staged::reserve(self);
        let (folder, name) = (staged.folder(), staged.name());
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        match kind {
            SFlag::S_IFREG => {
                let target = folder.create(name, 0o600)?;
                let original = contents(source.folder.file(&source.name)?)?;
                copy_data(original.as_fd(), target.as_fd(), stat.st_size, limit)?;
            }
            SFlag::S_IFLNK => {
                folder.make_symlink(&source.folder.link_target(&source.name)?, name)?;
            }
            _ => folder.make_node(name, kind.bits() | 0o600, stat.st_rdev)?,
        }
        self.copy_metadata(&source.folder.attributes_of(&source.name)?, stat, folder, name)?;
        if kind == SFlag::S_IFREG && limit < stat.st_size.unsigned_abs() {
            cut_now(folder, name)?;
        }
        if let Some(origin) = origin.filter(|_| kind == SFlag::S_IFREG) {
            write_origin(&folder.attributes_of(name)?, origin);
        }
        Ok(staged)
    }

    /// Makes an empty directory with the attributes of `source`, a directory of `layer`, and the
    /// metadata `stat` in the work directory.
    ///
    /// # Errors
    ///
    /// As [`Upper::stage_copy`].
    pub(crate) fn stage_folder(
        &self,
        layer: &Layer,
        source: &Folder,
        stat: &FileStat,
    ) -> nix::Result<Staged<'_>> {
        let staged = Staged::reserve(self);
        let (folder, name) = (staged.folder(), staged.name());
        folder.make_folder(name, 0o700)?;
        self.copy_metadata(&source.own_attributes(), stat, folder, name)?;
        let origin = origin_of(layer, source, OsStr::new("."), stat)?;
        write_origin(&folder.attributes_of(name)?, &origin);
        Ok(staged)
    }
}

impl Upper {
    /// Gives `name` in `folder` the owner, attributes, permissions and times of the original.
    ///
    /// The order matters: a new owner clears capabilities and set-id bits, and everything changes
    /// the times.
    pub(super) fn copy_metadata(
        &self,
        original: &Subject<'_>,
        stat: &FileStat,
        folder: &UpperFolder,
        name: &OsStr,
    ) -> nix::Result<()> {
        let target = Target::Named(folder, name);
        let mode = stat.st_mode & 0o7777;
        let permissions = Permissions { uid: stat.st_uid, gid: stat.st_gid, mode };
        self.give(&target, &folder.stat(name)?, permissions)?;
        let is_kept = |name: &[u8]| attribute::is_copied(name) && self.keeping.keeps(name);
        copy_attributes(original, &folder.attributes_of(name)?, is_kept)?;
        let has_list = stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits();
        if has_list && !self.keeping.holds(stat.st_mode) {
            // An access control list may have changed them.
            folder.set_mode(name, mode)?;
        }
        let (accessed, modified) = times(stat);
        folder.set_times(name, &accessed, &modified)
    }
}

/// Says that a copy was changed just now: it is shorter than its original.
///
/// # Errors
///
/// Those of utimensat(2).
pub(super) fn cut_now(folder: &UpperFolder, name: &OsStr) -> nix::Result<()> {
    folder.set_times(name, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW)
}

/// The times of access and modification of `stat`.
pub(crate) fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (
        TimeSpec::new(stat.st_atime, stat.st_atime_nsec),
        TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
    )
}

fn copy_attributes(
    original: &Subject<'_>,
    copy: &Subject<'_>,
    is_kept: impl Fn(&[u8]) -> bool,
) -> nix::Result<()> {
    let list = match xattr::list(original) {
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        list => list?,
    };
    for name in attribute::names(&list).filter(|name| is_kept(name)) {
        let name = CString::new(name).map_err(|_nul| Errno::EIO)?;
        let value = match xattr::get(original, &name) {
            // What we may see but not read is not ours to copy (trusted.* without privilege).
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => continue,
            value => value?,
        };
        xattr::set(copy, &name, &value, 0)?;
    }
    Ok(())
}

/// Copies the first `limit` of `size` bytes of `source` to the start of `target`, without the
/// holes.
///
/// # Errors
///
/// `ENOSPC` or `EDQUOT`; `EIO` if `source` ends early.
fn copy_data(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    size: i64,
    limit: u64,
) -> nix::Result<()> {
    let end = size.min(i64::try_from(limit).unwrap_or(i64::MAX));
    if end > 0 && end == size && share_blocks(source, target).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < end {
        let Some((start, stop)) = next_data(source, at, end)? else { break };
        copy_stretch(source, target, start, stop)?;
        at = stop;
    }
    ftruncate(target, end)
}

/// The next stretch of data between `at` and `end`, or `None` if the rest is a hole.
///
/// # Errors
///
/// Those of lseek(2).
pub(crate) fn next_data(
    source: BorrowedFd<'_>,
    at: i64,
    end: i64,
) -> nix::Result<Option<(i64, i64)>> {
    let start = match lseek(source, at, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL) => return Ok(Some((at, end))), // no file system of ours tells holes
        Err(errno) => return Err(errno),
    };
    if start >= end {
        return Ok(None);
    }
    Ok(Some((start, lseek(source, start, Whence::SeekHole)?.min(end))))
}

/// Copies the bytes from `start` to `stop`, inside the kernel where it can.
///
/// # Errors
///
/// `ENOSPC` or `EDQUOT`; `EIO` if `source` ends early.
pub(crate) fn copy_stretch(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    start: i64,
    stop: i64,
) -> nix::Result<()> {
    let mut at = start;
    while at < stop {
        let (mut from, mut to) = (at, at);
        let left = usize::try_from(stop - at).map_err(|_too_big| Errno::EFBIG)?;
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), left) {
            Ok(0) | Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                return copy_through_memory(source, target, at, stop);
            }
            Ok(_) => at = to,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_through_memory(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    start: i64,
    stop: i64,
) -> nix::Result<()> {
    let mut buffer = vec![0_u8; COPY_STEP];
    let mut at = start;
    while at < stop {
        let step = usize::try_from(stop - at).unwrap_or(COPY_STEP).min(COPY_STEP);
        let got = pread(source, buffer.get_mut(..step).ok_or(Errno::EIO)?, at)?;
        let mut chunk = buffer.get(..got).ok_or(Errno::EIO)?;
        if chunk.is_empty() {
            return Err(Errno::EIO);
        }
        while !chunk.is_empty() {
            let put = pwrite(target, chunk, at)?;
            chunk = chunk.get(put..).ok_or(Errno::EIO)?;
            at += i64::try_from(put).map_err(|_too_big| Errno::EFBIG)?;
        }
    }
    Ok(())
}
