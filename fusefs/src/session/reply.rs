//! Replies: types → bytes, in one buffer that is used again for each request.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::dir::Type;
use nix::errno::Errno;
use nix::sys::statvfs::Statvfs;

use super::wire::{NOTIFY_INVAL_INODE, REPLY_HEADER};
use crate::inode::Ino;
use crate::inode::attr::decode_device;
use crate::tree::{Attr, Listed, Timestamp};

/// How long the kernel may believe a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity(Duration);

impl Validity {
    /// Until it is told otherwise: 136 years.
    pub(crate) const FOREVER: Self = Self(Duration::from_secs(u32::MAX as u64));

    /// For this long.
    pub(crate) fn new(time: Duration) -> Self {
        Self(time.min(Self::FOREVER.0))
    }
}

/// A reply being written: a header, which is filled in at the end, and a body.
#[derive(Debug)]
pub(crate) struct Reply {
    /// As long as the longest reply so far.
    buffer: Vec<u8>,
    /// Where the reply ends.
    end: usize,
    validity: Validity,
}

impl Reply {
    /// An empty reply. What it says is valid for `validity`.
    pub(crate) fn new(validity: Validity) -> Self {
        Self { buffer: vec![0; REPLY_HEADER], end: REPLY_HEADER, validity }
    }

    /// Forgets the body.
    pub(crate) fn clear(&mut self) {
        self.end = REPLY_HEADER;
    }

    /// The whole reply to the request `unique`; with an error, without the body.
    pub(crate) fn finish(&mut self, unique: u64, done: nix::Result<()>) -> &[u8] {
        let error = match done {
            Ok(()) => 0,
            Err(errno) => {
                self.clear();
                -(errno as i32)
            }
        };
        self.header(unique, error)
    }

    fn header(&mut self, unique: u64, error: i32) -> &[u8] {
        let end = self.end;
        let length = u32::try_from(end).unwrap_or(u32::MAX);
        self.end = 0;
        self.u32(length);
        self.put(&error.to_ne_bytes());
        self.u64(unique);
        self.end = end;
        self.buffer.get(..end).unwrap_or_default()
    }

    /// Lets `fill` write up to `size` bytes of the body; it says how many it has written.
    pub(crate) fn fill(
        &mut self,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> nix::Result<usize>,
    ) -> nix::Result<()> {
        let room = self.room(size);
        let filled = fill(room)?;
        self.end += filled.min(size);
        Ok(())
    }

    fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.end + size;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer.get_mut(self.end..end).unwrap_or_default()
    }

    /// Adds `bytes` to the body.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.end += bytes.len();
    }

    pub(crate) fn u16(&mut self, number: u16) {
        self.put(&number.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.put(&number.to_ne_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.put(&number.to_ne_bytes());
    }

    fn zeros(&mut self, count: usize) {
        self.room(count).fill(0);
        self.end += count;
    }

    /// A node that was looked up or made (`struct fuse_entry_out`); its id is never used again, so
    /// that there is only one generation of each.
    pub(crate) fn entry(&mut self, attr: &Attr) {
        const GENERATION: u64 = 0;
        self.u64(attr.ino.0);
        self.u64(GENERATION);
        let Validity(valid) = self.validity;
        self.u64(valid.as_secs());
        self.u64(valid.as_secs());
        self.u32(valid.subsec_nanos());
        self.u32(valid.subsec_nanos());
        self.fuse_attr(attr);
    }

    /// There is nothing: node 0 is how the kernel is told to remember that.
    pub(crate) fn nothing(&mut self) {
        self.entry(&Attr::default());
    }

    /// Metadata (`struct fuse_attr_out`).
    pub(crate) fn attr(&mut self, attr: &Attr) {
        self.valid();
        self.fuse_attr(attr);
    }

    /// A file that is open from the start: an entry and `struct fuse_open_out`, without a handle.
    pub(crate) fn opened(&mut self, attr: &Attr) {
        self.entry(attr);
        self.zeros(16);
    }

    fn valid(&mut self) {
        let Validity(valid) = self.validity;
        self.u64(valid.as_secs());
        self.u32(valid.subsec_nanos());
        self.u32(0);
    }

    /// `struct fuse_attr`.
    fn fuse_attr(&mut self, attr: &Attr) {
        let times = [attr.accessed, attr.modified, attr.changed];
        for number in [attr.number, attr.size, attr.blocks] {
            self.u64(number);
        }
        for time in times {
            self.u64(time.seconds.cast_unsigned());
        }
        for time in times {
            self.u32(time.nanoseconds);
        }
        let Attr { mode, links, uid, gid, device, block_size, .. } = *attr;
        for number in [mode, links, uid, gid, device, block_size, 0] {
            self.u32(number);
        }
    }

    /// Metadata with the time of birth, if the layer's file system knows it (`struct
    /// fuse_statx_out`).
    pub(crate) fn statx(&mut self, attr: &Attr, born: Option<Timestamp>) {
        self.valid();
        self.zeros(16);
        let born_bit = if born.is_some() { libc::STATX_BTIME } else { 0 };
        self.u32(libc::STATX_BASIC_STATS | born_bit);
        self.u32(attr.block_size);
        self.u64(0);
        for number in [attr.links, attr.uid, attr.gid] {
            self.u32(number);
        }
        self.u16(u16::try_from(attr.mode).unwrap_or(0));
        self.u16(0);
        for number in [attr.number, attr.size, attr.blocks, 0] {
            self.u64(number);
        }
        for time in [attr.accessed, born.unwrap_or_default(), attr.changed, attr.modified] {
            self.u64(time.seconds.cast_unsigned());
            self.u32(time.nanoseconds);
            self.u32(0);
        }
        let device = decode_device(attr.device);
        for number in [libc::major(device), libc::minor(device), 0, 0] {
            self.u32(number);
        }
        self.zeros(14 * size_of::<u64>());
    }

    /// Adds a line to a listing, with the metadata if it has some, unless the body would become
    /// longer than `size`. `false` if there was no room.
    pub(crate) fn line(&mut self, line: &Listed<'_>, size: usize) -> bool {
        let name = line.name.as_bytes();
        let head = if line.attr.is_some() { DIRENTPLUS } else { DIRENT };
        let length = (head + name.len()).next_multiple_of(size_of::<u64>());
        if self.end - REPLY_HEADER + length > size {
            return false;
        }
        if let Some(attr) = line.attr {
            self.entry(attr);
        }
        self.u64(line.number);
        self.u64(line.cookie);
        self.u32(u32::try_from(name.len()).unwrap_or(0));
        self.u32(type_number(line.kind));
        self.put(name);
        self.zeros(length - head - name.len());
        true
    }

    /// `struct fuse_statfs_out`.
    pub(crate) fn stat_fs(&mut self, stat: &Statvfs) {
        for number in [
            stat.blocks(),
            stat.blocks_free(),
            stat.blocks_available(),
            stat.files(),
            stat.files_free(),
        ] {
            self.u64(number);
        }
        for number in [stat.block_size(), stat.name_max(), stat.fragment_size()] {
            self.u32(u32::try_from(number).unwrap_or(u32::MAX));
        }
        self.zeros(7 * size_of::<u32>());
    }

    /// A number of bytes written (`struct fuse_write_out`, `struct fuse_getxattr_out`).
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
        self.u32(0);
    }

    /// The answer to a question of devices, with what it returned (`struct fuse_ioctl_out`).
    pub(crate) fn ioctl(&mut self, returned: &[u8]) {
        self.zeros(16);
        self.put(returned);
    }

    /// An attribute or a list of them. Size 0 asks how long it is.
    ///
    /// # Errors
    ///
    /// `ERANGE` if it is longer than `size`.
    pub(crate) fn xattr(&mut self, value: &[u8], size: u32) -> nix::Result<()> {
        match usize::try_from(size) {
            Ok(0) => self.count(value.len()),
            Ok(size) if value.len() <= size => self.put(value),
            _ => return Err(Errno::ERANGE),
        }
        Ok(())
    }
}

