//! What a tmpfs takes after: the mode of the directory that it hides, and with `tmpcopyup` all that the
//! image has there.
//!
//! The image is hostile: each name is opened in its directory's descriptor and through no link.
//! Owners, permissions and times come along; extended attributes and hard links do not, as in runc.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, bail};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, fstatat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmodat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use crate::plan::mounts::NewMount;
use crate::rootfs::paths::stat;

fn is_said(new: &NewMount, key: &str) -> bool {
    new.options.iter().any(|(name, _)| name == key)
}

/// A tmpfs with the mode of the directory that it hides, as runc and crun make it; what the options say
/// goes before.
pub(super) fn resembling(hidden: BorrowedFd<'_>, new: &NewMount) -> anyhow::Result<NewMount> {
    let mut new = new.clone();
    if !is_said(&new, "mode") {
        let mode = stat(hidden)?.st_mode & 0o7777;
        new.options.push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    Ok(new)
}

/// Gives a tmpfs with `tmpcopyup` the content of the directory that it hides, and its owner unless
/// the options name one; with `is_made` it did not get the mode as it was made.
pub(super) fn resemble(
    tmpfs: BorrowedFd<'_>,
    hidden: BorrowedFd<'_>,
    new: &NewMount,
    is_made: bool,
) -> anyhow::Result<()> {
    if new.copy_up {
        copy_up(hidden, tmpfs).context("tmpcopyup")?;
        if !is_said(new, "uid") && !is_said(new, "gid") {
            give(tmpfs, c".", &stat(hidden)?).context("tmpcopyup: change the owner")?;
        }
    }
    let mode = new.options.iter().rev().find(|(name, _)| name == "mode");
    let mode = mode.and_then(|(_, value)| u32::from_str_radix(value.as_deref()?, 8).ok());
    let Some(mode) = mode.filter(|_| is_made) else { return Ok(()) };
    fchmodat(tmpfs, ".", Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
        .context("change the mode")
}

/// Copies everything in the directory `from`, which may be an `O_PATH` descriptor, to `to`, which
/// may be attached nowhere yet.
///
/// # Errors
///
/// The name that could not be copied, with `ENOSPC` if `to` is full, `EPERM` for a device that may
/// not be made.
pub fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> anyhow::Result<()> {
    copy_entries(&open_directory(from, c".")?, &open_directory(to, c".")?)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd) -> anyhow::Result<()> {
    for entry in Dir::from_fd(open_directory(from.as_fd(), c".")?)?.iter() {
        let entry = entry.context("list the directory")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy(from, to, name).with_context(|| format!("copy {}", name.to_string_lossy()))?;
    }
    Ok(())
}

fn copy(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> anyhow::Result<()> {
    let original = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match kind(&original) {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let inside = (open_directory(from.as_fd(), name)?, open_directory(to.as_fd(), name)?);
            copy_entries(&inside.0, &inside.1)?;
        }
        SFlag::S_IFREG => copy_data(from, to, name)?,
        SFlag::S_IFLNK => symlinkat(&*readlinkat(from, name)?, to, name)?,
        other => mknodat(to, name, other, Mode::empty(), original.st_rdev)?,
    }
    Ok(describe(to.as_fd(), name, &original)?)
}

fn copy_data(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> anyhow::Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let original = openat(from, name, flags, Mode::empty())?;
    // What stands here now may be another thing than what was looked at.
    if kind(&stat(original.as_fd())?) != SFlag::S_IFREG {
        bail!("it was replaced meanwhile");
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let copied = openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    std::io::copy(&mut File::from(original), &mut File::from(copied))?;
    Ok(())
}

/// Gives `name` the owner, permissions and times of `original`, in this order: a new owner clears
/// the set-id bits.
fn describe(directory: BorrowedFd<'_>, name: &CStr, original: &FileStat) -> nix::Result<()> {
    give(directory, name, original)?;
    if kind(original) != SFlag::S_IFLNK {
        let mode = Mode::from_bits_truncate(original.st_mode);
        // The name was made just now, by us: it is no link.
        fchmodat(directory, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    let accessed = TimeSpec::new(original.st_atime, original.st_atime_nsec);
    let modified = TimeSpec::new(original.st_mtime, original.st_mtime_nsec);
    utimensat(directory, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
}

/// Gives `name` the owner of `original`; where the user namespace does not know that one, it stays
/// ours.
///
/// # Errors
///
/// Those of `fchownat(2)`, but not `EINVAL`.
pub fn give(directory: BorrowedFd<'_>, name: &CStr, original: &FileStat) -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(original.st_uid), Gid::from_raw(original.st_gid));
    match fchownat(directory, name, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::EINVAL) => Ok(()),
        result => result,
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
