//! A layer's directory while it is unpacked: every name beneath its descriptor.
//!
//! Directories on the way are looked up with `RESOLVE_IN_ROOT`, as the archive's own links lead: nothing
//! leads outside. What an entry itself is called is never followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlink, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rrun_fusefs::marks;

use super::owner::make_opaque;

/// What a directory gets that the archive does not describe.
const USUAL_MODE: Mode = Mode::from_bits_truncate(0o755);

/// The most bytes of directories' paths that are kept in memory until a layer is complete: those of a
/// million usual ones.
const MOST_REMEMBERED: usize = 64 * 1024 * 1024;
/// What each costs beside its path, in bytes.
const REMEMBERED_BESIDE: usize = 64;

/// How much is remembered of directories.
#[derive(Debug, Default)]
struct Memory(usize);

impl Memory {
    fn take(&mut self, path: &Path) -> Result<()> {
        self.0 += path.as_os_str().len() + REMEMBERED_BESIDE;
        ensure!(self.0 <= MOST_REMEMBERED, "a layer of more directories than any has");
        Ok(())
    }
}

/// The directory of one layer.
#[derive(Debug)]
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// Where directories go that are in the way of something else.
    aside: OwnedFd,
    moved_aside: usize,
    /// The directory that was looked up last: entries come directory by directory.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories that were made on the way and not described yet: by identity, where they are.
    implicit: HashMap<(u64, u64), PathBuf>,
    memory: Memory,
}

/// The place of an entry.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory that it lies in.
    pub(super) parent: Rc<OwnedFd>,
    /// What it is called there; `.` for the root.
    pub(super) name: Vec<u8>,
}

impl Place {
    /// What it is called, for system calls.
    pub(super) fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }

    /// What is there.
    ///
    /// # Errors
    ///
    /// Those of `fstatat(2)`, but not that there is nothing.
    pub(super) fn stat(&self) -> Result<Option<FileStat>> {
        match fstatat(&*self.parent, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).context("look at it"),
        }
    }

    fn is_root(&self) -> bool {
        self.name == b"."
    }
}

/// The type in a mode.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether it hides what lies below.
pub(super) fn is_whiteout(stat: &FileStat) -> bool {
    marks::is_whiteout(stat.st_mode, stat.st_rdev)
}

/// The components of an entry's path, none for the root.
///
/// # Errors
///
/// If one of them is `..`: no archive needs it.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<_> = parts.collect();
    ensure!(!parts.contains(&&b".."[..]), "it leads out of the layer");
    ensure!(!path.contains(&0), "its name has a NUL byte");
    Ok(parts)
}

impl Tree {
    /// The layer whose directory is `root`; `aside` is a directory beside it on the same file system.
    pub(super) fn new(root: OwnedFd, aside: OwnedFd) -> Result<Self> {
        let stat = fstat(&root)?;
        let implicit = HashMap::from([((stat.st_dev, stat.st_ino), PathBuf::new())]);
        Ok(Self {
            root: Rc::new(root),
            aside,
            moved_aside: 0,
            last: None,
            implicit,
            memory: Memory::default(),
        })
    }

