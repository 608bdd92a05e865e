//! Fills `/dev`: device nodes, made where the kernel lets us and bound from the host elsewhere, and
//! the usual links.

use std::ffi::OsStr;
use std::iter;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat, umask};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use rrun_spec::mount_options::attr;

use crate::plan::DevicePlan;
use crate::rootfs::paths::{Root, ensure_device, remove_file};
use crate::rootfs::verify;
use crate::sys::mount::{Attributes, attach, clone_tree, set_attributes};

/// The devices that every container has (runtime-spec, "Default Devices"), with their numbers.
const DEFAULT_DEVICES: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links that every container has (runtime-spec, "Dev symbolic links"), and runc's `core`.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The directory of the links, and of most devices.
const DEV: &str = "/dev";

/// Where the devices are that every container has.
pub fn default_paths() -> impl Iterator<Item = &'static str> {
    DEFAULT_DEVICES.iter().map(|(path, ..)| *path)
}

/// Makes the default devices, those of `devices`, and the links.
///
/// Where `may_make` is false, which is the rule in a user namespace, those of `nodes` are bound, which
/// come in the order of `devices`, or else the host's.
///
/// # Errors
///
/// Which device could not be made, and why.
pub fn fill(
    root: &Root,
    devices: &[DevicePlan],
    nodes: Vec<Option<OwnedFd>>,
    may_make: bool,
) -> anyhow::Result<()> {
    let named = |path: &str| devices.iter().any(|device| device.path == Path::new(path));
    let defaults = DEFAULT_DEVICES.iter().filter(|(path, ..)| !named(path));
    let defaults: Vec<_> =
        defaults.map(|(path, major, minor)| default(path, *major, *minor)).collect();
    let directory = root.make_directory(Path::new(DEV))?;
    // Nodes get their mode as they are made: to change it later is to look the name up again, which
    // may be another's by then.
    let usual = umask(Mode::empty());
    let nodes = nodes.into_iter().chain(iter::repeat_with(|| None));
    let devices: Vec<_> = devices.iter().zip(nodes).collect();
    let filled =
        fill_in(&Dev { root, directory: directory.as_fd(), may_make }, &defaults, &devices);
    umask(usual);
    filled
}

fn fill_in(
    dev: &Dev<'_>,
    defaults: &[DevicePlan],
    devices: &[(&DevicePlan, Option<OwnedFd>)],
) -> anyhow::Result<()> {
    // As with runc, a container's terminals are its own, also where a device is asked for there.
    let others = devices.iter().filter(|(device, _)| device.path != Path::new("/dev/ptmx"));
    let others = others.map(|(device, node)| (*device, node.as_ref()));
    defaults.iter().map(|device| (device, None)).chain(others).try_for_each(|(device, node)| {
        match node {
            Some(node) => bind_node(dev.root, device, node.as_fd()),
            None => make(dev, device),
        }
        .with_context(|| format!("make device {}", device.path.display()))
    })?;
    LINKS.iter().try_for_each(|(name, target)| {
        link(dev.directory, name, target).with_context(|| format!("make link {DEV}/{name}"))
    })
}

/// Where devices are made.
struct Dev<'a> {
    root: &'a Root,
    /// `/dev` itself, in which most of them lie.
    directory: BorrowedFd<'a>,
    may_make: bool,
}

fn default(path: &str, major: u64, minor: u64) -> DevicePlan {
    DevicePlan { path: path.into(), kind: libc::S_IFCHR, major, minor, mode: 0o666, uid: 0, gid: 0 }
}

fn make(dev: &Dev<'_>, device: &DevicePlan) -> anyhow::Result<()> {
    if dev.may_make || device.kind == libc::S_IFIFO {
        let made = match (device.path.parent(), device.path.file_name()) {
            (Some(parent), Some(name)) if parent == Path::new(DEV) => {
                make_node(dev.directory, name, device)?
            }
            _ => {
                let (parent, name) = dev.root.make_parent(&device.path)?;
                make_node(parent.as_fd(), &name, device)?
            }
        };
        match made {
            Made::Yes => return Ok(()),
            Made::Refused | Made::SomethingElseIsThere => {}
        }
    }
    bind_host_node(dev.root, device)
}

