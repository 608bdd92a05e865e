//! Metadata as the merged tree shows it.

use nix::sys::stat::{FileStat, SFlag};

use super::Ino;
use crate::format::permissions::Permissions;
use crate::format::whiteout;

/// A point in time: seconds since 1970, negative before, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds, less than 10⁹.
    pub nanoseconds: u32,
}

impl Timestamp {
    fn new(seconds: i64, nanoseconds: i64) -> Self {
        Self { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) }
    }
}

/// The metadata of one file, as stat(2) gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Node id.
    pub ino: Ino,
    /// Inode number.
    pub number: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub accessed: Timestamp,
    /// Last change of the contents.
    pub modified: Timestamp,
    /// Last change of the metadata.
    pub changed: Timestamp,
    /// Type and permissions (`st_mode`).
    pub mode: u32,
    /// Number of names; 1 for a directory merged from several layers, which means "unknown".
    pub links: u32,
    /// Owner, as the server's user namespace numbers users.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit form.
    pub device: u32,
    /// Best size of a read or write, in bytes.
    pub block_size: u32,
}

impl Attr {
    /// Takes over what a layer's file system says.
    pub(crate) fn new(ino: Ino, number: u64, stat: &FileStat) -> Self {
        Self {
            ino,
            number,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            accessed: Timestamp::new(stat.st_atime, stat.st_atime_nsec),
            modified: Timestamp::new(stat.st_mtime, stat.st_mtime_nsec),
            changed: Timestamp::new(stat.st_ctime, stat.st_ctime_nsec),
            mode: stat.st_mode,
            links: saturate(stat.st_nlink),
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: encode_device(stat.st_rdev),
            block_size: u32::try_from(stat.st_blksize).unwrap_or(4096),
        }
    }

    /// Owner and permissions.
    pub(crate) fn permissions(&self) -> Permissions {
        Permissions { uid: self.uid, gid: self.gid, mode: self.mode & 0o7777 }
    }

    /// Shows other permissions than those on disk.
    pub(crate) fn show(&mut self, permissions: Permissions) {
        self.uid = permissions.uid;
        self.gid = permissions.gid;
        self.mode = self.mode & SFlag::S_IFMT.bits() | permissions.mode;
    }

    /// Shows a regular file as what it stands for: the whiteout of an overlay inside.
    pub(crate) fn show_as_whiteout(&mut self) {
        self.mode = libc::S_IFCHR | self.mode & 0o7777;
        (self.size, self.blocks, self.device) = (0, 0, 0);
    }

    /// Whether this is the whiteout of an overlay inside, a character device 0:0: on disk a regular file.
    /// Our own are never shown.
    pub(crate) fn is_whiteout(&self) -> bool {
        whiteout::is_whiteout(self.mode, u64::from(self.device))
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
    }

    /// Whether this is a regular file.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
    }
}

fn saturate(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The 32-bit form of a device number on the FUSE protocol.
///
/// Source: Linux `include/linux/kdev_t.h`, `new_encode_dev()`.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The reverse of [`encode_device`].
pub(crate) fn decode_device(device: u32) -> u64 {
    let major = (device & 0xf_ff00) >> 8;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    libc::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_protocol() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (259, 300), (4095, 1_048_575)] {
            let device = libc::makedev(major, minor);
            assert_eq!(decode_device(encode_device(device)), device, "{major}:{minor}");
        }
    }
}
