//! Where the upper directory keeps owners and permissions: on disk, or in an attribute.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmodat, fstat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use super::{Upper, UpperFolder};
use crate::format::permissions::{CONTAINERS, Permissions};
use crate::sys::xattr::{self, Subject};

/// What would lend the owner's rights to whoever runs the file.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Where owners and permissions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// On disk, as kernel overlayfs.
    OnDisk,
    /// On disk, but for files with set-id bits: those have none on disk, where everybody who can
    /// reach the directory could run them, and the truth in an attribute.
    WithoutSetId,
    /// In this attribute, of files and directories; on disk all of them are ours alone.
    Attribute(&'static CStr),
}

impl Keeping {
    /// The attribute that may hold the permissions of something of this `mode`.
    pub(crate) fn attribute(self, mode: u32) -> Option<&'static CStr> {
        match (self, mode & libc::S_IFMT) {
            (Self::WithoutSetId, libc::S_IFREG) => Some(CONTAINERS),
            (Self::Attribute(name), libc::S_IFREG | libc::S_IFDIR) => Some(name),
            _ => None,
        }
    }

    /// Whether the attribute does hold them.
    pub(crate) fn holds(self, mode: u32) -> bool {
        self.attribute(mode).is_some() && (self != Self::WithoutSetId || mode & SET_ID != 0)
    }

    /// The permissions on disk of something that is to show `mode`.
    pub(crate) fn on_disk(self, mode: u32) -> u32 {
        match self {
            _ if !self.holds(mode) => mode & 0o7777,
            Self::Attribute(_) if mode & libc::S_IFMT == libc::S_IFDIR => 0o700,
            Self::Attribute(_) => 0o600,
            _ => mode & 0o7777 & !SET_ID,
        }
    }

    /// Whether copies keep the attribute `name`: access control lists are permissions on disk.
    pub(crate) fn keeps(self, name: &[u8]) -> bool {
        self.has_acl() || !name.starts_with(b"system.posix_acl_")
    }

    /// Whether access control lists can be had.
    pub(crate) fn has_acl(self) -> bool {
        !matches!(self, Self::Attribute(_))
    }

    fn has_owner_on_disk(self, mode: u32) -> bool {
        !matches!(self, Self::Attribute(_)) || self.attribute(mode).is_none()
    }
}

/// Something in the upper or the work directory, to be changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// By its name.
    Named(&'a UpperFolder, &'a OsStr),
    /// By a descriptor, which may be a mere path.
    Open(BorrowedFd<'a>),
}

/// The methods pass the errors of the system call they are named after.
impl<'a> Target<'a> {
    /// Its metadata on disk.
    pub(crate) fn stat(&self) -> nix::Result<FileStat> {
        match self {
            Self::Named(folder, name) => folder.stat(name),
            Self::Open(file) => fstat(file),
        }
    }

    /// Its extended attributes.
    pub(crate) fn attributes(&self) -> nix::Result<Subject<'a>> {
        match *self {
            Self::Named(folder, name) => folder.attributes_of(name),
            Self::Open(file) => Subject::open(file),
        }
    }

    /// Sets owner and group on disk; what is `None` stays.
    pub(crate) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> nix::Result<()> {
        match self {
            Self::Named(folder, name) => folder.set_owner(name, uid, gid),
            Self::Open(file) => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                fchownat(file, "", uid, gid, AtFlags::AT_EMPTY_PATH)
            }
        }
    }

    /// Sets the permissions on disk of what is no symbolic link.
    pub(crate) fn set_mode(&self, mode: u32) -> nix::Result<()> {
        match self {
            Self::Named(folder, name) => folder.set_mode(name, mode),
            Self::Open(file) => {
                let mode = Mode::from_bits_truncate(mode);
                let path = path_of(*file);
                fchmodat(AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)
            }
        }
    }

    /// Sets the times of access and modification.
    pub(crate) fn set_times(&self, accessed: &TimeSpec, modified: &TimeSpec) -> nix::Result<()> {
        match self {
            Self::Named(folder, name) => folder.set_times(name, accessed, modified),
            Self::Open(file) => {
                let follow = UtimensatFlags::FollowSymlink;
                utimensat(AT_FDCWD, path_of(*file).as_str(), accessed, modified, follow)
            }
        }
    }
}

