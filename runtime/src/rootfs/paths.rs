//! Paths as the container's processes would see them, looked up beneath the root's descriptor.
//!
//! An image is hostile: a path may lead through symbolic links that point anywhere. The kernel
//! resolves each with `RESOLVE_IN_ROOT`, so that `..` and absolute links stay inside, and
//! `RESOLVE_NO_MAGICLINKS`, so that `/proc/self/fd` leads nowhere (openat2(2)).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

/// The container's root directory.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

/// As many symbolic links as the kernel follows (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// What a directory made on the way gets.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

impl Root {
    /// The root that `directory` refers to.
    #[must_use]
    pub fn new(directory: OwnedFd) -> Self {
        Self { directory }
    }

    /// Goes on with another directory: a file system was mounted on the root itself.
    pub fn replace(&mut self, directory: OwnedFd) {
        self.directory = directory;
    }

    /// Opens what `path` leads to, but a symbolic link at its end itself.
    ///
    /// # Errors
    ///
    /// Those of `openat2(2)`.
    pub fn open_link(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_as(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)
    }

    /// Opens what `path` leads to, without reading it (`O_PATH`).
    ///
    /// # Errors
    ///
    /// Those of `openat2(2)`.
    pub fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_as(path, OFlag::O_PATH)
    }

    /// Opens what `path` leads to with the given flags.
    ///
    /// # Errors
    ///
    /// Those of `openat2(2)`.
    pub fn open_as(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        self.open_how(path, flags, ResolveFlag::empty())
    }

    /// Opens the directory `path`, no part of which is a symbolic link.
    ///
    /// # Errors
    ///
    /// `ELOOP` for a link, `ENOTDIR` for what is no directory.
    pub fn open_plain_directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        self.open_how(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    fn open_how(&self, path: &Path, flags: OFlag, more: ResolveFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | more;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        retry_while_moving(|| openat2(&self.directory, path, how))
    }

    /// Opens the directory `path`; what is missing of it is made.
    ///
    /// # Errors
    ///
    /// `ENOTDIR` if something else is in the way, and those of `mkdirat(2)`.
    pub fn make_directory(&self, path: &Path) -> anyhow::Result<OwnedFd> {
        match self.open_as(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {}
            found => return found.with_context(|| format!("open {}", path.display())),
        }
        if let Some(made) = self.make_directory_in_existing(path) {
            return Ok(made);
        }
        let (parent, name) = self.make_parent(path)?;
        match mkdirat(&parent, name.as_os_str(), DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).with_context(|| format!("make {}", path.display())),
        }
        open_beneath(&parent, &name, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .with_context(|| format!("open {}", path.display()))
    }

    /// The usual case of [`Self::make_directory`]: only the last name is missing, and it is no link.
    fn make_directory_in_existing(&self, path: &Path) -> Option<OwnedFd> {
        let Some(Component::Normal(name)) = path.components().next_back() else { return None };
        let parent = self.open_as(path.parent()?, OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?;
        mkdirat(&parent, name, DIRECTORY_MODE).ok()?;
        open_beneath(&parent, name, OFlag::O_PATH | OFlag::O_DIRECTORY).ok()
    }

    /// Opens the file `path`; if it is missing, an empty one is made.
    ///
    /// # Errors
    ///
    /// Those of making the directories above it, and of `openat2(2)`.
    pub fn make_file(&self, path: &Path) -> anyhow::Result<OwnedFd> {
        match self.open(path) {
            Err(Errno::ENOENT) => {}
            found => return found.with_context(|| format!("open {}", path.display())),
        }
        let (parent, name) = self.make_parent(path)?;
        let flags = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        nix::fcntl::openat(&parent, name.as_os_str(), flags, Mode::from_bits_truncate(0o644))
            .with_context(|| format!("make {}", path.display()))?;
        open_beneath(&parent, &name, OFlag::O_PATH)
            .with_context(|| format!("open {}", path.display()))
    }

    /// Opens `name` in `directory` itself, be it a symbolic link; if it is missing, an empty file is made.
    ///
    /// # Errors
    ///
    /// Those of `openat2(2)`, `EEXIST` if somebody makes it at the same time.
    pub fn make_file_itself(directory: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
        let itself = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        match open_beneath(directory, name, itself) {
            Err(Errno::ENOENT) => {}
            found => return found,
        }
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(directory, name, flags, Mode::from_bits_truncate(0o644))?;
        open_beneath(directory, name, itself)
    }

    /// The directory in which the last name of `path` lies, made if it is missing, and that name.
    ///
    /// A symbolic link that leads nowhere is followed to where it leads, which is then made, as
    /// runc does. The name returned is itself no link.
    ///
    /// # Errors
    ///
    /// `ELOOP` after 40 links, and those of `mkdirat(2)`.
    pub fn make_parent(&self, path: &Path) -> anyhow::Result<(OwnedFd, OsString)> {
        let mut left = components(path);
        let mut done = PathBuf::from("/");
        let mut directory = self.open(Path::new("/")).context("open /")?;
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                done.pop();
                directory = self.open(&done).with_context(|| format!("open {}", done.display()))?;
                continue;
            }
            if let Some(target) = link(directory.as_fd(), &name) {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::ELOOP).with_context(|| format!("open {}", path.display()));
                }
                if Path::new(&target).is_absolute() {
                    done = PathBuf::from("/");
                    directory = self.open(&done).context("open /")?;
                }
                left.extend(components(Path::new(&target)));
                continue;
            }
            if left.is_empty() {
                return Ok((directory, name));
            }
            done.push(&name);
            directory = enter(directory.as_fd(), &name)
                .with_context(|| format!("make directory {}", done.display()))?;
        }
        bail!("{}: want a name below the root", path.display())
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The names in `path`, last one first.
fn components(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// What the symbolic link `name` says; nothing if it is none.
fn link(directory: BorrowedFd<'_>, name: &OsStr) -> Option<OsString> {
    readlinkat(directory, name).ok()
}

/// Opens the directory `name`, made if it is missing.
fn enter(directory: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_beneath(directory, name, flags) {
        Err(Errno::ENOENT) => {}
        found => return found,
    }
    match mkdirat(directory, name, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EEXIST) => open_beneath(directory, name, flags),
        Err(errno) => Err(errno),
    }
}

