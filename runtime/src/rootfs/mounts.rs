//! Makes the mounts below the root, each by descriptor.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, readlinkat};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use nix::unistd::symlinkat;
use rrun_spec::mount_options::{attr, ms};

use crate::plan::mounts::{Links, MountPlan, NewMount, What};
use crate::rootfs::cgroup::CgroupView;
use crate::rootfs::copy_up::{resemble, resembling};
use crate::rootfs::paths::{Root, is_directory, is_root, stat};
use crate::rootfs::sources::{Source, map_with};
use crate::rootfs::{layers, verify};
use crate::sys::mount::{
    Attributes, FsContext, attach, c_string, clone_link, clone_tree, set_attributes,
};

/// Makes one mount at its destination, which is made if it is missing; `opened` is what the parent
/// has prepared for it.
///
/// # Errors
///
/// What could not be made or attached; the message names the file system and the destination.
pub fn mount(
    root: &mut Root,
    plan: &MountPlan,
    opened: Option<Source>,
    cgroups: Option<&CgroupView>,
) -> anyhow::Result<()> {
    let destination = plan.destination.display();
    match &plan.what {
        What::Bind { source, recursive, links } => {
            bind(root, plan, &Bind { source, recursive: *recursive, links: *links }, opened)
                .with_context(|| format!("bind {} to {destination}", source.display()))
        }
        What::New(mount) => new(root, plan, mount, opened)
            .with_context(|| format!("mount {} on {destination}", mount.fstype)),
        What::Cgroup => cgroups
            .context("only when a container is created")
            .and_then(|cgroups| cgroups.mount(root, plan))
            .with_context(|| format!("mount the cgroups on {destination}")),
        What::Change { options } => change_there(root, plan, options)
            .with_context(|| format!("change the mount on {destination}")),
    }
}

struct Bind<'a> {
    source: &'a Path,
    recursive: bool,
    links: Links,
}

fn bind(
    root: &mut Root,
    plan: &MountPlan,
    what: &Bind<'_>,
    opened: Option<Source>,
) -> anyhow::Result<()> {
    let tree = match opened {
        Some(Source::Link(target)) => return link_again(root, &plan.destination, &target),
        Some(Source::Tree(tree)) => tree,
        Some(Source::Place { path, identity }) => {
            let tree = clone_tree(AT_FDCWD, &path, what.recursive)?;
            let found = stat(tree.as_fd())?;
            let is_same = (found.st_dev, found.st_ino) == identity;
            ensure!(is_same, "{} is no longer what the descriptor leads to", path.display());
            tree
        }
        Some(Source::Namespace(_)) | None => {
            if what.links.copied
                && let Ok(target) = std::fs::read_link(what.source)
            {
                return link_again(root, &plan.destination, &target);
            }
            clone_source(what.source, what.recursive, what.links)?
        }
    };
    place(root, plan, tree.as_fd())
}

/// A detached copy of the mount at `source` on the host.
///
/// # Errors
///
/// Those of `open_tree(2)`.
pub fn clone_source(source: &Path, recursive: bool, links: Links) -> nix::Result<OwnedFd> {
    if links.source_itself || links.copied {
        clone_link(AT_FDCWD, source, recursive)
    } else {
        clone_tree(AT_FDCWD, source, recursive)
    }
}

/// `copy-symlink`: what is there already must be the same link.
fn link_again(root: &Root, destination: &Path, target: &Path) -> anyhow::Result<()> {
    let name = destination.file_name().context("want a name for the link")?;
    let directory = root.make_directory(destination.parent().unwrap_or(Path::new("/")))?;
    verify::not_in_procfs(directory.as_fd(), destination)?;
    match symlinkat(target, &directory, name) {
        Err(Errno::EEXIST) => {
            let found = readlinkat(&directory, name).map(PathBuf::from);
            let is_same = found.is_ok_and(|found| found == target);
            ensure!(is_same, "copy-symlink: something else is there already");
            Ok(())
        }
        made => made.context("make the link"),
    }
}

