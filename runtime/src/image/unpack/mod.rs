//! Layers: from an archive to a directory, in the form that the overlay reads.
//!
//! The archive comes from anybody. It is read as a stream, with bounded memory, and every name lies beneath
//! the layer's own descriptor (`tree`). Owners that do not exist here, and devices that may not be made,
//! are kept in an attribute (`owner`). Directories that it does not describe look like those below
//! (`settle`).

mod decompress;
mod owner;
pub mod settle;
mod tree;

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{linkat, symlinkat};
use rrun_fusefs::marks::{self, Marker};
use serde::{Deserialize, Serialize};

use self::decompress::decompress;
pub use self::decompress::uncompressed;
use self::owner::{Owners, make_opaque, set_time};
use self::tree::{Place, Tree};
use super::archive::{Archive, Entry, Kind};
use super::digest::{Algorithm, Digest, Hashed};
use crate::userns::map::IdMaps;

/// The most entries of a layer: real ones have a hundred thousand.
const MOST_ENTRIES: u64 = 10_000_000;
/// What contents are copied by, in bytes.
const STEP: usize = 128 * 1024;
/// After how many bytes the room on the file system is looked at again.
const CHECK_AFTER: u64 = 64 * 1024 * 1024;
/// The part of the file system, one in so many, that unpacking leaves free: a layer can be a bomb.
const LEFT_FREE: u64 = 100;

/// What a layer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// The digest of the archive, uncompressed.
    pub diff_id: Digest,
    /// The size of the archive, uncompressed, in bytes.
    pub archive_size: u64,
    /// The size of all files, in bytes.
    pub size: u64,
    /// What could not be kept, in words.
    pub lost: Vec<String>,
}

/// Where a layer goes.
#[derive(Debug)]
pub struct Target {
    /// The empty directory that becomes the layer.
    pub root: OwnedFd,
    /// A directory on the same file system for what is replaced.
    pub aside: OwnedFd,
    /// The IDs that exist here; all if there are none.
    pub maps: Option<IdMaps>,
}

/// Unpacks the layer that `blob` holds, compressed or not. Directories that it does not describe are
/// returned, relative to the layer.
///
/// # Errors
///
/// If the archive is broken or hostile, or for lack of space; what was unpacked so far is left behind.
pub fn unpack(blob: impl io::Read + Send, target: Target) -> Result<(Unpacked, Vec<PathBuf>)> {
    decompress(blob, |plain| {
        let mut archive = Archive::new(Hashed::new(plain, Algorithm::Sha256));
        let mut layer = Layer::new(target)?;
        while let Some(entry) = archive.next_entry()? {
            layer
                .take(&entry, &mut archive)
                .with_context(|| format!("unpack {}", String::from_utf8_lossy(&entry.path)))?;
        }
        let (_, diff_id, archive_size) = archive.finish().context("read archive")?.finish();
        let (size, lost, implicit) = layer.finish()?;
        Ok((Unpacked { diff_id, archive_size, size, lost }, implicit))
    })
}

/// A directory whose time is set when nothing more is put into it.
#[derive(Debug)]
struct Time {
    path: PathBuf,
    modified: (i64, u32),
}

#[derive(Debug)]
struct Layer {
    tree: Tree,
    owners: Owners,
    times: HashMap<(u64, u64), Time>,
    entries: u64,
    size: u64,
    unchecked: u64,
    buffer: Vec<u8>,
}

impl Layer {
    fn new(target: Target) -> Result<Self> {
        Ok(Self {
            tree: Tree::new(target.root, target.aside)?,
            owners: Owners { maps: target.maps, ..Owners::default() },
            times: HashMap::new(),
            entries: 0,
            size: 0,
            unchecked: 0,
            buffer: vec![0; STEP],
        })
    }

    fn take<R: io::Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<()> {
        self.entries += 1;
        ensure!(self.entries <= MOST_ENTRIES, "a layer of more than {MOST_ENTRIES} entries");
        let place = self.tree.place(&entry.path)?;
        match marks::marker(place.name()) {
            Marker::None => {}
            Marker::Opaque => {
                return make_opaque(&Place { parent: place.parent, name: b".".to_vec() });
            }
            Marker::Internal => return Ok(()),
            Marker::Whiteout(name) => {
                let name = name.as_bytes().to_vec();
                return self.tree.hide(&Place { parent: place.parent, name });
            }
        }
        match &entry.kind {
            Kind::Directory => return self.directory(&place, entry),
            Kind::HardLink(target) => return self.hard_link(&place, target),
            _ => self.tree.clear(&place)?,
        }
        let (kind, stand_in) = match &entry.kind {
            Kind::Symlink(target) => (symlink(&place, target)?, None),
            Kind::Fifo => (fifo(&place)?, None),
            Kind::CharDevice(major, minor) => {
                device(&place, SFlag::S_IFCHR, "char", (*major, *minor))?
            }
            Kind::BlockDevice(major, minor) => {
                device(&place, SFlag::S_IFBLK, "block", (*major, *minor))?
            }
            _ => (self.file(&place, entry, archive)?, None),
        };
        self.owners.give(&place, kind, entry, stand_in.as_deref())?;
        set_time(&place, entry.modified)
    }

