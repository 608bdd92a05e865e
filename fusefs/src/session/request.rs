//! Requests: bytes → types. Every length is checked; nothing is copied.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::wire::{self, opcode, set};
use crate::inode::Ino;
use crate::sys::flags::GET_EXTENDED;
use crate::tree::{Asker, Changes, Time, Timestamp};

/// One request of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// What a reply refers to.
    pub(crate) unique: u64,
    /// The node that is meant; a directory where a name is.
    pub(crate) node: Ino,
    /// The `fsuid` of the process that asks, as the mount's user namespace numbers users.
    pub(crate) uid: u32,
    /// Its `fsgid`, likewise.
    pub(crate) gid: u32,
    /// What is asked.
    pub(crate) operation: Operation<'a>,
}

/// What the kernel asks; the node is that of the request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Init(Init),
    Lookup {
        name: &'a OsStr,
    },
    Forget {
        count: u64,
    },
    ForgetMany(Forgotten<'a>),
    Attr,
    Statx,
    SetAttr(Changes),
    ReadLink,
    Symlink {
        name: &'a OsStr,
        target: &'a OsStr,
    },
    MakeNode {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
        device: u32,
    },
    MakeFolder {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
    },
    Nameless {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a OsStr,
    },
    RemoveFolder {
        name: &'a OsStr,
    },
    Rename {
        name: &'a OsStr,
        to: Ino,
        to_name: &'a OsStr,
        flags: u32,
    },
    Link {
        of: Ino,
        name: &'a OsStr,
    },
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
        clears_set_id: bool,
    },
    Sync {
        data_only: bool,
    },
    SyncFolder,
    SyncAll,
    StatFs,
    List {
        cookie: u64,
        size: u32,
        with_metadata: bool,
    },
    SetXattr {
        name: &'a OsStr,
        value: &'a [u8],
        flags: u32,
        clears_set_gid: bool,
    },
    GetXattr {
        name: &'a OsStr,
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a OsStr,
    },
    Allocate {
        flags: u32,
        offset: u64,
        length: u64,
    },
    Seek {
        offset: u64,
        hole: bool,
    },
    Flags,
    ExtendedFlags,
    SetFlags {
        flags: u32,
    },
    CopyRange {
        from: u64,
        to_node: Ino,
        to: u64,
        length: u64,
        wide: bool,
    },
    /// Nothing to do: a file or directory is closed, the mount ends.
    Done,
    /// Nothing that we know or offer.
    Unknown,
}

impl Operation<'_> {
    /// Whether the kernel waits for an answer.
    pub(crate) fn wants_reply(&self) -> bool {
        !matches!(self, Self::Forget { .. } | Self::ForgetMany(_))
    }
}

/// What the kernel offers (`struct fuse_init_in`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) features: u32,
}

/// Bytes of one entry of [`Forgotten`] (`struct fuse_forget_one`).
const FORGOTTEN_SIZE: usize = 16;

/// Pairs of node id and number of references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forgotten<'a>(&'a [u8]);

impl Iterator for Forgotten<'_> {
    type Item = (Ino, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let mut fields = Fields(self.0);
        let forgotten = (Ino(fields.u64()?), fields.u64()?);
        self.0 = fields.0;
        Some(forgotten)
    }
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// There is not even a header: nobody can be answered.
    Header,
    /// The body does not fit its kind; this is whom to tell.
    Body { unique: u64, opcode: u32 },
}

/// Reads one request, as read(2) on the device returned it.
///
/// # Errors
///
/// [`Malformed`]; the kernel never sends such, but nothing may follow from it if something does.
pub(crate) fn decode(bytes: &[u8]) -> Result<Request<'_>, Malformed> {
    let mut fields = Fields(bytes);
    let header = Header::read(&mut fields).ok_or(Malformed::Header)?;
    let Header { unique, node, uid, gid, opcode, length } = header;
    let malformed = Malformed::Body { unique, opcode };
    if length != bytes.len() {
        return Err(malformed);
    }
    let operation = Operation::read(opcode, &mut fields).ok_or(malformed)?;
    Ok(Request { unique, node, uid, gid, operation })
}

