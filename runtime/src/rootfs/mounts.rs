//! Makes the mounts below the root, each by descriptor.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC};
use rrun_spec::mount_options::{attr, ms};

use crate::plan::mounts::{MountPlan, NewMount, What};
use crate::rootfs::cgroup::CgroupView;
use crate::rootfs::copy_up::{copy_up, give};
use crate::rootfs::paths::{Root, is_directory, stat};
use crate::sys::mount::{
    Attributes, FsContext, attach, c_string, clone_tree, magic, set_attributes,
};

/// Makes one mount at its destination, which is made if it is missing.
///
/// # Errors
///
/// What could not be made or attached; the message names the file system and the destination.
pub fn mount(root: &Root, plan: &MountPlan, cgroups: &CgroupView) -> anyhow::Result<()> {
    let destination = &plan.destination;
    match &plan.what {
        What::Bind { source, recursive } => bind(root, plan, source, *recursive),
        What::New(mount) => new(root, plan, mount)
            .with_context(|| format!("mount {} on {}", mount.fstype, destination.display())),
        What::Cgroup => cgroups
            .mount(root, plan)
            .with_context(|| format!("mount the cgroups on {}", destination.display())),
    }
}

fn bind(root: &Root, plan: &MountPlan, source: &Path, recursive: bool) -> anyhow::Result<()> {
    let what = || format!("bind {} to {}", source.display(), plan.destination.display());
    let tree = clone_tree(AT_FDCWD, source, recursive).with_context(what)?;
    place(root, plan, tree.as_fd()).with_context(what)
}

/// Attaches the detached mount `tree` at the destination of `plan`, with all its attributes.
///
/// # Errors
///
/// Those of finding the destination and of the mount calls.
pub fn place(root: &Root, plan: &MountPlan, tree: BorrowedFd<'_>) -> anyhow::Result<()> {
    let target = if is_directory(&stat(tree)?) {
        root.make_directory(&plan.destination)?
    } else {
        root.make_file(&plan.destination)?
    };
    change(tree, plan.attributes, false)?;
    change(tree, plan.recursive, true)?;
    attach(tree, target.as_fd()).context("attach")?;
    for (propagation, recursive) in &plan.propagation {
        let attributes = Attributes { propagation: *propagation, ..Attributes::default() };
        set_attributes(tree, attributes, *recursive).context("set the propagation")?;
    }
    Ok(())
}