enum Made {
    Yes,
    Refused,
    SomethingElseIsThere,
}

/// Makes the node `name` in `parent`; a link of that name is something else, and not followed.
fn make_node(parent: BorrowedFd<'_>, name: &OsStr, device: &DevicePlan) -> anyhow::Result<Made> {
    let kind = SFlag::from_bits_truncate(device.kind);
    let mode = Mode::from_bits_truncate(device.mode);
    let number = makedev(device.major, device.minor);
    match mknodat(parent, name, kind, mode, number) {
        Err(Errno::EPERM) => return Ok(Made::Refused),
        Err(Errno::EEXIST) => {
            let found = nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let same = found.st_mode & libc::S_IFMT == device.kind && found.st_rdev == number;
            // As it is: it may be a mount of the caller's, and so the host's own node.
            return Ok(if same { Made::Yes } else { Made::SomethingElseIsThere });
        }
        result => result?,
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(Made::Yes)
}

/// Shows the terminal `peer` as `/dev/console`; a link of the image's there is not followed
/// (CVE-2025-52565).
///
/// # Errors
///
/// Those of the mount calls.
pub fn bind_console(root: &Root, peer: BorrowedFd<'_>) -> anyhow::Result<()> {
    let bind = || -> anyhow::Result<()> {
        let device = clone_tree(peer, "", false)?;
        let directory = root.make_directory(Path::new(DEV))?;
        let place = Root::make_file_itself(directory.as_fd(), OsStr::new("console"))?;
        attach(device.as_fd(), place.as_fd())?;
        verify::leads_to(root, Path::new("/dev/console"), true, device.as_fd())
    };
    bind().context("bind the terminal to /dev/console")
}

/// Binds the host's node.
fn bind_host_node(root: &Root, device: &DevicePlan) -> anyhow::Result<()> {
    let node = clone_tree(AT_FDCWD, &device.path, false).context("bind the host's")?;
    ensure_same(node.as_fd(), device)?;
    // Whatever else the host's file system would allow.
    let set = attr::NOSUID | attr::NOEXEC;
    set_attributes(node.as_fd(), Attributes { set, ..Attributes::default() }, false)?;
    bind_node(root, device, node.as_fd()).context("bind the host's")
}

/// Shows `node` where `device` is to be; where the image has a link, the link itself is covered.
fn bind_node(root: &Root, device: &DevicePlan, node: BorrowedFd<'_>) -> anyhow::Result<()> {
    let name = device.path.file_name().context("want a name")?;
    let directory = root.make_directory(device.path.parent().unwrap_or(Path::new("/")))?;
    verify::not_in_procfs(directory.as_fd(), &device.path)?;
    let target = Root::make_file_itself(directory.as_fd(), name)?;
    Ok(attach(node, target.as_fd())?)
}

fn ensure_same(node: BorrowedFd<'_>, device: &DevicePlan) -> anyhow::Result<()> {
    if device.kind == libc::S_IFCHR {
        return ensure_device(node, device.major, device.minor).context("the host's");
    }
    let stat = nix::sys::stat::fstat(node)?;
    let number = makedev(device.major, device.minor);
    anyhow::ensure!(
        stat.st_mode & libc::S_IFMT == device.kind
            && (device.kind == libc::S_IFIFO || stat.st_rdev == number),
        "the host's is another device"
    );
    Ok(())
}

/// Makes the link `name` in `directory`: one in the image is replaced and never followed.
fn link(directory: BorrowedFd<'_>, name: &str, target: &str) -> anyhow::Result<()> {
    match symlinkat(target, directory, name) {
        Err(Errno::EEXIST) => {}
        result => return Ok(result?),
    }
    if nix::fcntl::readlinkat(directory, name).is_ok_and(|found| found == target) {
        return Ok(());
    }
    match remove_file(directory, name.as_ref()) {
        // A directory, or a mount of the caller's: it is to be there.
        Err(Errno::EISDIR | Errno::EBUSY | Errno::EPERM) => Ok(()),
        removed => {
            removed?;
            Ok(symlinkat(target, directory, name)?)
        }
    }
}