impl Request<'_> {
    /// On whose behalf something is made.
    pub(crate) fn asker(&self, umask: u32) -> Asker {
        Asker { uid: self.uid, gid: self.gid, umask }
    }
}

struct Header {
    length: usize,
    opcode: u32,
    unique: u64,
    node: Ino,
    uid: u32,
    gid: u32,
}

impl Header {
    /// `struct fuse_in_header`. Its last eight bytes, the process id and the length of extensions that
    /// we never ask for, mean nothing to us.
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let length = usize::try_from(fields.u32()?).ok()?;
        let (opcode, unique, node) = (fields.u32()?, fields.u64()?, Ino(fields.u64()?));
        let (uid, gid, _rest) = (fields.u32()?, fields.u32()?, fields.u64()?);
        Some(Self { length, opcode, unique, node, uid, gid })
    }
}

impl<'a> Operation<'a> {
    #[expect(clippy::too_many_lines, reason = "a table: one entry for each kind of request")]
    fn read(opcode: u32, from: &mut Fields<'a>) -> Option<Self> {
        Some(match opcode {
            opcode::INIT => Self::Init(Init {
                major: from.u32()?,
                minor: from.u32()?,
                max_readahead: from.u32()?,
                features: from.u32()?,
            }),
            opcode::LOOKUP => Self::Lookup { name: from.name()? },
            opcode::FORGET => Self::Forget { count: from.u64()? },
            opcode::BATCH_FORGET => {
                let (count, _padding) = (usize::try_from(from.u32()?).ok()?, from.u32()?);
                Self::ForgetMany(Forgotten(from.bytes(count.checked_mul(FORGOTTEN_SIZE)?)?))
            }
            opcode::GETATTR => Self::Attr,
            opcode::STATX => Self::Statx,
            opcode::SETATTR => Self::SetAttr(changes(from)?),
            opcode::READLINK => Self::ReadLink,
            opcode::SYMLINK => Self::Symlink { name: from.name()?, target: from.name()? },
            opcode::MKNOD => {
                let (mode, device, umask, _padding) =
                    (from.u32()?, from.u32()?, from.u32()?, from.u32()?);
                Self::MakeNode { mode, device, umask, name: from.name()? }
            }
            opcode::MKDIR => {
                let (mode, umask) = (from.u32()?, from.u32()?);
                Self::MakeFolder { mode, umask, name: from.name()? }
            }
            opcode::TMPFILE => {
                Self::Nameless { flags: from.u32()?, mode: from.u32()?, umask: from.u32()? }
            }
            opcode::UNLINK => Self::Unlink { name: from.name()? },
            opcode::RMDIR => Self::RemoveFolder { name: from.name()? },
            opcode::RENAME => rename(Ino(from.u64()?), 0, from)?,
            opcode::RENAME2 => {
                let (to, flags, _padding) = (Ino(from.u64()?), from.u32()?, from.u32()?);
                rename(to, flags, from)?
            }
            opcode::LINK => Self::Link { of: Ino(from.u64()?), name: from.name()? },
            opcode::READ => {
                let (_handle, offset, size) = (from.u64()?, from.u64()?, from.u32()?);
                Self::Read { offset, size }
            }
            opcode::WRITE => write(from)?,
            opcode::FSYNC => {
                let (_handle, flags) = (from.u64()?, from.u32()?);
                Self::Sync { data_only: flags & wire::FSYNC_DATA_ONLY != 0 }
            }
            opcode::FSYNCDIR => Self::SyncFolder,
            opcode::SYNCFS => Self::SyncAll,
            opcode::STATFS => Self::StatFs,
            opcode::READDIR | opcode::READDIRPLUS => {
                let (_handle, cookie, size) = (from.u64()?, from.u64()?, from.u32()?);
                Self::List { cookie, size, with_metadata: opcode == opcode::READDIRPLUS }
            }
            opcode::SETXATTR => set_xattr(from)?,
            opcode::GETXATTR => {
                let (size, _padding) = (from.u32()?, from.u32()?);
                Self::GetXattr { size, name: from.name()? }
            }
            opcode::LISTXATTR => Self::ListXattr { size: from.u32()? },
            opcode::REMOVEXATTR => Self::RemoveXattr { name: from.name()? },
            opcode::FALLOCATE => {
                let (_handle, offset, length) = (from.u64()?, from.u64()?, from.u64()?);
                Self::Allocate { offset, length, flags: from.u32()? }
            }
            opcode::LSEEK => seek(from)?,
            opcode::IOCTL => ioctl(from)?,
            opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
                let (_handle, from_offset, to_node) = (from.u64()?, from.u64()?, Ino(from.u64()?));
                let (_handle, to, length) = (from.u64()?, from.u64()?, from.u64()?);
                let wide = opcode == opcode::COPY_FILE_RANGE_64;
                Self::CopyRange { from: from_offset, to_node, to, length, wide }
            }
            opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => Self::Done,
            _ => Self::Unknown,
        })
    }
}

