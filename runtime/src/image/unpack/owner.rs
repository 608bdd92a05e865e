//! What an entry is beside its contents: owner, permissions, attributes, times, marks of the overlay.

use std::ffi::{CString, OsStr};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use rrun_fusefs::marks;

use super::tree::Place;
use crate::image::archive::Entry;
use crate::sys::xattr;
use crate::userns::map::{IdMaps, inside_to_outside};

/// Who can own files here, and what could not be kept.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// The IDs of the user namespace; all of them if there is none.
    pub(super) maps: Option<IdMaps>,
    /// Whether an attribute holds what could not be.
    pub(super) marked: bool,
    /// What got lost, in words.
    pub(super) lost: Vec<String>,
}

/// What an attribute says of an object that could not be made as it is.
const DEVICE_MODE: u32 = 0o600;

impl Owners {
    fn exist(&self, uid: u32, gid: u32) -> bool {
        self.maps.as_ref().is_none_or(|maps| {
            inside_to_outside(&maps.uids, uid).is_some()
                && inside_to_outside(&maps.gids, gid).is_some()
        })
    }

    /// Gives the object at `place` owner, permissions and attributes of `entry`. `stand_in` says what it
    /// is a stand-in for, if it is one.
    ///
    /// The order matters: a new owner takes set-id bits and capabilities away.
    ///
    /// # Errors
    ///
    /// Those of `fchownat(2)` and `fchmodat(2)`.
    pub(super) fn give(
        &mut self,
        place: &Place,
        kind: SFlag,
        entry: &Entry,
        stand_in: Option<&str>,
    ) -> Result<()> {
        let exist = self.exist(entry.uid, entry.gid);
        let (uid, gid) = if exist { (entry.uid, entry.gid) } else { (0, 0) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(&*place.parent, place.name(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
            .context("give it to its owner")?;
        if kind != SFlag::S_IFLNK {
            // Set-id bits of somebody who does not exist here would be root's.
            let bits = if exist { entry.mode } else { entry.mode & 0o1777 };
            let bits = if stand_in.is_some() { DEVICE_MODE } else { bits };
            let mode = Mode::from_bits_truncate(bits);
            fchmodat(&*place.parent, place.name(), mode, FchmodatFlags::FollowSymlink)
                .context("set its permissions")?;
        }
        if !exist || stand_in.is_some() {
            self.keep_in_attribute(place, kind, entry, stand_in);
        }
        for (name, value) in &entry.attributes {
            self.set_attribute(place, name, value);
        }
        Ok(())
    }

    /// What cannot be on disk is kept where the overlay reads it. Only files and directories can have it.
    fn keep_in_attribute(
        &mut self,
        place: &Place,
        kind: SFlag,
        entry: &Entry,
        stand_in: Option<&str>,
    ) {
        if !matches!(kind, SFlag::S_IFREG | SFlag::S_IFDIR) {
            return;
        }
        let form = stand_in.unwrap_or(if kind == SFlag::S_IFDIR { "dir" } else { "file" });
        let value = format!("{}:{}:0{:o}:{form}", entry.uid, entry.gid, entry.mode);
        match xattr::set(place.parent.as_fd(), place.name(), marks::PERMISSIONS, value.as_bytes()) {
            Ok(()) => self.marked = true,
            Err(errno) => self.lose("the true owners of some files", errno),
        }
    }

    fn set_attribute(&mut self, place: &Place, name: &[u8], value: &[u8]) {
        if !is_kept(name) {
            return;
        }
        let Ok(attribute) = CString::new(name) else { return };
        match xattr::set(place.parent.as_fd(), place.name(), &attribute, value) {
            // What belongs to nobody here means nothing here.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => self.lose(&format!("attributes {}", attribute.to_string_lossy()), errno),
        }
    }

    fn lose(&mut self, what: &str, errno: Errno) {
        let text = format!("{what} could not be kept: {errno}");
        if !self.lost.contains(&text) && self.lost.len() < 16 {
            self.lost.push(text);
        }
    }

    /// The layer's root says that attributes of what lies below it count.
    ///
    /// # Errors
    ///
    /// Those of `fstatat(2)`.
    pub(super) fn mark_root(&mut self, root: &Place) -> Result<()> {
        let held = xattr::get(root.parent.as_fd(), root.name(), marks::PERMISSIONS);
        let Some(stat) = root.stat()?.filter(|_| self.marked && held.is_err()) else {
            return Ok(());
        };
        let value = format!("{}:{}:0{:o}:dir", stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
        xattr::set(root.parent.as_fd(), root.name(), marks::PERMISSIONS, value.as_bytes())
            .context("mark the layer")
    }
}

/// Whether an attribute of an archive may be one of the layer: those of the format would change what the
/// overlay does, labels are the host's to give.
fn is_kept(name: &[u8]) -> bool {
    let usual = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
    (usual || name == b"security.capability") && !marks::is_reserved(name)
}

/// Sets when it was modified.
///
/// # Errors
///
/// Those of `utimensat(2)`.
pub(super) fn set_time(place: &Place, modified: (i64, u32)) -> Result<()> {
    let time = TimeSpec::new(modified.0, i64::from(modified.1));
    let how = UtimensatFlags::NoFollowSymlink;
    utimensat(&*place.parent, place.name(), &time, &time, how).context("set its time")
}

/// Makes a directory hide what the layers below have in it.
///
/// # Errors
///
/// Those of `setxattr(2)`, or of making the marker where there are no attributes.
pub(super) fn make_opaque(place: &Place) -> Result<()> {
    match xattr::set(place.parent.as_fd(), place.name(), marks::OPAQUE, marks::OPAQUE_VALUE) {
        Err(Errno::EOPNOTSUPP) => {
            let mut inside = place.name.clone();
            inside.push(b'/');
            inside.extend_from_slice(marks::OPAQUE_MARKER);
            make_marker(place, OsStr::from_bytes(&inside))
        }
        done => done.context("make it opaque"),
    }
}

/// Makes something that hides what the layers below have by that name.
///
/// # Errors
///
/// Those of `mknodat(2)`.
pub(super) fn make_whiteout(place: &Place) -> Result<()> {
    match mknodat(&*place.parent, place.name(), SFlag::S_IFCHR, Mode::empty(), 0) {
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EINVAL) => {
            make_marker(place, &marks::marker_for(place.name()))
        }
        made => made.context("make the whiteout"),
    }
}

fn make_marker(place: &Place, name: &OsStr) -> Result<()> {
    match mknodat(&*place.parent, name, SFlag::S_IFREG, Mode::empty(), 0) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).context("make the marker"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_cannot_set_what_the_overlay_reads() {
        for (name, kept) in [
            ("user.comment", true),
            ("security.capability", true),
            ("system.posix_acl_access", true),
            ("user.overlay.redirect", false),
            ("user.overlay.opaque", false),
            ("user.containers.override_stat", false),
            ("user.fuseoverlayfs.opaque", false),
            ("trusted.overlay.opaque", false),
            ("trusted.a", false),
            ("security.selinux", false),
        ] {
            assert_eq!(is_kept(name.as_bytes()), kept, "{name}");
        }
    }
}
