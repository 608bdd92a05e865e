//! From the host's root to the container's.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, chroot, fchdir};
use rrun_spec::mount_options::ms;

use crate::rootfs::mounts::host_directory;
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
/// # Errors
///
/// Those of `move_mount(2)` and `chroot(2)`.
pub fn enter_without_pivot(root: &Root, propagation: u64) -> anyhow::Result<()> {
    fchdir(root).context("enter the root")?;
    attach(root.as_fd(), host_directory(Path::new("/"))?.as_fd()).context("move the root to /")?;
    chroot(".").context("change the root")?;
    chdir("/").context("enter the new root")?;
    finish(propagation)
}

fn finish(propagation: u64) -> anyhow::Result<()> {
    if propagation == 0 {
        return Ok(());
    }
    let root = host_directory(Path::new("/"))?;
    propagate(root.as_fd(), propagation, true).context("set rootfsPropagation")
}