/// The message, which nobody asked for, that what the kernel knows of the metadata of `node` is out
/// of date (`struct fuse_notify_inval_inode_out`).
pub(crate) fn forget_attributes(node: Ino) -> Vec<u8> {
    /// As the offset of the contents to forget: none.
    const NO_CONTENTS: i64 = -1;
    let mut message = Reply::new(Validity::FOREVER);
    message.u64(node.0);
    message.u64(NO_CONTENTS.cast_unsigned());
    message.u64(0);
    message.header(0, NOTIFY_INVAL_INODE.cast_signed()).to_vec()
}

/// Bytes of a line of a listing before its name (`FUSE_NAME_OFFSET`).
const DIRENT: usize = 24;
/// The same with metadata (`FUSE_NAME_OFFSET_DIRENTPLUS`).
const DIRENTPLUS: usize = 128 + DIRENT;

/// A type as in a directory entry (`DT_*`).
fn type_number(kind: Type) -> u32 {
    u32::from(match kind {
        Type::Fifo => libc::DT_FIFO,
        Type::CharacterDevice => libc::DT_CHR,
        Type::Directory => libc::DT_DIR,
        Type::BlockDevice => libc::DT_BLK,
        Type::File => libc::DT_REG,
        Type::Symlink => libc::DT_LNK,
        Type::Socket => libc::DT_SOCK,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn reply() -> Reply {
        Reply::new(Validity::FOREVER)
    }

    /// The length that the kernel wants of each body (`sizeof` in `fuse.h`).
    #[test]
    fn bodies_have_the_kernels_lengths() {
        let attr = Attr::default();
        let length = |write: &dyn Fn(&mut Reply)| {
            let mut reply = reply();
            write(&mut reply);
            reply.finish(1, Ok(())).len() - REPLY_HEADER
        };
        assert_eq!(length(&|reply| reply.entry(&attr)), 128);
        assert_eq!(length(&|reply| reply.attr(&attr)), 104);
        assert_eq!(length(&|reply| reply.opened(&attr)), 144);
        assert_eq!(length(&|reply| reply.statx(&attr, None)), 288);
        assert_eq!(length(&|reply| reply.count(1)), 8);
        let stat = nix::sys::statvfs::statvfs("/").unwrap();
        assert_eq!(length(&|reply| reply.stat_fs(&stat)), 80);
    }

    #[test]
    fn an_error_has_no_body() {
        let mut reply = reply();
        reply.put(b"half of something");
        let bytes = reply.finish(0x0102, Err(Errno::ENOSPC)).to_vec();
        let expected: Vec<u8> =
            [16_u32.to_ne_bytes(), (-libc::ENOSPC).to_ne_bytes(), 0x0102_u32.to_ne_bytes(), [0; 4]]
                .concat();
        assert_eq!(bytes, expected);
        reply.clear();
        reply.put(b"ok");
        assert_eq!(reply.finish(1, Ok(())).len(), REPLY_HEADER + 2, "the buffer is used again");
    }

    #[test]
    fn a_listing_ends_where_there_is_no_room() {
        let line = Listed {
            name: OsStr::new("five5"),
            cookie: 3,
            ino: Ino(9),
            number: 9,
            kind: Type::File,
            attr: None,
        };
        let mut reply = reply();
        assert!(!reply.line(&line, 31), "24 bytes and 5 of the name, rounded up, are 32");
        assert!(reply.line(&line, 64));
        assert!(reply.line(&line, 64));
        assert!(!reply.line(&line, 64));
        assert_eq!(reply.finish(1, Ok(())).len(), REPLY_HEADER + 64);
        let attr = Attr::default();
        let with_metadata = Listed { attr: Some(&attr), ..line };
        let mut reply = self::reply();
        assert!(!reply.line(&with_metadata, 159));
        assert!(reply.line(&with_metadata, 160));
    }

    #[test]
    fn attributes_fit_or_are_refused() {
        let mut reply = reply();
        assert_eq!(reply.xattr(b"value", 4), Err(Errno::ERANGE));
        assert_eq!(reply.xattr(b"value", 5), Ok(()));
        assert_eq!(reply.finish(1, Ok(())).len(), REPLY_HEADER + 5);
        reply.clear();
        reply.xattr(b"value", 0).unwrap();
        assert_eq!(reply.finish(1, Ok(())).get(REPLY_HEADER), Some(&5));
    }
}
