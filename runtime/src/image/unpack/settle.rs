//! Directories that a layer's archive does not describe: they look like those of the layers below.
//!
//! An archive may hold `tmp/file` and not `tmp/`. The topmost layer that has a directory says what the
//! merged one looks like, so that it would lose its permissions.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat};
use nix::unistd::{Gid, Uid, fchownat};
use rrun_fusefs::marks;

use super::owner::{Owners, set_time};
use super::tree::{Place, is_whiteout, kind};
use crate::sys::xattr;

/// Gives each directory of `implicit`, relative to the layer `root`, what it has in the layers `below`,
/// the topmost first.
///
/// # Errors
///
/// Those of looking at the layers and of changing metadata.
pub fn settle(root: &Path, implicit: &[PathBuf], below: &[PathBuf]) -> Result<()> {
    let layer = open_root(root)?;
    let below = below.iter().map(|path| open_root(path)).collect::<Result<Vec<_>>>()?;
    let mut owners = Owners::default();
    for path in implicit {
        let Some(own) = walk(&layer, path).with_context(|| path.display().to_string())? else {
            continue;
        };
        if own.hidden_below {
            continue;
        }
        for lower in &below {
            let found = walk(lower, path).with_context(|| path.display().to_string())?;
            let Some(found) = found else { continue };
            if let Some(model) = found.directory {
                let copied = own.directory.as_ref().map_or(Ok(false), |own| copy(&model, own));
                owners.marked |= copied.with_context(|| format!("settle {}", path.display()))?;
                break;
            }
            if found.hidden_below {
                break;
            }
        }
    }
    owners.mark_root(&Place { parent: Rc::new(layer), name: b".".to_vec() })
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))
}

/// What a layer has at a path.
struct Found {
    directory: Option<Place>,
    /// Whether the layers below it do not count.
    hidden_below: bool,
}

/// Goes down to `path`, over no link. `None` if the layer says nothing of it.
fn walk(root: &OwnedFd, path: &Path) -> Result<Option<Found>> {
    let mut here = Rc::new(root.try_clone().context("copy a descriptor")?);
    let mut hidden_below = false;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let place = Place { parent: Rc::clone(&here), name: name.as_bytes().to_vec() };
        let hides = Found { directory: None, hidden_below: true };
        match place.stat()? {
            None if has_marker(&place)? => return Ok(Some(hides)),
            None if hidden_below => return Ok(Some(hides)),
            None => return Ok(None),
            Some(stat) if is_whiteout(&stat) || kind(&stat) != SFlag::S_IFDIR => {
                return Ok(Some(hides));
            }
            Some(_) => {}
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        here = Rc::new(openat(&*here, name, flags, Mode::empty())?);
        let this = Place { parent: Rc::clone(&here), name: b".".to_vec() };
        hidden_below |= is_opaque(&this)?;
    }
    let directory = Some(Place { parent: here, name: b".".to_vec() });
    Ok(Some(Found { directory, hidden_below }))
}

fn has_marker(place: &Place) -> Result<bool> {
    exists(place, &marks::marker_for(place.name()))
}

fn is_opaque(place: &Place) -> Result<bool> {
    let value = xattr::get(place.parent.as_fd(), place.name(), marks::OPAQUE);
    Ok(value.is_ok_and(|value| value == marks::OPAQUE_VALUE)
        || exists(place, OsStr::from_bytes(marks::OPAQUE_MARKER))?)
}

fn exists(place: &Place, name: &OsStr) -> Result<bool> {
    match fstatat(&*place.parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes `own` look like `model`, and says whether an attribute holds its permissions.
fn copy(model: &Place, own: &Place) -> Result<bool> {
    let mut marked = false;
    let stat: FileStat = fstat(&*model.parent)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(&*own.parent, own.name(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    fchmodat(&*own.parent, own.name(), mode, FchmodatFlags::FollowSymlink)?;
    let attributes = match xattr::list(model.parent.as_fd(), model.name()) {
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        list => list?,
    };
    for name in attributes {
        let held = name.as_c_str() == marks::PERMISSIONS;
        marked |= held;
        if held || !marks::is_reserved(name.to_bytes()) {
            let value = xattr::get(model.parent.as_fd(), model.name(), &name)?;
            // Labels of security modules are the host's: what it refuses is not ours to give.
            let _may_be_refused = xattr::set(own.parent.as_fd(), own.name(), &name, &value);
        }
    }
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    set_time(own, (stat.st_mtime, nanoseconds))?;
    Ok(marked)
}
