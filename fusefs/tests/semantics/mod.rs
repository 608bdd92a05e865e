//! The promises of SEMANTICS.md.

mod copying;
mod files;
mod huge;
mod moving;
mod permissions;
mod rights;
mod shown;
mod usage;

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirEntryExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink,
};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use nix::unistd::{Gid, Uid, Whence, linkat, lseek, mkfifo, setfsgid, setfsuid};

use crate::common::{Identity, Layers, Mounted, acl, checksum, everywhere, names, xattr};
use crate::counts::requests;

fn errno<T>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.err().and_then(|error| error.raw_os_error()).unwrap_or(0))
}

/// Acts as another user inside, who has no privilege.
fn as_user<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> T {
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    let result = act();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    result
}