/// Sets and clears attributes; what a more privileged user namespace has locked stays set.
fn change(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> anyhow::Result<()> {
    if attributes == Attributes::default() {
        return Ok(());
    }
    match set_attributes(mount, attributes, recursive) {
        Err(Errno::EPERM) if attributes.clear != 0 => {
            let set_only =
                Attributes { set: attributes.set & !attr::ATIME, clear: 0, ..attributes };
            set_attributes(mount, set_only, recursive)
        }
        result => result,
    }
    .context("set the attributes")
}

type Options = [(String, Option<String>)];

fn new(root: &Root, plan: &MountPlan, new: &NewMount) -> anyhow::Result<()> {
    let fstype = new.fstype.as_str();
    // What a tmpfs is going to hide: it takes after it. A directory made now is nothing to take after.
    let hidden = (fstype == "tmpfs").then(|| root.open(&plan.destination).ok()).flatten();
    let plain = matches!(fstype, "proc" | "sysfs");
    let target =
        if plain { plain_directory(root, plan)? } else { root.make_directory(&plan.destination)? };
    match create(fstype, &new.source, &new.options, early_attributes(plan)) {
        Ok(mount) => {
            verify(fstype, mount.as_fd())?;
            if let Some(hidden) = hidden {
                resemble(mount.as_fd(), hidden.as_fd(), new)?;
            }
            attach(mount.as_fd(), target.as_fd()).context("attach")?;
            for (propagation, recursive) in &plan.propagation {
                let attributes = Attributes { propagation: *propagation, ..Attributes::default() };
                set_attributes(mount.as_fd(), attributes, *recursive)?;
            }
            Ok(())
        }
        Err(error) if is_refused(&error) => instead(root, plan, fstype, error),
        Err(error) => Err(error),
    }
}

/// Gives a tmpfs the mode of the directory that it hides, as runc and crun do, and with
/// `tmpcopyup` its owner and content too; what the options say goes before.
fn resemble(tmpfs: BorrowedFd<'_>, hidden: BorrowedFd<'_>, new: &NewMount) -> anyhow::Result<()> {
    let is_said = |key: &str| new.options.iter().any(|(name, _)| name == key);
    let original = stat(hidden)?;
    if new.copy_up {
        copy_up(hidden, tmpfs).context("tmpcopyup")?;
        if !is_said("uid") && !is_said("gid") {
            give(tmpfs, c".", &original).context("tmpcopyup: change the owner")?;
        }
    }
    if is_said("mode") {
        return Ok(());
    }
    let mode = Mode::from_bits_truncate(original.st_mode);
    fchmodat(tmpfs, ".", mode, FchmodatFlags::FollowSymlink).context("change the mode")
}

/// `/proc` and `/sys` must be where they seem to be: a link in the image would send what we mount,
/// and what we later write there, elsewhere (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867).
fn plain_directory(root: &Root, plan: &MountPlan) -> anyhow::Result<OwnedFd> {
    match root.open_plain_directory(&plan.destination) {
        Err(Errno::ENOENT) => {
            root.make_directory(&plan.destination)?;
            root.open_plain_directory(&plan.destination)
        }
        found => found,
    }
    .map_err(|errno| match errno {
        Errno::ELOOP | Errno::ENOTDIR => anyhow!(
            "{} must be mounted on ordinary directory: the image has a link or a file there",
            plan.destination.display()
        ),
        errno => anyhow!(errno).context(format!("open {}", plan.destination.display())),
    })
}

/// The attributes that can be set before anything else is mounted below.
fn early_attributes(plan: &MountPlan) -> u64 {
    let set = plan.attributes.set | plan.recursive.set;
    if is_filled_later(plan) { set & !attr::RDONLY } else { set }
}

/// Whether mount points of other mounts, or devices, may have to be made inside.
fn is_filled_later(plan: &MountPlan) -> bool {
    matches!(&plan.what, What::New(new) if new.fstype == "tmpfs")
}

/// Makes the mounts read-only that had to be written to until now.
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub fn finish(root: &Root, plans: &[MountPlan]) -> anyhow::Result<()> {
    for plan in plans.iter().filter(|plan| is_filled_later(plan) && plan.is_readonly()) {
        let mount = root.open(&plan.destination)?;
        make_readonly(mount.as_fd())
            .with_context(|| format!("make {} read-only", plan.destination.display()))?;
    }
    Ok(())
}

/// Makes `mount`, and nothing below it, read-only.
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub fn make_readonly(mount: BorrowedFd<'_>) -> nix::Result<()> {
    set_attributes(mount, Attributes { set: attr::RDONLY, ..Attributes::default() }, false)
}

/// A new file system, attached nowhere.
///
/// # Errors
///
/// What the kernel answers, and what it says about it.
pub fn create(
    fstype: &str,
    source: &str,
    options: &Options,
    attributes: u64,
) -> anyhow::Result<OwnedFd> {
    let context =
        FsContext::open(&c_string(fstype)?).with_context(|| format!("file system {fstype}"))?;
    let told = |result: nix::Result<()>, option: &str| {
        result.with_context(|| match context.complaint() {
            Some(complaint) => format!("option {option} ({complaint})"),
            None => format!("option {option}"),
        })
    };
    if fstype != "cgroup2" && fstype != "cgroup" && !source.is_empty() {
        told(context.set(c"source", &c_string(source)?), "source")?;
    }
    for (name, value) in options {
        told(set_option(&context, name, value.as_deref()), name)?;
    }
    context
        .mount(attributes)
        .with_context(|| context.complaint().unwrap_or_else(|| "create".into()))
}

/// The longest value that `fsconfig` takes, without its final NUL (Linux `fs/fsopen.c`).
const LONGEST_VALUE: usize = 255;

fn set_option(context: &FsContext, name: &str, value: Option<&str>) -> nix::Result<()> {
    let key = c_string(name)?;
    match value {
        None => context.set_flag(&key),
        Some(list) if name == "lowerdir" && list.len() > LONGEST_VALUE => {
            list.split(':').try_for_each(|layer| context.set(c"lowerdir+", &c_string(layer)?))
        }
        Some(value) => context.set(&key, &c_string(value)?),
    }
}

fn verify(fstype: &str, mount: BorrowedFd<'_>) -> anyhow::Result<()> {
    let expected = match fstype {
        "proc" => PROC_SUPER_MAGIC,
        "sysfs" => SYSFS_MAGIC,
        _ => return Ok(()),
    };
    if magic(mount)? == expected {
        return Ok(());
    }
    bail!("what was mounted is no {fstype}")
}

fn is_refused(error: &anyhow::Error) -> bool {
    matches!(error.root_cause().downcast_ref(), Some(Errno::EPERM | Errno::EBUSY))
}

/// Binds the host's instance where a user namespace may not have one of its own: `sysfs` without a
/// network namespace of its own, `proc` without a process namespace, `mqueue` without its own IPC.
fn instead(
    root: &Root,
    plan: &MountPlan,
    fstype: &str,
    refused: anyhow::Error,
) -> anyhow::Result<()> {
    let source = match fstype {
        "sysfs" => "/sys",
        "proc" => "/proc",
        "mqueue" => "/dev/mqueue",
        _ => return Err(refused),
    };
    let tree = clone_tree(AT_FDCWD, source, true).map_err(|_nor_that| refused)?;
    let plan = MountPlan { propagation: vec![(ms::SLAVE, true)], ..plan.clone() };
    place(root, &plan, tree.as_fd())
}

/// Opens a directory of the host.
///
/// # Errors
///
/// Those of `open(2)`.
pub fn host_directory(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
}