/// Attaches the detached mount `tree` at the destination of `plan`, with all its attributes.
///
/// # Errors
///
/// Those of finding the destination and of the mount calls.
pub fn place(root: &mut Root, plan: &MountPlan, tree: BorrowedFd<'_>) -> anyhow::Result<()> {
    let target = target(root, plan, is_directory(&stat(tree)?))?;
    change(tree, plan.attributes, false)?;
    change(tree, plan.recursive, true)?;
    attach_at(root, plan, tree, target.as_fd())
}

/// Opens the destination of `plan`, made if it is missing.
fn target(root: &Root, plan: &MountPlan, is_directory: bool) -> anyhow::Result<OwnedFd> {
    let path = &plan.destination;
    if covers_link(plan) {
        match root.open_link(path) {
            Err(Errno::ENOENT) => {}
            found => return found.with_context(|| format!("open {}", path.display())),
        }
    }
    if is_directory { root.make_directory(path) } else { root.make_file(path) }
}

fn covers_link(plan: &MountPlan) -> bool {
    matches!(&plan.what, What::Bind { links, .. } if links.destination_itself)
}

/// Attaches `tree` to `target` and makes sure that it is what the destination leads to now.
fn attach_at(
    root: &mut Root,
    plan: &MountPlan,
    tree: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
) -> anyhow::Result<()> {
    verify::may_cover(target, tree, &plan.destination)?;
    attach(tree, target).context("attach")?;
    if is_root(&plan.destination) {
        root.replace(tree.try_clone_to_owned()?);
    }
    verify::leads_to(root, &plan.destination, covers_link(plan), tree)?;
    propagate(tree, plan)
}

fn propagate(mount: BorrowedFd<'_>, plan: &MountPlan) -> anyhow::Result<()> {
    for (propagation, recursive) in &plan.propagation {
        let attributes = Attributes { propagation: *propagation, ..Attributes::default() };
        set_attributes(mount, attributes, *recursive).context("set the propagation")?;
    }
    Ok(())
}

/// Changes what is mounted at the destination already.
fn change_there(
    root: &Root,
    plan: &MountPlan,
    options: &[(String, Option<String>)],
) -> anyhow::Result<()> {
    let mount = root.open(&plan.destination)?;
    if !options.is_empty() {
        let context = FsContext::pick(mount.as_fd()).context("take up its file system")?;
        for (name, value) in options {
            set_option(&context, name, value.as_deref())?;
        }
        told(&context, context.reconfigure(), "change")?;
    }
    let nothing = "is something mounted there?";
    change(mount.as_fd(), plan.attributes, false).context(nothing)?;
    change(mount.as_fd(), plan.recursive, true).context(nothing)?;
    propagate(mount.as_fd(), plan).context(nothing)
}

