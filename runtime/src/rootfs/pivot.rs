//! From the host's root to the container's.

use std::os::fd::AsRawFd as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, readlink};
use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, chroot, fchdir};
use rrun_spec::mount_options::ms;

use crate::confine::cgroup::unescape;
use crate::host::read_proc;
use crate::rootfs::mounts::{create, host_directory};
use crate::rootfs::paths::Root;
use crate::sys::mount::{Attributes, attach, pivot_to_working_directory, set_attributes};

/// Keeps what is mounted here from spreading to the host.
///
/// With `propagation` shared it spreads on purpose.
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub fn part_from_host(propagation: u64) -> anyhow::Result<()> {
    let propagation = match propagation {
        0 => ms::SLAVE,
        ms::UNBINDABLE => ms::PRIVATE,
        asked => asked,
    };
    let everything = host_directory(Path::new("/"))?;
    propagate(everything.as_fd(), propagation, true).context("part the mounts from the host's")
}

/// Attaches the detached tree `root` at `place`, so that it can become the root.
///
/// # Errors
///
/// Those of the mount calls.
pub fn attach_root(root: BorrowedFd<'_>, place: &Path, propagation: u64) -> anyhow::Result<()> {
    let below = || -> nix::Result<_> { host_directory(place) };
    if propagation == ms::SHARED {
        // pivot_root refuses a root that is shared, or whose parent mount is: both are private
        // until it is done.
        propagate(root, ms::PRIVATE, true)?;
        let between = crate::sys::mount::clone_tree(AT_FDCWD, place, false)?;
        attach(between.as_fd(), below()?.as_fd())?;
        propagate(between.as_fd(), ms::PRIVATE, false)?;
    }
    attach(root, below()?.as_fd()).with_context(|| format!("attach at {}", place.display()))
}

fn propagate(mount: BorrowedFd<'_>, propagation: u64, recursive: bool) -> nix::Result<()> {
    set_attributes(mount, Attributes { propagation, ..Attributes::default() }, recursive)
}

/// Makes `root` the root directory of this mount namespace and lets go of the old one.
///
/// # Errors
///
/// `EINVAL` where the old root is the initial ramdisk: there `--no-pivot` is needed.
pub fn enter(root: &Root, propagation: u64) -> anyhow::Result<()> {
    let old = host_directory(Path::new("/")).context("open the old root")?;
    fchdir(root).context("enter the root")?;
    pivot_to_working_directory().context("pivot_root (on a ramdisk use --no-pivot)")?;
    // The old root now lies on top of the new one. What is unmounted there must not be unmounted on
    // the host.
    fchdir(&old).context("enter the old root")?;
    propagate(old.as_fd(), ms::SLAVE, true).context("part the old root")?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of the old root")?;
    drop(old);
    chdir("/").context("enter the new root")?;
    finish(propagation)
}

/// Makes `root` the root directory without `pivot_root`, which a ramdisk does not allow.
///
/// The host's mounts stay in this mount namespace, beneath the new root. Its views of the kernel are taken
/// away first: the kernel lets a user namespace mount another whole procfs or sysfs where there is one.
///
/// # Errors
///
/// Those of `move_mount(2)` and `chroot(2)`.
///
/// Source: Linux `fs/namespace.c`, `mount_too_revealing()`.
pub fn enter_without_pivot(root: &Root, propagation: u64) -> anyhow::Result<()> {
    hide_kernel_views(root).context("take away the host's /proc and /sys")?;
    fchdir(root).context("enter the root")?;
    attach(root.as_fd(), host_directory(Path::new("/"))?.as_fd()).context("move the root to /")?;
    chroot(".").context("change the root")?;
    chdir("/").context("enter the new root")?;
    finish(propagation)
}

/// Unmounts every whole procfs and sysfs that is not the container's, or covers what may not be unmounted.
fn hide_kernel_views(root: &Root) -> anyhow::Result<()> {
    let own = readlink(format!("/proc/self/fd/{}", root.as_fd().as_raw_fd()).as_str())?;
    let mountinfo = read_proc("/proc/self/mountinfo")?;
    // What was mounted last may lie on top of the others.
    kernel_views(&mountinfo, Path::new(&own))
        .iter()
        .rev()
        .try_for_each(|view| hide(view).with_context(|| format!("hide {}", view.display())))
}

/// Where whole file systems that show the kernel are mounted outside of `own`.
fn kernel_views(mountinfo: &str, own: &Path) -> Vec<PathBuf> {
    let view = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (shown, place) = (fields.next()?, unescape(fields.next()?));
        let kind = right.split(' ').next()?;
        let wanted = matches!(kind, "proc" | "sysfs") && shown == "/" && !place.starts_with(own);
        wanted.then_some(place)
    };
    mountinfo.lines().filter_map(view).collect()
}

fn hide(view: &Path) -> anyhow::Result<()> {
    let top = match host_directory(view) {
        // Another mount lies over the directory that it is mounted on.
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        top => top?,
    };
    propagate(top.as_fd(), ms::PRIVATE, false)?;
    match umount2(view, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // A mount of another user namespace.
        Err(Errno::EINVAL | Errno::EPERM) => {
            let nothing = [("size".to_owned(), Some("0".to_owned()))];
            let empty = create("tmpfs", "tmpfs", &nothing, libc::MOUNT_ATTR_RDONLY)?;
            Ok(attach(empty.as_fd(), top.as_fd())?)
        }
        done => Ok(done?),
    }
}

fn finish(propagation: u64) -> anyhow::Result<()> {
    if propagation == 0 {
        return Ok(());
    }
    let root = host_directory(Path::new("/"))?;
    propagate(root.as_fd(), propagation, true).context("set rootfsPropagation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_views_of_the_kernel_outside_of_the_root_are_found() {
        let mountinfo = "22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
            23 1 0:22 / /sys\\040fs rw - sysfs sysfs rw\n\
            24 22 0:21 /sys /mnt/part rw - proc proc rw\n\
            25 1 0:23 / /tmp rw - tmpfs tmpfs rw\n\
            40 1 0:30 / /run/c/rootfs/proc rw - proc proc rw\n";
        let found = kernel_views(mountinfo, Path::new("/run/c/rootfs"));
        assert_eq!(found, [Path::new("/proc"), Path::new("/sys fs")]);
    }
}