/// The path that leads to what a mere path descriptor stands for.
fn path_of(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// What [`Upper::give`] did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    /// Whether the attribute holds the permissions.
    pub(crate) held: bool,
    /// Whether something on disk had to change.
    pub(crate) changed: bool,
}

impl Upper {
    /// The permissions that an attribute holds of `subject`, whose mode on disk is `mode`.
    ///
    /// # Errors
    ///
    /// `EIO` if they are broken; those of getxattr(2).
    pub(crate) fn held(
        &self,
        subject: &Subject<'_>,
        mode: u32,
    ) -> nix::Result<Option<Permissions>> {
        self.keeping.attribute(mode).map_or(Ok(None), |name| read(subject, name))
    }

    /// Gives `target`, whose metadata on disk is `disk`, `permissions`. The order matters: a new owner
    /// clears set-id bits, and once the attribute is written it counts, whatever is on disk.
    ///
    /// # Errors
    ///
    /// Those of chown(2), chmod(2) and setxattr(2). The attribute may have been written.
    pub(crate) fn give(
        &self,
        target: &Target<'_>,
        disk: &FileStat,
        permissions: Permissions,
    ) -> nix::Result<Given> {
        let kind = disk.st_mode & libc::S_IFMT;
        let shown = kind | permissions.mode;
        let (holds, mode) = (self.keeping.holds(shown), self.keeping.on_disk(shown));
        let (uid, gid) = (permissions.uid, permissions.gid);
        let owned = (disk.st_uid, disk.st_gid) == (uid, gid);
        let chowns = !owned && self.keeping.has_owner_on_disk(shown);
        if chowns {
            target.set_owner(Some(uid), Some(gid))?;
        }
        let right = disk.st_mode & 0o7777 == mode && !(chowns && mode & SET_ID != 0);
        if let Some(name) = self.keeping.attribute(shown).filter(|_| holds) {
            xattr::set(&target.attributes()?, name, permissions.format(kind).as_bytes(), 0)?;
        }
        let chmods = kind != libc::S_IFLNK && !right;
        if chmods {
            target.set_mode(mode)?;
        }
        Ok(Given { held: holds, changed: chowns || chmods })
    }

    /// Makes the attribute of `target` say nothing any more: what lies on disk is the truth again.
    ///
    /// # Errors
    ///
    /// Those of removexattr(2).
    pub(crate) fn release(&self, target: &Target<'_>, mode: u32) -> nix::Result<()> {
        let Some(name) = self.keeping.attribute(mode) else { return Ok(()) };
        match xattr::remove(&target.attributes()?, name) {
            Err(Errno::ENODATA) => Ok(()),
            removed => removed,
        }
    }
}

/// The permissions that the attribute `name` holds.
///
/// # Errors
///
/// `EIO` if they are broken; those of getxattr(2).
pub(crate) fn read(subject: &Subject<'_>, name: &CStr) -> nix::Result<Option<Permissions>> {
    match xattr::get(subject, name) {
        Ok(value) => Permissions::parse(&value).map(Some).ok_or(Errno::EIO),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::permissions::USER;

    #[test]
    fn set_id_bits_lie_on_disk_only_where_they_may() {
        let (file, folder, link) = (libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK);
        for (keeping, shown, holds, on_disk) in [
            (Keeping::OnDisk, file | 0o4755, false, 0o4755),
            (Keeping::WithoutSetId, file | 0o755, false, 0o755),
            (Keeping::WithoutSetId, file | 0o6755, true, 0o755),
            (Keeping::WithoutSetId, folder | 0o2775, false, 0o2775),
            (Keeping::Attribute(USER), file | 0o4755, true, 0o600),
            (Keeping::Attribute(USER), file | 0o644, true, 0o600),
            (Keeping::Attribute(USER), folder | 0o1777, true, 0o700),
            (Keeping::Attribute(USER), link | 0o777, false, 0o777),
        ] {
            assert_eq!(keeping.holds(shown), holds, "{keeping:?} {shown:o}");
            assert_eq!(keeping.on_disk(shown), on_disk, "{keeping:?} {shown:o}");
        }
    }
}
