//! What the parent opens for init: sources that the container's root may not reach, mounts whose IDs
//! only the caller may map, and descriptors of the caller.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use rrun_spec::mount_options::ms;

use crate::plan::RootPlan;
use crate::plan::idmap::{IdMapping, Ids, OwnIds};
use crate::plan::mounts::{MountPlan, What};
use crate::rootfs::mounts::{clone_source, create};
use crate::sys::mount::{Attributes, map_ids, set_attributes};
use crate::userns::spare;

/// What was opened for one mount.
#[derive(Debug)]
pub enum Source {
    /// A mount that is attached nowhere yet, with its IDs mapped.
    Tree(OwnedFd),
    /// The user namespace that says how the IDs are to be mapped.
    Namespace(OwnedFd),
    /// What a symbolic link says that is to be made again.
    Link(PathBuf),
    /// Where a descriptor of the caller leads, and what must be found there.
    Place {
        /// Its path on the host.
        path: PathBuf,
        /// The device and the inode number.
        identity: (u64, u64),
    },
}

/// For each mount of a plan, in order, what was opened for it; short where there is no more.
pub type Sources = Vec<Option<Source>>;

/// User namespaces that were made for mapped mounts: the same maps need one only.
type Namespaces = Vec<(Ids, OwnedFd)>;

/// Opens all that the plans leave to the parent, in the host's namespaces; with `propagation`
/// `MS_SHARED` they stay the host's peers.
///
/// # Errors
///
/// Which mount's source could not be opened, or its IDs not be mapped.
pub fn open(plans: &[MountPlan], propagation: u64) -> anyhow::Result<Sources> {
    if !plans.iter().any(|plan| plan.by_parent) {
        return Ok(Vec::new());
    }
    let mut namespaces = Namespaces::new();
    let mut one = |plan: &MountPlan| match plan.by_parent {
        true => open_one(plan, propagation, &mut namespaces)
            .with_context(|| format!("mount on {}", plan.destination.display())),
        false => Ok(None),
    };
    plans.iter().map(&mut one).collect()
}

/// The descriptors among `sources`, for init to keep.
pub fn descriptors(sources: &Sources) -> impl Iterator<Item = BorrowedFd<'_>> {
    sources.iter().flatten().filter_map(|source| match source {
        Source::Tree(fd) | Source::Namespace(fd) => Some(fd.as_fd()),
        Source::Link(_) | Source::Place { .. } => None,
    })
}

fn open_one(
    plan: &MountPlan,
    propagation: u64,
    namespaces: &mut Namespaces,
) -> anyhow::Result<Option<Source>> {
    let opened = match &plan.what {
        What::Bind { source, recursive, links } => {
            if links.copied
                && let Ok(target) = std::fs::read_link(source)
            {
                return Ok(Some(Source::Link(target)));
            }
            match clone_source(source, *recursive, *links) {
                Err(Errno::EPERM) if plan.ids.is_none() => return place(source).map(Some),
                opened => opened.with_context(|| format!("open {}", source.display()))?,
            }
        }
        What::New(new) => create(&new.fstype, &new.source, &new.options, 0)
            .with_context(|| format!("mount {}", new.fstype))?,
        What::Cgroup | What::Change { .. } => return Ok(None),
    };
    part_from_host(opened.as_fd(), propagation)?;
    if let Some(mapping) = &plan.ids {
        map(opened.as_fd(), mapping, namespaces)?;
    }
    Ok(Some(Source::Tree(opened)))
}

/// Init parts its own mounts from the host's; those that come from here must be parted too.
fn part_from_host(tree: BorrowedFd<'_>, propagation: u64) -> anyhow::Result<()> {
    if propagation == ms::SHARED {
        return Ok(());
    }
    let slave = Attributes { propagation: ms::SLAVE, ..Attributes::default() };
    set_attributes(tree, slave, true).context("part the mount from the host's")
}

/// Without the right to copy mounts here, init does it where it may: in its own namespaces.
fn place(source: &Path) -> anyhow::Result<Source> {
    let open = || nix::fcntl::open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let opened = open().with_context(|| format!("open {}", source.display()))?;
    let found = fstat(&opened)?;
    let path = source.canonicalize().with_context(|| format!("find {}", source.display()))?;
    Ok(Source::Place { path, identity: (found.st_dev, found.st_ino) })
}

/// Maps the IDs of the detached `mount`.
///
/// # Errors
///
/// Why that cannot be, and the cure.
fn map(
    mount: BorrowedFd<'_>,
    mapping: &IdMapping,
    namespaces: &mut Namespaces,
) -> anyhow::Result<()> {
    if !namespaces.iter().any(|(ids, _)| *ids == mapping.ids) {
        namespaces.push((mapping.ids.clone(), namespace(&mapping.ids)?));
    }
    let namespace = namespaces.iter().find(|(ids, _)| *ids == mapping.ids);
    let (_, namespace) = namespace.context("a user namespace")?;
    map_with(mount, namespace.as_fd(), mapping.recursive)
}

/// Shows the detached `mount` with the IDs of `namespace`.
///
/// # Errors
///
/// Why the kernel refuses, and the cure.
pub fn map_with(
    mount: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    recursive: bool,
) -> anyhow::Result<()> {
    map_ids(mount, namespace, recursive).map_err(|errno| {
        let hint = match errno {
            Errno::EINVAL => {
                "its file system cannot map IDs on this kernel (cure: keep the files on one that \
                 can, such as ext4, xfs, btrfs or tmpfs, or remove the mapping)"
            }
            Errno::EPERM => {
                "only root of the user namespace that mounted the file system may, and only once \
                 (cure: run as root, or remove the mapping)"
            }
            _ => return anyhow!(errno).context("map the IDs"),
        };
        anyhow!("map the IDs: {errno}: {hint}")
    })
}

fn namespace(ids: &Ids) -> anyhow::Result<OwnedFd> {
    match ids {
        Ids::Own(OwnIds::Joined(path)) => {
            let file = File::open(path);
            Ok(file.with_context(|| format!("open namespace {}", path.display()))?.into())
        }
        Ids::Own(OwnIds::Made(maps)) | Ids::Listed(maps) => spare::namespace(maps),
    }
}

/// Adds to `sources` the namespaces for new file systems whose IDs init maps itself; made below the
/// container's user namespace, which is that of the caller.
///
/// # Errors
///
/// Why one could not be made.
pub fn add_own_namespaces(plan: &RootPlan, sources: &mut Sources) -> anyhow::Result<()> {
    for (at, mount) in plan.mounts.iter().enumerate() {
        let Some(mapping) = mount.ids.as_ref().filter(|_| !mount.by_parent) else { continue };
        let namespace = namespace(&mapping.ids)
            .with_context(|| format!("mount on {}", mount.destination.display()))?;
        sources.resize_with(plan.mounts.len(), || None);
        if let Some(source) = sources.get_mut(at) {
            *source = Some(Source::Namespace(namespace));
        }
    }
    Ok(())
}