fn rename<'a>(to: Ino, flags: u32, from: &mut Fields<'a>) -> Option<Operation<'a>> {
    Some(Operation::Rename { to, flags, name: from.name()?, to_name: from.name()? })
}

fn write<'a>(from: &mut Fields<'a>) -> Option<Operation<'a>> {
    let (_handle, offset, size, flags) = (from.u64()?, from.u64()?, from.u32()?, from.u32()?);
    let (_lock_owner, _open_flags_and_padding) = (from.u64()?, from.u64()?);
    let data = from.bytes(usize::try_from(size).ok()?)?;
    Some(Operation::Write { offset, data, clears_set_id: flags & wire::WRITE_KILL_SUIDGID != 0 })
}

fn set_xattr<'a>(from: &mut Fields<'a>) -> Option<Operation<'a>> {
    let (size, flags, more, _padding) = (from.u32()?, from.u32()?, from.u32()?, from.u32()?);
    let (name, value) = (from.name()?, from.bytes(usize::try_from(size).ok()?)?);
    let clears_set_gid = more & wire::SETXATTR_ACL_KILL_SGID != 0;
    Some(Operation::SetXattr { name, value, flags, clears_set_gid })
}

fn seek<'a>(from: &mut Fields<'a>) -> Option<Operation<'a>> {
    let (_handle, offset, whence) = (from.u64()?, from.u64()?, from.u32()?);
    match i32::try_from(whence).ok()? {
        libc::SEEK_HOLE => Some(Operation::Seek { offset, hole: true }),
        libc::SEEK_DATA => Some(Operation::Seek { offset, hole: false }),
        // The kernel does all others by itself.
        _ => Some(Operation::Unknown),
    }
}

/// Of all that can be asked of devices, the flags of files.
fn ioctl<'a>(from: &mut Fields<'a>) -> Option<Operation<'a>> {
    let (_handle, _flags, command) = (from.u64()?, from.u32()?, from.u32()?);
    let (_argument, _in_size, _out_size) = (from.u64()?, from.u32()?, from.u32()?);
    Some(match libc::Ioctl::from(command) {
        libc::FS_IOC_GETFLAGS => Operation::Flags,
        GET_EXTENDED => Operation::ExtendedFlags,
        libc::FS_IOC_SETFLAGS => Operation::SetFlags { flags: from.u32()? },
        _ => Operation::Unknown,
    })
}

