//! Looks again at what was mounted, and where: the image, or somebody who shares a directory with
//! the container, may change names while we work.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::rootfs::paths::{Root, stat};
use crate::sys::mount::magic;

/// `DEVPTS_SUPER_MAGIC`
const DEVPTS_MAGIC: FsType = FsType(0x1cd1);

/// `MQUEUE_MAGIC` of `ipc/mqueue.c`
const MQUEUE_MAGIC: FsType = FsType(0x1980_0202);

/// The inode number of procfs's root (`PROC_ROOT_INO`).
const PROC_ROOT: u64 = 1;

/// What in procfs may be covered by others: the files that lxcfs emulates, as runc has it.
const EMULATED: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Checks that the new `mount` is of the type that was asked for.
///
/// # Errors
///
/// If it is of another.
pub fn is_of_type(fstype: &str, mount: BorrowedFd<'_>) -> anyhow::Result<()> {
    let expected = match fstype {
        "proc" => PROC_SUPER_MAGIC,
        "sysfs" => SYSFS_MAGIC,
        "tmpfs" => TMPFS_MAGIC,
        "devpts" => DEVPTS_MAGIC,
        "mqueue" => MQUEUE_MAGIC,
        "overlay" => OVERLAYFS_SUPER_MAGIC,
        _ => return Ok(()),
    };
    ensure!(magic(mount)? == expected, "what was mounted is no {fstype}");
    Ok(())
}

/// Checks that `mount` may cover `target`: nothing inside procfs is covered, since what is written
/// and read there decides about processes (CVE-2019-16884, CVE-2025-52881), but its root by another
/// procfs and the files that lxcfs emulates.
///
/// # Errors
///
/// If it may not.
pub fn may_cover(
    target: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    destination: &Path,
) -> anyhow::Result<()> {
    if magic(target)? != PROC_SUPER_MAGIC {
        return Ok(());
    }
    if stat(target)?.st_ino == PROC_ROOT {
        ensure!(magic(mount)? == PROC_SUPER_MAGIC, "only a procfs may be mounted on a procfs");
        return Ok(());
    }
    let is = |path: &&str| Path::new(path).components().eq(destination.components());
    ensure!(EMULATED.iter().any(is), "it is inside a procfs, where nothing may be");
    Ok(())
}

/// Checks that `directory` is none of procfs.
///
/// # Errors
///
/// If it is.
pub fn not_in_procfs(directory: BorrowedFd<'_>, destination: &Path) -> anyhow::Result<()> {
    let is_in_procfs = magic(directory)? == PROC_SUPER_MAGIC;
    ensure!(!is_in_procfs, "{} is inside a procfs, where nothing may be", destination.display());
    Ok(())
}

/// Checks that `path` leads to the root of `mount`; with `is_link` a link at the end of `path` is not
/// followed, for `mount` covers it.
///
/// # Errors
///
/// If it leads elsewhere: a name on the way was exchanged while we mounted.
pub fn leads_to(
    root: &Root,
    path: &Path,
    is_link: bool,
    mount: BorrowedFd<'_>,
) -> anyhow::Result<()> {
    let expected = stat(mount)?;
    let is_link = is_link || expected.st_mode & libc::S_IFMT == libc::S_IFLNK;
    let found = if is_link { root.open_link(path) } else { root.open(path) };
    let found = found.with_context(|| format!("look at {} again", path.display()))?;
    let found = stat(found.as_fd())?;
    if (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino) {
        return Ok(());
    }
    bail!("{} leads elsewhere now: something was exchanged meanwhile", path.display())
}

/// Checks that nothing can be written where `path` leads.
///
/// # Errors
///
/// If it can: a name on the way was exchanged while we mounted.
pub fn is_readonly(root: &Root, path: &Path) -> anyhow::Result<()> {
    let found = root.open(path).with_context(|| format!("look at {} again", path.display()))?;
    let flags = fstatvfs(&found)?.flags();
    ensure!(flags.contains(FsFlags::ST_RDONLY), "it is not: something was exchanged meanwhile");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::rootfs::mounts::host_directory;

    #[test]
    fn what_a_name_leads_to_is_told_from_another() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("one", directory.path().join("link")).unwrap();
        let root = Root::new(host_directory(directory.path()).unwrap());
        let one = root.open(Path::new("/one")).unwrap();
        let leads = |path: &str, is_link| leads_to(&root, Path::new(path), is_link, one.as_fd());
        assert!(leads("/one", false).is_ok() && leads("/link", false).is_ok());
        let error = leads("/other", false).unwrap_err().to_string();
        assert_eq!(error, "/other leads elsewhere now: something was exchanged meanwhile");
        assert!(leads("/link", true).is_err(), "the link itself is another thing");
        assert!(leads("/gone", false).is_err());
    }

    #[test]
    fn a_place_that_can_be_written_is_not_read_only() {
        let root = Root::new(host_directory(Path::new("/")).unwrap());
        assert!(is_readonly(&root, Path::new("/proc")).is_err());
    }

    #[test]
    fn little_of_procfs_may_be_covered() {
        let open = |path: &str| File::open(path).unwrap();
        let (own, procfs) = (open("/proc/self/status"), open("/proc"));
        let may = |target: &File, mount: &File, path: &str| {
            may_cover(target.as_fd(), mount.as_fd(), Path::new(path)).is_ok()
        };
        let plain = tempfile::tempfile().unwrap();
        assert!(may(&plain, &procfs, "/anywhere") && may(&procfs, &procfs, "/proc"));
        assert!(!may(&procfs, &plain, "/proc") && !may(&own, &plain, "/proc/self/status"));
        assert!(may(&open("/proc/uptime"), &plain, "/proc/uptime"));
        assert!(!may(&open("/proc/uptime"), &plain, "/link/uptime"), "by its own name alone");
        assert!(not_in_procfs(procfs.as_fd(), Path::new("/a")).is_err());
        assert!(not_in_procfs(plain.as_fd(), Path::new("/a")).is_ok());
    }

    #[test]
    fn a_mount_is_of_its_type() {
        let procfs = File::open("/proc").unwrap();
        assert!(is_of_type("proc", procfs.as_fd()).is_ok());
        let error = is_of_type("tmpfs", procfs.as_fd()).unwrap_err();
        assert_eq!(error.to_string(), "what was mounted is no tmpfs");
    }
}
