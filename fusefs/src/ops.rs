//! FUSE requests: decode, ask the tree, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno as WireErrno, FileAttr, FileHandle, FileType,
    Filesystem, Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags,
    RenameFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use nix::dir::Type;
use nix::errno::Errno;

use crate::awake::Awake;
use crate::inode::Ino;
use crate::layer::type_of_mode;
use crate::tree::{
    Asker, Attr, Changes, Exchange, Kind, Listed, Time, Timestamp, Tree, Wanted, Written,
};

/// How long the kernel may believe us: nobody else changes the tree.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Node ids are never used twice, so that there is only one generation of each.
const GENERATION: Generation = Generation(0);

thread_local! {
    /// Where a thread reads file contents to before it sends them.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How to tell the kernel something unasked; empty until the session exists.
pub(crate) type Messenger = Arc<OnceLock<Notifier>>;

/// Answers the kernel's requests from a tree.
#[derive(Debug)]
pub(crate) struct Server {
    tree: Tree,
    writeback: bool,
    messenger: Messenger,
    awake: Awake,
}

impl Server {
    pub(crate) fn new(tree: Tree, writeback: bool, messenger: Messenger) -> Self {
        Self { tree, writeback, messenger, awake: Awake::start() }
    }

    /// The tree, for the request that has just come.
    fn tree(&self) -> &Tree {
        self.awake.note_request();
        &self.tree
    }

    /// Makes the kernel ask for the permissions again where a write has changed them: it would go
    /// on honouring set-id bits that are gone, for as long as it may believe us.
    fn note(&self, node: INodeNo, written: nix::Result<Written>) -> nix::Result<usize> {
        let written = written?;
        if written.cleared_set_id
            && let Some(notifier) = self.messenger.get()
            && let Err(error) = notifier.inval_inode(node, ATTRIBUTES_ONLY, 0)
        {
            log::warn!("set-id bits are gone, but the kernel cannot be told: {error}");
        }
        Ok(written.bytes)
    }
}

/// As the offset of an invalidation: no contents.
const ATTRIBUTES_ONLY: i64 = -1;

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        crate::serve::negotiate(config, self.writeback)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree().lookup(ino(parent), name) {
            Ok(attr) => reply.entry(&FOREVER, &to_wire(&attr), GENERATION),
            // Node 0 is how the kernel is told to remember that there is nothing.
            Err(Errno::ENOENT) => reply.entry(&FOREVER, &NOTHING, GENERATION),
            Err(errno) => reply.error(failed("lookup", errno)),
        }
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        self.tree().forget(ino(node), count);
    }

    fn getattr(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply_attr("getattr", self.tree().attr(ino(node)), reply);
    }

    fn setattr(
        &self,
        _request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _checked: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (accessed, modified) = (accessed.map(from_wire_time), modified.map(from_wire_time));
        let changes = Changes { mode, uid, gid, size, accessed, modified };
        reply_attr("setattr", self.tree().set_attr(ino(node), &changes), reply);
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self.tree().read_link(ino(node)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(failed("readlink", errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let what = match type_of_mode(mode) {
            Type::File => Kind::File,
            _ => Kind::Node { kind: mode, device },
        };
        let made = self.tree().make(ino(parent), name, what, mode, &asker(request, umask));
        reply_entry("mknod", made, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.tree().make(ino(parent), name, Kind::Folder, mode, &asker(request, umask));
        reply_entry("mkdir", made, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let what = Kind::Symlink(target.as_os_str());
        let made = self.tree().make(ino(parent), name, what, 0o777, &asker(request, 0));
        reply_entry("symlink", made, reply);
    }

    fn link(
        &self,
        _request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply_entry("link", self.tree().link(ino(node), ino(parent), name), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("unlink", self.tree().unlink(ino(parent), name), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("rmdir", self.tree().remove_folder(ino(parent), name), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = exchange(flags).and_then(|exchange| {
            self.tree().rename(ino(parent), name, ino(new_parent), new_name, exchange)
        });
        reply_empty("rename", done, reply);
    }

    /// Files need no opening: the kernel is told so once and sends no OPEN, CREATE or RELEASE for
    /// regular files again.
    fn open(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(WireErrno::ENOSYS);
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: fuser::ReplyCreate,
    ) {
        reply.error(WireErrno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let room = buffer.get_mut(..size).unwrap_or_default();
            match self.tree().read(ino(node), offset, room) {
                Ok(filled) => reply.data(room.get(..filled).unwrap_or_default()),
                Err(errno) => reply.error(failed("read", errno)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _open_flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let clears_set_id = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let written = self.tree().write(ino(node), offset, data, clears_set_id);
        reply_written("write", self.note(node, written), reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(WireErrno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty("fsync", self.tree().sync(ino(node), data_only), reply);
    }

    /// Listings keep their place by cookies that survive any change, so that they need no state.
    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(WireErrno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.tree().list(ino(node), offset, Wanted::Names, |line: &Listed<'_>| {
            !reply.add(INodeNo(line.ino.0), line.cookie, wire_kind(line.kind), line.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(failed("readdir", errno)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.tree().list(ino(node), offset, Wanted::Metadata, |line| {
            line.attr.is_some_and(|attr| {
                let (name, wire) = (line.name, to_wire(attr));
                !reply.add(INodeNo(line.ino.0), line.cookie, name, &FOREVER, &wire, GENERATION)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(failed("readdirplus", errno)),
        }
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty("fsyncdir", self.tree().sync_folder(ino(node)), reply);
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        match self.tree().stat_fs() {
            Ok(stat) => reply.statfs(
                stat.blocks(),
                stat.blocks_free(),
                stat.blocks_available(),
                stat.files(),
                stat.files_free(),
                u32::try_from(stat.block_size()).unwrap_or(4096),
                u32::try_from(stat.name_max()).unwrap_or(255),
                u32::try_from(stat.fragment_size()).unwrap_or(4096),
            ),
            Err(errno) => reply.error(failed("statfs", errno)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply_empty("setxattr", self.tree().set_xattr(ino(node), name, value, flags), reply);
    }

    fn getxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        reply_xattr("getxattr", self.tree().get_xattr(ino(node), name), size, reply);
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr("listxattr", self.tree().list_xattr(ino(node)), size, reply);
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty("removexattr", self.tree().remove_xattr(ino(node), name), reply);
    }

    fn fallocate(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.tree().allocate(ino(node), mode, offset, length);
        reply_empty("fallocate", self.note(node, done).map(drop), reply);
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.tree().seek(ino(node), offset, whence == libc::SEEK_HOLE) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(failed("lseek", errno)),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        source: INodeNo,
        _source_handle: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _target_handle: FileHandle,
        target_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((ino(source), source_offset), (ino(target), target_offset));
        let copied = self.tree().copy_range(from, to, length);
        reply_written("copy_file_range", self.note(target, copied), reply);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(WireErrno::ENOTTY);
    }
}

/// The reply to a lookup that found nothing, for the kernel to remember.
const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

fn ino(node: INodeNo) -> Ino {
    Ino(node.0)
}

fn asker(request: &Request, umask: u32) -> Asker {
    Asker { uid: request.uid(), gid: request.gid(), umask }
}

/// What a rename leaves behind. The kernel refuses other flags, and `RENAME_EXCHANGE` beside them.
fn exchange(flags: RenameFlags) -> nix::Result<Exchange> {
    let (no_replace, whiteout) = (RenameFlags::RENAME_NOREPLACE, RenameFlags::RENAME_WHITEOUT);
    match flags {
        RenameFlags::RENAME_EXCHANGE => Ok(Exchange::Swap),
        flags if flags.is_empty() => Ok(Exchange::Replace),
        flags if flags == no_replace => Ok(Exchange::Refuse),
        flags if flags == whiteout => Ok(Exchange::Whiteout),
        flags if flags == no_replace | whiteout => Ok(Exchange::RefuseOrWhiteout),
        _ => Err(Errno::EINVAL),
    }
}

/// The error for the kernel. What the caller will hardly expect is worth a line.
fn failed(operation: &str, errno: Errno) -> WireErrno {
    if errno == Errno::EIO {
        log::warn!("{operation}: {errno}");
    } else {
        log::debug!("{operation}: {errno}");
    }
    WireErrno::from_i32(errno as i32)
}

fn reply_entry(operation: &str, made: nix::Result<Attr>, reply: ReplyEntry) {
    match made {
        Ok(attr) => reply.entry(&FOREVER, &to_wire(&attr), GENERATION),
        Err(errno) => reply.error(failed(operation, errno)),
    }
}

fn reply_attr(operation: &str, attr: nix::Result<Attr>, reply: ReplyAttr) {
    match attr {
        Ok(attr) => reply.attr(&FOREVER, &to_wire(&attr)),
        Err(errno) => reply.error(failed(operation, errno)),
    }
}

fn reply_empty(operation: &str, done: nix::Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(failed(operation, errno)),
    }
}

fn reply_written(operation: &str, written: nix::Result<usize>, reply: ReplyWrite) {
    match written {
        Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(errno) => reply.error(failed(operation, errno)),
    }
}

/// Size 0 asks how long the value is.
fn reply_xattr(operation: &str, value: nix::Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    let value = match value {
        Ok(value) => value,
        Err(errno) => return reply.error(failed(operation, errno)),
    };
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(length);
    } else if length > size {
        reply.error(WireErrno::ERANGE);
    } else {
        reply.data(&value);
    }
}

fn to_wire(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_wire_time(attr.accessed),
        mtime: to_wire_time(attr.modified),
        ctime: to_wire_time(attr.changed),
        crtime: UNIX_EPOCH,
        kind: wire_kind(type_of_mode(attr.mode)),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device,
        blksize: attr.block_size,
        flags: 0,
    }
}

fn wire_kind(kind: Type) -> FileType {
    match kind {
        Type::Fifo => FileType::NamedPipe,
        Type::CharacterDevice => FileType::CharDevice,
        Type::Directory => FileType::Directory,
        Type::BlockDevice => FileType::BlockDevice,
        Type::File => FileType::RegularFile,
        Type::Symlink => FileType::Symlink,
        Type::Socket => FileType::Socket,
    }
}

fn to_wire_time(time: Timestamp) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(time.nanoseconds));
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    if time.seconds < 0 {
        UNIX_EPOCH - seconds + nanoseconds
    } else {
        UNIX_EPOCH + seconds + nanoseconds
    }
}

/// The reverse of what the library does to the request: for times before 1970 it takes the
/// nanoseconds off instead of adding them, so that both parts come back by taking them apart.
fn from_wire_time(time: TimeOrNow) -> Time {
    let time = match time {
        TimeOrNow::Now => return Time::Now,
        TimeOrNow::SpecificTime(time) => time,
    };
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (whole(after), after.subsec_nanos()),
        Err(before) => (-whole(before.duration()), before.duration().subsec_nanos()),
    };
    Time::At(Timestamp { seconds, nanoseconds })
}
