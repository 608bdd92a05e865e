//! The numbers of the FUSE protocol, as far as this server uses them.
//!
//! Source: Linux `include/uapi/linux/fuse.h`.

/// The protocol spoken here; both sides use what the older of them knows.
pub(crate) const MAJOR: u32 = 7;
/// With [`MAJOR`]: the newest minor version whose requests are understood.
pub(crate) const MINOR: u32 = 45;

/// Bytes of the header of every reply (`struct fuse_out_header`).
pub(crate) const REPLY_HEADER: usize = 16;
/// Bytes that a buffer needs beyond the largest write: headers, and a page for good measure, as the
/// kernel refuses to hand requests to smaller ones (`fuse_dev_do_read()`).
pub(crate) const WRITE_OVERHEAD: usize = 4096;

/// Kinds of requests (`enum fuse_opcode`).
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const STATX: u32 = 52;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// What both sides can agree on (`FUSE_*` of `struct fuse_init_in`).
pub(crate) mod feature {
    pub(crate) const ASYNC_READ: u32 = 1 << 0;
    pub(crate) const BIG_WRITES: u32 = 1 << 5;
    pub(crate) const DONT_MASK: u32 = 1 << 6;
    pub(crate) const DO_READDIRPLUS: u32 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub(crate) const ASYNC_DIO: u32 = 1 << 15;
    pub(crate) const WRITEBACK_CACHE: u32 = 1 << 16;
    pub(crate) const NO_OPEN_SUPPORT: u32 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    pub(crate) const POSIX_ACL: u32 = 1 << 20;
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u32 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
    pub(crate) const EXPLICIT_INVAL_DATA: u32 = 1 << 25;
    pub(crate) const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
    pub(crate) const SETXATTR_EXT: u32 = 1 << 29;
}

/// Which fields of a SETATTR count (`FATTR_*`).
pub(crate) mod set {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Of a WRITE: the writer may not keep set-id bits (`FUSE_WRITE_KILL_SUIDGID`).
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// Of a SETXATTR: an access control list takes the set-group-id bit (`FUSE_SETXATTR_ACL_KILL_SGID`).
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// Of an FSYNC: the metadata can wait (`FUSE_FSYNC_FDATASYNC`).
pub(crate) const FSYNC_DATA_ONLY: u32 = 1 << 0;
/// Tells the kernel that what it knows of an inode is out of date (`FUSE_NOTIFY_INVAL_INODE`).
pub(crate) const NOTIFY_INVAL_INODE: u32 = 2;