/// `struct fuse_setattr_in`.
fn changes(from: &mut Fields<'_>) -> Option<Changes> {
    let (valid, _padding, _handle, size) = (from.u32()?, from.u32()?, from.u64()?, from.u64()?);
    let (_lock_owner, atime, mtime, _ctime) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
    let (atime_nsec, mtime_nsec, _ctime_nsec) = (from.u32()?, from.u32()?, from.u32()?);
    let (mode, _unused, uid, gid, _unused2) =
        (from.u32()?, from.u32()?, from.u32()?, from.u32()?, from.u32()?);
    let has = |bit| valid & bit != 0;
    let time = |bit, now, seconds: u64, nanoseconds| {
        let at = Time::At(Timestamp { seconds: seconds.cast_signed(), nanoseconds });
        has(bit).then_some(if has(now) { Time::Now } else { at })
    };
    Some(Changes {
        mode: has(set::MODE).then_some(mode),
        uid: has(set::UID).then_some(uid),
        gid: has(set::GID).then_some(gid),
        size: has(set::SIZE).then_some(size),
        accessed: time(set::ATIME, set::ATIME_NOW, atime, atime_nsec),
        modified: time(set::MTIME, set::MTIME_NOW, mtime, mtime_nsec),
        clears_set_id: has(set::KILL_SUIDGID),
    })
}

