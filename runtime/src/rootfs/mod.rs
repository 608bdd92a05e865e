//! What the program sees as its file system.
//!
//! The order: part from the host's mounts; put the root in place (a plain directory, or the
//! overlay); mount what the configuration lists; fill `/dev`; then hooks may look at it; then make
//! read-only and hide what is to be; last, make it the root. Every path inside is looked up beneath
//! the root's descriptor, every mount is attached by descriptor.

pub mod cgroup;
pub mod copy_up;
pub mod devices;
pub mod layers;
pub mod masks;
pub mod mounts;
pub mod nodes;
pub mod overlay;
pub mod paths;
pub mod pivot;
pub mod sources;
pub mod verify;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::AT_FDCWD;

use crate::plan::RootPlan;
use crate::process::channel::Channel;
use crate::process::protocol::{FromServer, ToServer};
use crate::rootfs::cgroup::CgroupView;
use crate::rootfs::paths::Root;
use crate::rootfs::sources::Sources;
use crate::sys::mount::clone_tree;

/// What the root is built with, besides its plan.
#[derive(Debug)]
pub struct Materials<'a> {
    /// The server of a layered root.
    pub server: Option<Channel<ToServer, FromServer>>,
    /// What the parent has opened for the mounts.
    pub sources: Sources,
    /// A directory to mount the root on where the bundle has none.
    pub spare_place: &'a Path,
    /// Whether device nodes can be made.
    pub may_make_devices: bool,
    /// What [`nodes::make`] has made.
    pub nodes: Option<OwnedFd>,
    /// What a mount of type `cgroup` shows.
    pub cgroups: &'a CgroupView,
}

/// Builds the root; the host's root is still ours, so hooks and consoles can use both.
///
/// # Errors
///
/// The first thing that could not be done.
pub fn build(plan: &RootPlan, materials: Materials<'_>) -> anyhow::Result<Root> {
    pivot::part_from_host(plan.propagation)?;
    let place = if plan.overlay.is_some() && !plan.path.is_dir() {
        materials.spare_place
    } else {
        &plan.path
    };
    let tree = tree(plan, materials.server)?;
    pivot::attach_root(tree.as_fd(), place, plan.propagation).context("mount the root")?;
    let mut root = Root::new(tree);
    let mut sources = materials.sources.into_iter();
    for mount in &plan.mounts {
        mounts::mount(&mut root, mount, sources.next().flatten(), Some(materials.cgroups))?;
    }
    if plan.fill_dev {
        let nodes = materials.nodes.map(|place| nodes::take(&place, &plan.devices, &root));
        let nodes = nodes.transpose()?.unwrap_or_default();
        devices::fill(&root, &plan.devices, nodes, materials.may_make_devices)?;
    }
    Ok(root)
}

fn tree(plan: &RootPlan, server: Option<Channel<ToServer, FromServer>>) -> anyhow::Result<OwnedFd> {
    match server {
        Some(server) => overlay::mount(&server),
        None => clone_tree(AT_FDCWD, &plan.path, true)
            .with_context(|| format!("open the root directory {}", plan.path.display())),
    }
}

/// Makes read-only and hides what is to be.
///
/// # Errors
///
/// The first path that could not be treated so.
pub fn close(root: &Root, plan: &RootPlan) -> anyhow::Result<()> {
    masks::make_paths_readonly(root, &plan.readonly_paths)?;
    masks::mask(root, &plan.masked)?;
    mounts::finish(root, &plan.mounts)?;
    if plan.readonly {
        mounts::make_readonly(root.as_fd()).context("make the root read-only")?;
    }
    Ok(())
}

/// Makes `root` the root directory.
///
/// # Errors
///
/// Those of `pivot_root(2)`, or of `move_mount(2)` and `chroot(2)`.
pub fn enter(root: &Root, plan: &RootPlan) -> anyhow::Result<()> {
    if plan.no_pivot {
        pivot::enter_without_pivot(root, plan.propagation)
    } else {
        pivot::enter(root, plan.propagation)
    }
}