/// Opens `name` in `directory` itself: nowhere else, through no link, but across a mount.
fn open_beneath(directory: impl AsFd, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    retry_while_moving(|| openat2(&directory, name, how))
}

/// `openat2` answers `EAGAIN` if something was renamed while it resolved `..`: try again.
fn retry_while_moving(open: impl Fn() -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    /// Enough for any accident, few enough to end for an adversary.
    const TRIES: usize = 128;
    for _ in 1..TRIES {
        match open() {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
    }
    open()
}

/// Whether `stat` describes a directory.
#[must_use]
pub fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

/// Checks that `fd` is the character device `major:minor` and nothing that stands in its place.
///
/// # Errors
///
/// If it is something else.
pub fn ensure_device(fd: BorrowedFd<'_>, major: u64, minor: u64) -> anyhow::Result<()> {
    let stat = fstat(fd)?;
    let is_character = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
    if is_character && stat.st_rdev == nix::sys::stat::makedev(major, minor) {
        return Ok(());
    }
    bail!("is not the character device {major}:{minor}")
}

/// Removes `name` in `directory` if it is a symbolic link or a file, so that another can be made.
///
/// # Errors
///
/// Those of `unlinkat(2)`, but not `ENOENT`.
pub fn remove_file(directory: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
    match nix::unistd::unlinkat(directory, name, nix::unistd::UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Whether `path` names the root itself.
#[must_use]
pub fn is_root(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().all(|byte| *byte == b'/' || *byte == b'.')
}

/// Looks at what `fd` refers to.
///
/// # Errors
///
/// Those of `fstatat(2)`.
pub fn stat(fd: BorrowedFd<'_>) -> nix::Result<FileStat> {
    nix::sys::stat::fstatat(fd, "", AtFlags::AT_EMPTY_PATH)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(directory: &Path) -> Root {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        Root::new(nix::fcntl::open(directory, flags, Mode::empty()).unwrap())
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("root");
        fs::create_dir(&inside).unwrap();
        symlink("/etc", inside.join("absolute")).unwrap();
        symlink("../../..", inside.join("up")).unwrap();
        symlink(outside.path(), inside.join("dangling")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        let root = root(&inside);
        root.make_directory(Path::new("/absolute/a")).unwrap();
        assert!(inside.join("etc/a").is_dir());
        root.make_directory(Path::new("up/b")).unwrap();
        assert!(inside.join("b").is_dir());
        root.make_file(Path::new("/dangling/c/file")).unwrap();
        let expected = inside.join(outside.path().strip_prefix("/").unwrap()).join("c/file");
        assert!(expected.is_file(), "{}", expected.display());
        assert!(root.make_directory(Path::new("/loop/x")).is_err());
        let names: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing was made beside the root");
    }

    #[test]
    fn what_exists_is_opened_and_not_made_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("a/file"), "text").unwrap();
        let root = root(directory.path());
        root.make_directory(Path::new("/a/b")).unwrap();
        root.make_file(Path::new("a/file")).unwrap();
        assert_eq!(fs::read(directory.path().join("a/file")).unwrap(), b"text");
        assert!(root.make_directory(Path::new("/a/file")).is_err());
        assert!(root.make_directory(Path::new("/a/file/c")).is_err());
    }
}