/// Sets and clears attributes; what a more privileged user namespace has locked stays as it is: set,
/// or the access time whatever it is. That links are not followed is never locked.
fn change(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> anyhow::Result<()> {
    if attributes == Attributes::default() {
        return Ok(());
    }
    let lockable = attr::ATIME | attr::NODIRATIME;
    match set_attributes(mount, attributes, recursive) {
        Err(Errno::EPERM) if attributes.clear != 0 || attributes.set & lockable != 0 => {
            let (set, clear) = (attributes.set & !lockable, attributes.clear & attr::NOSYMFOLLOW);
            set_attributes(mount, Attributes { set, clear, ..attributes }, recursive)
        }
        result => result,
    }
    .context("set the attributes")
}

fn new(
    root: &mut Root,
    plan: &MountPlan,
    new: &NewMount,
    opened: Option<Source>,
) -> anyhow::Result<()> {
    let fstype = new.fstype.as_str();
    // What a tmpfs is going to hide: it takes after it. A directory made now is nothing to take after.
    let hidden = (fstype == "tmpfs").then(|| root.open(&plan.destination).ok()).flatten();
    let plain = matches!(fstype, "proc" | "sysfs");
    let target =
        if plain { plain_directory(root, plan)? } else { root.make_directory(&plan.destination)? };
    let resembling = hidden.as_ref().map(|hidden| resembling(hidden.as_fd(), new)).transpose()?;
    let new = resembling.as_ref().unwrap_or(new);
    let mount = match make(plan, new, opened) {
        Ok(mount) => mount,
        Err(error) if is_refused(&error) => return instead(root, plan, fstype, error),
        Err(error) => return Err(error),
    };
    verify::is_of_type(fstype, mount.as_fd())?;
    if let Some(hidden) = hidden {
        resemble(mount.as_fd(), hidden.as_fd(), new, plan.by_parent)?;
    }
    attach_at(root, plan, mount.as_fd(), target.as_fd())?;
    if new.superblock & ms::I_VERSION != 0 {
        count_versions(mount.as_fd(), new, early_attributes(plan))?;
    }
    Ok(())
}

/// The new file system, attached nowhere, with its IDs mapped.
fn make(plan: &MountPlan, new: &NewMount, opened: Option<Source>) -> anyhow::Result<OwnedFd> {
    if let Some(Source::Tree(mount)) = opened {
        let set = early_attributes(plan);
        set_attributes(mount.as_fd(), Attributes { set, ..Attributes::default() }, false)?;
        return Ok(mount);
    }
    let mount = create(&new.fstype, &new.source, &new.options, early_attributes(plan))?;
    if let (Some(Source::Namespace(namespace)), Some(mapping)) = (opened, &plan.ids) {
        map_with(mount.as_fd(), namespace.as_fd(), mapping.recursive)?;
    }
    Ok(mount)
}

/// `iversion`, which only `mount(2)` can ask for; it sets all other flags again.
fn count_versions(mount: BorrowedFd<'_>, new: &NewMount, set: u64) -> anyhow::Result<()> {
    use std::os::fd::AsRawFd as _;
    // The host's procfs: the root has not changed yet.
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let flags = MsFlags::from_bits_retain(new.superblock);
    let flags = MsFlags::MS_REMOUNT | flags;
    nix::mount::mount(None::<&str>, path.as_str(), None::<&str>, flags, None::<&str>)
        .context("option iversion")?;
    Ok(set_attributes(mount, Attributes { set, ..Attributes::default() }, false)?)
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
    options: &[(String, Option<String>)],
    attributes: u64,
) -> anyhow::Result<OwnedFd> {
    let context = FsContext::open(&c_string(fstype)?).map_err(|errno| match errno {
        Errno::ENODEV => anyhow!(
            "this kernel has no file system {fstype:?} (/proc/filesystems lists those it has)"
        ),
        errno => anyhow!(errno).context(format!("file system {fstype}")),
    })?;
    let mut held = Vec::new();
    if fstype != "cgroup2" && fstype != "cgroup" && !source.is_empty() {
        told(&context, context.set(c"source", &c_string(source)?), "source")?;
    }
    for (name, value) in options {
        match value {
            Some(value) if fstype == "overlay" => {
                layers::set(&context, name, value, &mut held)?;
            }
            value => set_option(&context, name, value.as_deref())?,
        }
    }
    context
        .mount(attributes)
        .with_context(|| context.complaint().unwrap_or_else(|| "create".into()))
}

/// Adds what the kernel has to say about `option`.
pub(super) fn told(
    context: &FsContext,
    result: nix::Result<()>,
    option: &str,
) -> anyhow::Result<()> {
    result.with_context(|| match context.complaint() {
        Some(complaint) => format!("option {option} ({complaint})"),
        None => format!("option {option}"),
    })
}

fn set_option(context: &FsContext, name: &str, value: Option<&str>) -> anyhow::Result<()> {
    let Some(value) = value else { return told(context, context.set_flag(&c_string(name)?), name) };
    let length = value.len();
    ensure!(
        length <= LONGEST_VALUE,
        "option {name}: its value has {length} bytes, the kernel takes {LONGEST_VALUE}"
    );
    told(context, context.set(&c_string(name)?, &c_string(value)?), name)
}

/// The longest value that `fsconfig` takes, without its final NUL (Linux `fs/fsopen.c`).
pub(super) const LONGEST_VALUE: usize = 255;

fn is_refused(error: &anyhow::Error) -> bool {
    matches!(error.root_cause().downcast_ref(), Some(Errno::EPERM | Errno::EBUSY))
}

/// Binds the host's instance where a user namespace may not have one of its own: `sysfs` without a
/// network namespace of its own, `proc` without a process namespace, `mqueue` without its own IPC.
fn instead(
    root: &mut Root,
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
