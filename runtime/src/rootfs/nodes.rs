//! Device nodes for a container in a user namespace, whose root may make none: the parent, root outside,
//! makes them in a tmpfs that belongs to the first user namespace, and init binds each where it is to be.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat, umask};
use nix::unistd::{Gid, Uid, fchownat};
use rrun_spec::mount_options::attr;

use crate::plan::DevicePlan;
use crate::rootfs::mounts::create;
use crate::rootfs::paths::Root;
use crate::sys::mount::{attach, clone_tree};
use crate::userns::map::{IdMaps, inside_to_outside};

/// A tmpfs, attached nowhere, with a node for each of `devices`, named by its place among them and
/// owned by whom it is to belong to inside; none if we may not make nodes.
///
/// # Errors
///
/// Which device could not be made.
pub fn make(devices: &[DevicePlan], maps: &IdMaps) -> anyhow::Result<Option<OwnedFd>> {
    if !devices.iter().any(is_made_outside) {
        return Ok(None);
    }
    let options = [("mode".to_owned(), Some("755".to_owned()))];
    let place = create("tmpfs", "devices", &options, attr::NOSUID | attr::NOEXEC)?;
    let usual = umask(Mode::empty());
    let made =
        devices.iter().enumerate().filter(|(_, device)| is_made_outside(device)).try_for_each(
            |(at, device)| {
                make_one(&place, at, device, maps)
                    .with_context(|| format!("make device {}", device.path.display()))
            },
        );
    umask(usual);
    match made {
        Err(error) if error.downcast_ref() == Some(&Errno::EPERM) => Ok(None),
        made => made.map(|()| Some(place)),
    }
}

/// A fifo is no device: anybody may make one.
fn is_made_outside(device: &DevicePlan) -> bool {
    device.kind != libc::S_IFIFO
}

fn make_one(place: &OwnedFd, at: usize, device: &DevicePlan, maps: &IdMaps) -> anyhow::Result<()> {
    let name = at.to_string();
    let kind = SFlag::from_bits_truncate(device.kind);
    let mode = Mode::from_bits_truncate(device.mode);
    mknodat(place, name.as_str(), kind, mode, makedev(device.major, device.minor))?;
    let uid = inside_to_outside(&maps.uids, device.uid).context("its uid is not mapped")?;
    let gid = inside_to_outside(&maps.gids, device.gid).context("its gid is not mapped")?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(fchownat(place, name.as_str(), Some(uid), Some(gid), nix::fcntl::AtFlags::empty())?)
}

/// For each of `devices` its node in `place`, as a mount that is attached nowhere.
///
/// A mount that was never attached can be copied only since Linux 6.15: `place` is attached to the `/dev`
/// of `root` for that time.
///
/// # Errors
///
/// Those of the mount calls.
pub fn take(
    place: &OwnedFd,
    devices: &[DevicePlan],
    root: &Root,
) -> anyhow::Result<Vec<Option<OwnedFd>>> {
    let directory = root.make_directory(Path::new("/dev"))?;
    attach(place.as_fd(), directory.as_fd()).context("attach the devices")?;
    let node = |(at, device): (usize, &DevicePlan)| {
        let name = at.to_string();
        is_made_outside(device).then(|| clone_tree(place.as_fd(), name.as_str(), false)).transpose()
    };
    let nodes: Result<_, _> = devices.iter().enumerate().map(node).collect();
    // The host's procfs: the root has not changed yet.
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    umount2(path.as_str(), MntFlags::MNT_DETACH).context("detach the devices")?;
    Ok(nodes?)
}
