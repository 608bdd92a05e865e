//! The contents of files.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, lseek};

use super::{State, Tree, attr::without_set_id};
use crate::inode::Ino;
use crate::inode::handles::{Held, OpenFile, signed};
use crate::inode::node::Place;
use crate::upper::marks::contents;

/// What a write has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes were written.
    pub bytes: usize,
    /// Whether it has taken set-id bits away, which the kernel does not know by itself.
    pub cleared_set_id: bool,
}

impl Tree {
    /// Reads from `offset` on; fewer bytes than `buffer` has room for only at the end of the file.
    ///
    /// # Errors
    ///
    /// Those of open(2) and read(2).
    pub fn read(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> nix::Result<usize> {
        let file = self.state().file(ino, false)?;
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            let at = offset.checked_add(filled as u64).ok_or(Errno::EOVERFLOW)?;
            match file.read(room, at)? {
                0 => break,
                got => filled += got,
            }
        }
        Ok(filled)
    }

    /// Writes all of `data` at `offset`. `clears_set_id` says that the writer may not keep
    /// set-id bits; capabilities go in any case.
    ///
    /// # Errors
    ///
    /// `EROFS`, `ENOSPC`, `EDQUOT`, and those of copying the file up first.
    pub fn write(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        clears_set_id: bool,
    ) -> nix::Result<Written> {
        let (file, cleared_set_id) = self.writable(ino, clears_set_id)?;
        let mut bytes = 0;
        while let Some(rest) = data.get(bytes..).filter(|rest| !rest.is_empty()) {
            let at = offset.checked_add(bytes as u64).ok_or(Errno::EFBIG)?;
            match file.write(rest, at) {
                Ok(put) => bytes += put,
                Err(_after_some) if bytes > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        self.state().table.outdate(ino);
        Ok(Written { bytes, cleared_set_id })
    }

    /// Writes the file to the disk; `data_only` as fdatasync(2). In a lower layer it is there.
    ///
    /// # Errors
    ///
    /// Those of fsync(2).
    pub fn sync(&self, ino: Ino, data_only: bool) -> nix::Result<()> {
        let file = {
            let mut state = self.state();
            let node = state.table.get(ino)?;
            if !node.is_upper() || !node.is_regular() {
                return Ok(());
            }
            state.file(ino, true)?
        };
        file.sync(data_only)
    }

    /// Reserves or gives back space, as fallocate(2) with these `flags`. `bytes` of the result is
    /// zero.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`, `ENOSPC`, `EINVAL`, and those of copying the file up first.
    pub fn allocate(&self, ino: Ino, flags: i32, offset: u64, length: u64) -> nix::Result<Written> {
        let flags = FallocateFlags::from_bits(flags).ok_or(Errno::EOPNOTSUPP)?;
        if !(flags - FallocateFlags::FALLOC_FL_KEEP_SIZE).is_empty() {
            // What a partial copy has not would show through holes.
            self.copy_up_whole(ino)?;
        }
        let (file, cleared_set_id) = self.writable(ino, true)?;
        let done = fallocate(&*file, flags, signed(offset)?, signed(length)?);
        self.state().table.outdate(ino);
        done.map(|()| Written { bytes: 0, cleared_set_id })
    }

    /// The next data (`hole` false) or the next hole at or after `offset`.
    ///
    /// # Errors
    ///
    /// `ENXIO` beyond the end.
    pub fn seek(&self, ino: Ino, offset: i64, hole: bool) -> nix::Result<i64> {
        let file = self.state().file(ino, false)?;
        if file.partial.is_some() {
            // As lseek(2) allows: no hole but the one at the end.
            let size = fstat(&*file)?.st_size;
            let inside = (0..size).contains(&offset);
            return if inside { Ok(if hole { size } else { offset }) } else { Err(Errno::ENXIO) };
        }
        lseek(&*file, offset, if hole { Whence::SeekHole } else { Whence::SeekData })
    }

    /// Copies up to `length` bytes between two files, in the file system where it can.
    ///
    /// # Errors
    ///
    /// `EXDEV` or `EOPNOTSUPP` where it cannot (the kernel copies then); `ENOSPC`; `EINVAL`.
    pub fn copy_range(
        &self,
        (source, from): (Ino, u64),
        (target, to): (Ino, u64),
        length: u64,
    ) -> nix::Result<Written> {
        let (target_file, cleared_set_id) = self.writable(target, true)?;
        let source_file = self.state().file(source, false)?;
        if target_file.partial.is_some() || source_file.partial.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let (mut from, mut to) = (signed(from)?, signed(to)?);
        let length = usize::try_from(length).map_err(|_too_big| Errno::EOVERFLOW)?;
        let copied = copy_file_range(
            source_file.as_fd(),
            Some(&mut from),
            target_file.as_fd(),
            Some(&mut to),
            length,
        );
        self.state().table.outdate(target);
        copied.map(|bytes| Written { bytes, cleared_set_id })
    }

    /// The file in the upper directory, open for writing, and whether set-id bits had to go.
    fn writable(&self, ino: Ino, clears_set_id: bool) -> nix::Result<(Arc<OpenFile>, bool)> {
        self.copy_up(ino, None)?;
        let mut state = self.state();
        let cleared = clears_set_id && state.clear_set_id(ino)?;
        state.table.outdate(ino);
        Ok((state.file(ino, true)?, cleared))
    }
}

impl State {
    /// The regular file `ino`, open; for writing too if `write`.
    pub(super) fn file(&mut self, ino: Ino, write: bool) -> nix::Result<Arc<OpenFile>> {
        let node = self.table.get(ino)?;
        if !node.is_regular() {
            return Err(if node.is_folder() { Errno::EISDIR } else { Errno::EINVAL });
        }
        if let Some(file) = node.file().filter(|file| file.writable || !write) {
            return Ok(Arc::clone(file));
        }
        let file = match node.place() {
            Place::Nameless(file) | Place::Partial(file, _) => return Ok(file),
            Place::Removed => return Err(Errno::ENOENT),
            Place::Lower(_) | Place::Hidden(..) if write => return Err(Errno::EROFS),
            Place::Hidden(folder, name) => OpenFile::whole(contents(folder.file(&name)?)?, false),
            Place::Lower(layer) => {
                let (parent, name) = node.name()?;
                let folder = self.lower_folder(parent, layer)?;
                OpenFile::whole(contents(folder.file(&name)?)?, false)
            }
            Place::Indexed(name) => {
                OpenFile::whole(self.upper()?.index.folder()?.writable(&name)?, true)
            }
            Place::Upper => {
                let (parent, name) = node.name()?;
                OpenFile::whole(self.upper_folder(parent)?.writable(&name)?, true)
            }
        };
        let file = Arc::new(file);
        self.table.node(ino)?.file = Some(Arc::clone(&file));
        self.hold(Held::File(ino));
        Ok(file)
    }

    /// Takes away what would lend the owner's rights to whoever wrote to the file. The metadata
    /// that decides is in memory unless something else has changed.
    fn clear_set_id(&mut self, ino: Ino) -> nix::Result<bool> {
        let mode = self.table.get(ino)?.mode();
        let Some(mode) = without_set_id(mode) else { return Ok(false) };
        let spot = self.spot(ino)?;
        self.change_permissions(ino, &spot, (None, None), Some(mode))?;
        self.table.set_mode(ino, libc::S_IFREG | mode);
        Ok(true)
    }
}