    /// The place that `path` means. Directories on the way that are not there are made.
    ///
    /// # Errors
    ///
    /// If it leads outside, or something that is no directory is on the way.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place> {
        let parts = components(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(Place { parent: Rc::clone(&self.root), name: b".".to_vec() });
        };
        Ok(Place { parent: self.parent(parents)?, name: name.to_vec() })
    }

    fn parent(&mut self, parts: &[&[u8]]) -> Result<Rc<OwnedFd>> {
        if parts.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let joined = parts.join(&b'/');
        if let Some((_, found)) = self.last.as_ref().filter(|(path, _)| *path == joined) {
            return Ok(Rc::clone(found));
        }
        let found = match self.open(&joined) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_parents(parts)?,
            found => found.with_context(|| {
                format!("open its directory {}", String::from_utf8_lossy(&joined))
            })?,
        };
        let found = Rc::new(found);
        self.last = Some((joined, Rc::clone(&found)));
        Ok(found)
    }

    /// Opens a directory; links on the way lead as they would inside.
    fn open(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        loop {
            match openat2(&*self.root, OsStr::from_bytes(path), how) {
                // Something was renamed elsewhere meanwhile, and the way led through `..`.
                Err(Errno::EAGAIN) => {}
                found => return found,
            }
        }
    }

    /// Makes what is missing on the way.
    fn make_parents(&mut self, parts: &[&[u8]]) -> Result<OwnedFd> {
        let mut parent = Rc::clone(&self.root);
        for end in 1..=parts.len() {
            let way = parts.get(..end).unwrap_or_default();
            let name = way.last().copied().unwrap_or_default();
            let path = way.join(&b'/');
            let next = match self.open(&path) {
                Ok(found) => found,
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    let place = Place { parent, name: name.to_vec() };
                    self.make_implicit(&place)
                        .with_context(|| format!("make {}", String::from_utf8_lossy(&path)))?;
                    self.open(&path)?
                }
                Err(errno) => {
                    return Err(errno)
                        .with_context(|| format!("open {}", String::from_utf8_lossy(&path)));
                }
            };
            parent = Rc::new(next);
        }
        Rc::into_inner(parent).context("the directory is in use")
    }

    fn make_implicit(&mut self, place: &Place) -> Result<()> {
        match place.stat()? {
            None => mkdirat(&*place.parent, place.name(), USUAL_MODE)?,
            Some(stat) if is_whiteout(&stat) => self.replace_whiteout(place)?,
            Some(stat) if kind(&stat) == SFlag::S_IFLNK => {
                bail!("it is a symbolic link that leads to no directory")
            }
            Some(_) => bail!("it is no directory"),
        }
        let stat = place.stat()?.context("it is gone")?;
        let path = self.true_path(place)?;
        self.implicit.insert((stat.st_dev, stat.st_ino), path);
        Ok(())
    }

    /// A directory takes the place of a whiteout: what lies below stays hidden.
    fn replace_whiteout(&mut self, place: &Place) -> Result<()> {
        unlinkat(&*place.parent, place.name(), UnlinkatFlags::NoRemoveDir)?;
        mkdirat(&*place.parent, place.name(), USUAL_MODE)?;
        make_opaque(place)
    }

    /// Where a place is, without links on the way; to be remembered.
    ///
    /// # Errors
    ///
    /// If too much is remembered already.
    pub(super) fn true_path(&mut self, place: &Place) -> Result<PathBuf> {
        let name = |fd: &OwnedFd| {
            readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str())
                .map(|path| PathBuf::from(std::ffi::OsString::from_vec(path.into_vec())))
        };
        let (root, parent) = (name(&self.root)?, name(&place.parent)?);
        let below = parent.strip_prefix(&root).context("it lies outside")?;
        let path = if place.is_root() { below.to_owned() } else { below.join(place.name()) };
        self.memory.take(&path)?;
        Ok(path)
    }

    /// Makes a directory, unless there is one; says whether it was there.
    ///
    /// # Errors
    ///
    /// Those of `mkdirat(2)`.
    pub(super) fn make_directory(&mut self, place: &Place) -> Result<()> {
        match place.stat()? {
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => {
                self.implicit.remove(&(stat.st_dev, stat.st_ino));
                return Ok(());
            }
            Some(stat) if is_whiteout(&stat) => return self.replace_whiteout(place),
            Some(_) => self.clear(place)?,
            None => {}
        }
        mkdirat(&*place.parent, place.name(), USUAL_MODE).context("make the directory")
    }

    /// Takes away what is in the way of something that is no directory.
    ///
    /// # Errors
    ///
    /// Those of `unlinkat(2)` and `renameat(2)`; the root is never in the way.
    pub(super) fn clear(&mut self, place: &Place) -> Result<()> {
        ensure!(!place.is_root(), "the layer's own directory cannot be anything else");
        let Some(stat) = place.stat()? else { return Ok(()) };
        // Paths may lead elsewhere from now on.
        self.last = None;
        if kind(&stat) != SFlag::S_IFDIR {
            return unlinkat(&*place.parent, place.name(), UnlinkatFlags::NoRemoveDir)
                .context("replace it");
        }
        self.moved_aside += 1;
        let name = format!("{}-{}", self.root.as_raw_fd(), self.moved_aside);
        renameat(&*place.parent, place.name(), self.aside.as_fd(), name.as_str())
            .context("replace the directory")
    }

    /// Hides what the layers below have there. What this layer has is not meant.
    ///
    /// # Errors
    ///
    /// Those of `mknodat(2)` and `setxattr(2)`.
    pub(super) fn hide(&mut self, place: &Place) -> Result<()> {
        match place.stat()? {
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => make_opaque(place),
            Some(_) => Ok(()),
            None => super::owner::make_whiteout(place),
        }
    }

    /// The file that a hard link's target means.
    ///
    /// # Errors
    ///
    /// If this layer has none there.
    pub(super) fn target(&mut self, path: &[u8]) -> Result<Place> {
        let parts = components(path)?;
        let (name, parents) = parts.split_last().context("it is a link to the root")?;
        let joined = parents.join(&b'/');
        let parent = if parents.is_empty() {
            Ok(Rc::clone(&self.root))
        } else {
            self.open(&joined).map(Rc::new)
        };
        let place = parent.map(|parent| Place { parent, name: name.to_vec() });
        let missing =
            || format!("it is a link to {}, which this layer lacks", String::from_utf8_lossy(path));
        let place = place.with_context(missing)?;
        let stat = place.stat()?.with_context(missing)?;
        ensure!(!is_whiteout(&stat), missing());
        ensure!(kind(&stat) != SFlag::S_IFDIR, "it is a hard link to a directory");
        Ok(place)
    }

    /// Opens the directory at `path` again if it is still the one with this identity.
    pub(super) fn reopen(&self, path: &Path, identity: (u64, u64)) -> Option<OwnedFd> {
        let path = path.as_os_str().as_bytes();
        let found = self.open(if path.is_empty() { b"." } else { path }).ok()?;
        let stat = fstat(&found).ok()?;
        ((stat.st_dev, stat.st_ino) == identity).then_some(found)
    }

    /// The root, and where directories are that no entry described.
    pub(super) fn finish(self) -> (Rc<OwnedFd>, Vec<PathBuf>) {
        let still = |(identity, path): (&(u64, u64), &PathBuf)| {
            self.reopen(path, *identity).map(|_| path.clone())
        };
        let mut implicit: Vec<_> = self.implicit.iter().filter_map(still).collect();
        implicit.sort_unstable();
        (Rc::clone(&self.root), implicit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_directories_has_an_end() {
        let (usual, long) =
            (PathBuf::from("usr/share/doc/a-package"), PathBuf::from("n/".repeat(2000)));
        let take = |path: &Path| {
            let mut memory = Memory::default();
            (0..1_000_000).find(|_| memory.take(path).is_err())
        };
        assert!(take(&usual).is_some_and(|at| at > 700_000));
        assert!(take(&long).is_some_and(|at| at < 17_000));
    }

    #[test]
    fn paths_stay_inside() {
        for (path, expected) in [
            ("a/b", Some(vec!["a", "b"])),
            ("/a//./b/", Some(vec!["a", "b"])),
            ("./", Some(vec![])),
            ("..", None),
            ("a/../b", None),
            ("a/..", None),
            ("a\0b", None),
            ("...", Some(vec!["..."])),
        ] {
            let found = components(path.as_bytes()).ok();
            let expected: Option<Vec<&[u8]>> =
                expected.map(|parts| parts.into_iter().map(str::as_bytes).collect());
            assert_eq!(found, expected, "{path:?}");
        }
    }
}
