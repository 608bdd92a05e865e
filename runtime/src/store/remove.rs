//! Removing whole trees that may be hostile: of any depth, with any permissions.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes all that `directory` holds.
///
/// Every directory that is found is first moved up to `directory` itself, so that neither the depth nor
/// the number of open files grows. Links are not followed. What others remove meanwhile is no error.
///
/// # Errors
///
/// Those of removing files, `EACCES` and `EPERM` among them.
pub fn remove_contents(directory: &OwnedFd) -> Result<()> {
    let mut moved = 0_u64;
    let mut waiting = Vec::new();
    empty(directory, directory, &mut moved, &mut waiting)?;
    while let Some(name) = waiting.pop() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inner = match openat(directory, name.as_c_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT) => continue,
            inner => inner.with_context(|| format!("open {}", name.to_string_lossy()))?,
        };
        empty(&inner, directory, &mut moved, &mut waiting)?;
        match unlinkat(directory, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => {
                return Err(errno).with_context(|| format!("remove {}", name.to_string_lossy()));
            }
        }
    }
    Ok(())
}

/// Removes the files of `directory`, and moves its directories to `top`.
fn empty(
    directory: &OwnedFd,
    top: &OwnedFd,
    moved: &mut u64,
    waiting: &mut Vec<CString>,
) -> Result<()> {
    let is_top = std::ptr::eq(directory, top);
    let own = directory.try_clone().context("copy a descriptor")?;
    let entries: Vec<_> = Dir::from_fd(own)?.iter().collect::<nix::Result<_>>().context("list")?;
    for entry in entries {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let removed = match entry.file_type() {
            Some(Type::Directory) => Err(Errno::EISDIR),
            _ => unlinkat(directory, name, UnlinkatFlags::NoRemoveDir),
        };
        match removed {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR) if is_top => waiting.push(name.to_owned()),
            Err(Errno::EISDIR) => waiting.push(lift(directory, name, top, moved)?),
            Err(errno) => {
                return Err(errno).with_context(|| format!("remove {}", name.to_string_lossy()));
            }
        }
    }
    Ok(())
}

/// Moves the directory `name` of `from` up to `top`, and says what it is called there.
fn lift(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> Result<CString> {
    loop {
        *moved += 1;
        let new = CString::new(format!("{}-{moved}", std::process::id()))?;
        match renameat(from, name, top, new.as_c_str()) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(new),
            // Something is called so already.
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            Err(errno) => {
                return Err(errno).with_context(|| format!("move {}", name.to_string_lossy()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn trees_of_any_depth_go() {
        let place = tempfile::tempdir().unwrap();
        let open = |path: &std::path::Path| OwnedFd::from(fs::File::open(path).unwrap());
        fs::write(place.path().join("outside"), "stays").unwrap();
        let top = place.path().join("top");
        fs::create_dir(&top).unwrap();
        let (mut here, mode) = (open(&top), Mode::from_bits_truncate(0o755));
        for _ in 0..3000 {
            mkdirat(&here, "d", mode).unwrap();
            std::os::unix::fs::symlink("../../outside", top.join("link")).ok();
            here = openat(&here, "d", OFlag::O_RDONLY, Mode::empty()).unwrap();
        }
        let top = open(&top);
        remove_contents(&top).unwrap();
        assert_eq!(fs::read_dir(place.path().join("top")).unwrap().count(), 0);
        assert!(place.path().join("outside").exists());
    }
}