    fn directory(&mut self, place: &Place, entry: &Entry) -> Result<()> {
        self.tree.make_directory(place)?;
        self.owners.give(place, SFlag::S_IFDIR, entry, None)?;
        let stat = place.stat()?.context("it is gone")?;
        let path = self.tree.true_path(place)?;
        let time = Time { path, modified: entry.modified };
        self.times.insert((stat.st_dev, stat.st_ino), time);
        Ok(())
    }

    fn hard_link(&mut self, place: &Place, target: &[u8]) -> Result<()> {
        let target = self.tree.target(target)?;
        let same = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
        if place.stat()?.map(same) == target.stat()?.map(same) {
            return Ok(());
        }
        self.tree.clear(place)?;
        let flags = AtFlags::empty();
        linkat(&*target.parent, target.name(), &*place.parent, place.name(), flags)
            .context("make the hard link")
    }

    fn file<R: io::Read>(
        &mut self,
        place: &Place,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<SFlag> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let mode = Mode::from_bits_truncate(0o600);
        let file = openat(&*place.parent, place.name(), flags | OFlag::O_CLOEXEC, mode)
            .context("make the file")?;
        let file = std::fs::File::from(file);
        let end = match &entry.stretches {
            None => self.copy(archive, &file, 0, entry.size)?,
            Some(stretches) => {
                let mut end = 0;
                for stretch in stretches {
                    end = self.copy(archive, &file, stretch.offset, stretch.length)?;
                }
                end
            }
        };
        if end < entry.size {
            file.set_len(entry.size).context("make the file as long as it is")?;
        }
        self.size += entry.size;
        Ok(SFlag::S_IFREG)
    }

    /// Copies `length` bytes to `offset`, and says where the file ends by what was written: what is
    /// nothing but zeros becomes a hole.
    fn copy<R: io::Read>(
        &mut self,
        archive: &mut Archive<R>,
        file: &std::fs::File,
        offset: u64,
        length: u64,
    ) -> Result<u64> {
        let (mut at, end, mut written) = (offset, offset + length, 0);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(STEP).min(STEP);
            let room = self.buffer.get_mut(..most).unwrap_or_default();
            archive.read_exact(room).context("read archive")?;
            if room.iter().any(|byte| *byte != 0) {
                file.write_all_at(room, at).context("write the file")?;
                self.unchecked += most as u64;
                written = at + most as u64;
            }
            at += most as u64;
            if self.unchecked >= CHECK_AFTER {
                self.unchecked = 0;
                leave_room(file)?;
            }
        }
        Ok(written)
    }

    /// Sets the times of directories, the deepest first, and marks the root.
    fn finish(mut self) -> Result<(u64, Vec<String>, Vec<PathBuf>)> {
        for (identity, time) in &self.times {
            if let Some(directory) = self.tree.reopen(&time.path, *identity) {
                set_time(
                    &Place { parent: Rc::new(directory), name: b".".to_vec() },
                    time.modified,
                )?;
            }
        }
        let (root, implicit) = self.tree.finish();
        self.owners.mark_root(&Place { parent: root, name: b".".to_vec() })?;
        Ok((self.size, self.owners.lost, implicit))
    }
}

fn leave_room(file: &std::fs::File) -> Result<()> {
    let found = fstatvfs(file.as_fd()).context("look at the file system")?;
    let least = found.blocks() / LEFT_FREE;
    ensure!(found.blocks_available() > least, "the file system has less than 1 % left");
    Ok(())
}

fn symlink(place: &Place, target: &[u8]) -> Result<SFlag> {
    ensure!(!target.is_empty(), "it is a symbolic link to nothing");
    symlinkat(std::ffi::OsStr::from_bytes(target), &*place.parent, place.name())
        .context("make the symbolic link")?;
    Ok(SFlag::S_IFLNK)
}

fn fifo(place: &Place) -> Result<SFlag> {
    mknodat(&*place.parent, place.name(), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)
        .context("make the fifo")?;
    Ok(SFlag::S_IFIFO)
}

/// Makes a device, or where nobody lets us an empty file that an attribute tells what it stands for.
fn device(
    place: &Place,
    kind: SFlag,
    word: &str,
    (major, minor): (u32, u32),
) -> Result<(SFlag, Option<String>)> {
    ensure!(
        kind != SFlag::S_IFCHR || (major, minor) != (0, 0),
        "it is the device 0:0, which means that a file is gone: want .wh. and its name"
    );
    let number = makedev(major.into(), minor.into());
    match mknodat(&*place.parent, place.name(), kind, Mode::empty(), number) {
        Err(Errno::EPERM | Errno::EACCES) => {
            mknodat(&*place.parent, place.name(), SFlag::S_IFREG, Mode::empty(), 0)
                .context("make a file in place of the device")?;
            Ok((SFlag::S_IFREG, Some(format!("{word}-{major}-{minor}"))))
        }
        made => made.context("make the device").map(|()| (kind, None)),
    }
}
