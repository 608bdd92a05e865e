//! Paths that cannot be looked at, and paths that cannot be written to.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use rrun_spec::mount_options::attr;

use crate::rootfs::mounts::{create, make_readonly};
use crate::rootfs::paths::{Root, ensure_device, is_directory, stat};
use crate::rootfs::verify;
use crate::sys::mount::{attach, clone_tree};

/// Hides each of `paths` that exists: a file behind the host's null device, a directory behind an
/// empty read-only one.
///
/// Nothing of the image is used for it: its `/dev/null` may be a link (CVE-2025-31133).
///
/// # Errors
///
/// Which path could not be hidden, and why.
pub fn mask(root: &Root, paths: &[PathBuf]) -> anyhow::Result<()> {
    let mut empty = None;
    for path in paths {
        let Some(target) = open(root, path)? else { continue };
        hide(target.as_fd(), &mut empty)
            .and_then(|cover| verify::leads_to(root, path, false, cover.as_fd()))
            .with_context(|| format!("mask {}", path.display()))?;
    }
    Ok(())
}

/// What `target` is covered with.
fn hide(target: BorrowedFd<'_>, empty: &mut Option<OwnedFd>) -> anyhow::Result<OwnedFd> {
    let cover = if is_directory(&stat(target)?) {
        let cover = empty_directory(empty.as_ref())?;
        empty.get_or_insert(cover.try_clone()?);
        cover
    } else {
        null_device()?
    };
    attach(cover.as_fd(), target)?;
    Ok(cover)
}

/// An empty directory that nobody can write to; all masks share one.
fn empty_directory(earlier: Option<&OwnedFd>) -> anyhow::Result<OwnedFd> {
    match earlier {
        Some(earlier) => Ok(clone_tree(earlier.as_fd(), "", false)?),
        None => {
            let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
            create("tmpfs", "tmpfs", &[("mode".into(), Some("755".into()))], attributes)
        }
    }
}

fn null_device() -> anyhow::Result<OwnedFd> {
    let null = clone_tree(AT_FDCWD, "/dev/null", false)?;
    ensure_device(null.as_fd(), 1, 3).context("the host's /dev/null")?;
    Ok(null)
}

/// Makes each of `paths` that exists read-only.
///
/// # Errors
///
/// Which path could not be made so, and why.
pub fn make_paths_readonly(root: &Root, paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        let Some(target) = open(root, path)? else { continue };
        make_path_readonly(target.as_fd())
            .and_then(|()| verify::is_readonly(root, path))
            .with_context(|| format!("make {} read-only", path.display()))?;
    }
    Ok(())
}

fn make_path_readonly(target: BorrowedFd<'_>) -> anyhow::Result<()> {
    let copy = clone_tree(target, "", true)?;
    make_readonly(copy.as_fd())?;
    Ok(attach(copy.as_fd(), target)?)
}

fn open(root: &Root, path: &Path) -> anyhow::Result<Option<OwnedFd>> {
    match root.open(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno).with_context(|| format!("open {}", path.display())),
    }
}