/// What is left of the bytes, taken from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A string up to its NUL byte. Whether it can be a name is the tree's to say.
    fn name(&mut self) -> Option<&'a OsStr> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let name = self.bytes(end)?;
        self.bytes(1)?;
        Some(OsStr::from_bytes(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of `struct fuse_in_header`.
    const HEADER: usize = 40;

    /// A request with this body, its length right.
    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = Vec::new();
        for number in [length, opcode] {
            bytes.extend(number.to_ne_bytes());
        }
        for number in [77_u64, 5] {
            bytes.extend(number.to_ne_bytes());
        }
        for number in [1000_u32, 100, 4321, 0] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(body);
        bytes
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    /// Requests of every form, and what they mean.
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn table() -> Vec<(u32, Vec<u8>, Operation<'static>)> {
        let name = |name: &'static str| OsStr::new(name);
        let with = |head: &[u32], tail: &[u8]| [numbers(head), tail.to_vec()].concat();
        vec![
            (opcode::LOOKUP, b"name\0".to_vec(), Operation::Lookup { name: name("name") }),
            (opcode::FORGET, numbers(&[3, 0]), Operation::Forget { count: 3 }),
            (
                opcode::BATCH_FORGET,
                numbers(&[1, 0, 9, 0, 2, 0]),
                Operation::ForgetMany(Forgotten(&[9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])),
            ),
            (
                opcode::MKNOD,
                with(&[0o100_644, 0, 0o22, 0], b"f\0"),
                Operation::MakeNode { name: name("f"), mode: 0o100_644, umask: 0o22, device: 0 },
            ),
            (
                opcode::RENAME2,
                with(&[8, 0, 2, 0], b"a\0b\0"),
                Operation::Rename { name: name("a"), to: Ino(8), to_name: name("b"), flags: 2 },
            ),
            (
                opcode::WRITE,
                with(&[0, 0, 4096, 0, 3, 4, 0, 0, 0, 0], b"abc"),
                Operation::Write { offset: 4096, data: b"abc", clears_set_id: true },
            ),
            (
                opcode::SETXATTR,
                with(&[2, 1, 1, 0], b"user.a\0xy"),
                Operation::SetXattr {
                    name: name("user.a"),
                    value: b"xy",
                    flags: 1,
                    clears_set_gid: true,
                },
            ),
            (
                opcode::SYMLINK,
                b"name\0target\0".to_vec(),
                Operation::Symlink { name: name("name"), target: name("target") },
            ),
            (
                opcode::IOCTL,
                numbers(&[0, 0, 0, 0x4008_6602, 0, 0, 4, 0, 16]),
                Operation::SetFlags { flags: 16 },
            ),
            (
                opcode::COPY_FILE_RANGE,
                numbers(&[0, 0, 1, 0, 6, 0, 0, 0, 2, 0, 3, 0, 0, 0]),
                Operation::CopyRange { from: 1, to_node: Ino(6), to: 2, length: 3, wide: false },
            ),
            (
                opcode::LSEEK,
                numbers(&[0, 0, 9, 0, 4, 0]),
                Operation::Seek { offset: 9, hole: true },
            ),
            (999, Vec::new(), Operation::Unknown),
        ]
    }

    #[test]
    fn requests_are_understood() {
        for (opcode, body, expected) in table() {
            let bytes = request(opcode, &body);
            let decoded = decode(&bytes).unwrap();
            assert_eq!(decoded.operation, expected);
            assert_eq!((decoded.unique, decoded.node), (77, Ino(5)));
            assert_eq!((decoded.uid, decoded.gid), (1000, 100));
        }
    }

    #[test]
    fn a_shortened_request_is_refused_and_its_sender_known() {
        for (opcode, body, _) in table().iter().filter(|(opcode, ..)| *opcode != 999) {
            let whole = request(*opcode, body);
            for length in 0..whole.len() {
                let mut cut = whole[..length].to_vec();
                let wrong_length = decode(&cut).unwrap_err();
                if let Some(head) = cut.get_mut(..4) {
                    head.copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
                }
                let expected = if length < HEADER {
                    Malformed::Header
                } else {
                    Malformed::Body { unique: 77, opcode: *opcode }
                };
                assert_eq!(wrong_length, expected);
                let lenient = *opcode == opcode::LSEEK || *opcode == opcode::COPY_FILE_RANGE;
                if !lenient {
                    assert_eq!(decode(&cut), Err(expected), "{opcode} cut to {length}");
                }
            }
        }
    }

    #[test]
    fn changes_are_those_that_count() {
        let fields = |valid| {
            let mut body = numbers(&[valid, 0, 0, 0, 10, 0, 0, 0]);
            for seconds in [-7_i64, 8, 9] {
                body.extend(seconds.to_ne_bytes());
            }
            body.extend(numbers(&[1, 2, 3, 0o4755, 0, 20, 30, 0]));
            match decode(&request(opcode::SETATTR, &body)).unwrap().operation {
                Operation::SetAttr(changes) => changes,
                other => panic!("{other:?}"),
            }
        };
        let at = |seconds, nanoseconds| Some(Time::At(Timestamp { seconds, nanoseconds }));
        assert_eq!(fields(0), Changes::default());
        assert_eq!(fields(set::MODE), Changes { mode: Some(0o4755), ..Changes::default() });
        assert_eq!(
            fields(set::UID | set::GID | set::SIZE | set::KILL_SUIDGID),
            Changes {
                uid: Some(20),
                gid: Some(30),
                size: Some(10),
                clears_set_id: true,
                ..Changes::default()
            }
        );
        assert_eq!(
            fields(set::ATIME | set::MTIME),
            Changes { accessed: at(-7, 1), modified: at(8, 2), ..Changes::default() }
        );
        let now = fields(set::ATIME | set::ATIME_NOW | set::MTIME_NOW);
        assert_eq!((now.accessed, now.modified), (Some(Time::Now), None));
    }

    /// Mutated requests: nothing panics, and nothing is read from beyond the end.
    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % u64::try_from(limit).unwrap()).unwrap()
        };
        let table = table();
        for _ in 0..200_000 {
            let (opcode, body, _) = &table[below(table.len())];
            let mut bytes = request(*opcode, body);
            for _ in 0..=below(4) {
                match below(4) {
                    0 => bytes.truncate(below(bytes.len() + 1)),
                    1 => bytes.push(u8::try_from(below(256)).unwrap()),
                    2 => bytes.extend_from_within(..below(bytes.len() + 1)),
                    _ if bytes.is_empty() => {}
                    _ => {
                        let at = below(bytes.len());
                        bytes[at] = u8::try_from(below(256)).unwrap();
                    }
                }
            }
            if below(2) == 0 && bytes.len() >= 8 {
                let length = u32::try_from(bytes.len()).unwrap();
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
                bytes[4..8].copy_from_slice(&u32::try_from(below(60)).unwrap().to_ne_bytes());
            }
            if let Ok(Request { operation: Operation::ForgetMany(many), .. }) = decode(&bytes) {
                assert!(many.count() <= bytes.len() / FORGOTTEN_SIZE);
            }
        }
    }
}
