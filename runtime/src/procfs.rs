//! The host's procfs, for what is written below `/proc` once the container's mounts are in sight: what
//! is mounted there may be anything.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

/// The number of procfs's root directory: `PROC_ROOT_INO`.
const ROOT: u64 = 1;

/// The root of a procfs that is not the container's.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// The caller's `/proc`. To be called before the caller enters any mount namespace of a container's.
    ///
    /// # Errors
    ///
    /// If there is no procfs, or only a part of one.
    pub fn of_caller() -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open("/proc", flags, Mode::empty()).context("open /proc")?;
        let kind = fstatfs(&root).context("inspect /proc")?.filesystem_type();
        let genuine = kind == PROC_SUPER_MAGIC && fstat(&root)?.st_ino == ROOT;
        ensure!(genuine, "/proc is not the root of a procfs (cure: mount -t proc proc /proc)");
        Ok(Self(root))
    }

    /// Opens a file of the calling thread for writing.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the kernel does not have it.
    pub fn open_own(&self, name: &str) -> nix::Result<Own> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(resolve);
        let path = format!("thread-self/{name}");
        let fd = openat2(&self.0, path.as_str(), how)?;
        if fstatfs(&fd)?.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(Errno::EXDEV);
        }
        Ok(Own(File::from(fd)))
    }
}

/// A file of procfs about the thread that opened it.
#[derive(Debug)]
pub struct Own(File);

impl Own {
    /// Writes `value` at once, as the kernel wants it.
    ///
    /// # Errors
    ///
    /// What the kernel says to the value.
    pub fn write(&self, value: &[u8]) -> std::io::Result<()> {
        (&self.0).write_all(value)
    }
}

impl AsFd for Own {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_our_own_is_found_and_nothing_else() {
        let procfs = Procfs::of_caller().unwrap();
        procfs.open_own("comm").unwrap().write(b"renamed").unwrap();
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert_eq!(name, "renamed\n");
        assert_eq!(procfs.open_own("no-such-file").unwrap_err(), Errno::ENOENT);
        assert!(procfs.open_own("root/etc/passwd").is_err());
        assert!(procfs.open_own("../../../etc/passwd").is_err());
    }
}
