//! Opening the layers, and refusing what cannot work before anything is mounted.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::config::{Config, PermissionsKept};
use crate::format::origin::Origin;
use crate::format::permissions::{self, Permissions};
use crate::layer::{Folder, Layer, LayerIndex};
use crate::sys::{lock, stat, xattr};
use crate::upper::permissions::Keeping;
use crate::upper::{Upper, UpperFolder};
use crate::view::View;

/// Why an overlay cannot be opened. Each text is one line with cause and cure.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A layer, upper or work directory cannot be opened.
    #[error("open {what} {path}: {cure}: {errno}", path = path.display(), cure = cure(*errno))]
    Directory {
        /// `lower directory` and so on.
        what: &'static str,
        /// As it was given.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Two of the directories are the same or one lies inside the other.
    #[error(
        "{one} {one_path} is {relation} {other} {other_path}: writes would go to both; use separate directories",
        one_path = one_path.display(), other_path = other_path.display()
    )]
    Overlap {
        /// The first.
        one: &'static str,
        /// As it was given.
        one_path: PathBuf,
        /// `the same directory as` or `inside`.
        relation: &'static str,
        /// The second.
        other: &'static str,
        /// As it was given.
        other_path: PathBuf,
    },
    /// The upper or work directory belongs to another mount.
    #[error(
        "{what} {path} is in use by another overlay: unmount that one or use another directory",
        path = path.display()
    )]
    InUse {
        /// `upper directory` or `work directory`.
        what: &'static str,
        /// As it was given.
        path: PathBuf,
    },
    /// A rename from the work to the upper directory would not work.
    #[error(
        "work directory {work} is not on the mount of upper directory {upper}: put them side by side",
        work = work.display(), upper = upper.display()
    )]
    OtherMount {
        /// As it was given.
        work: PathBuf,
        /// As it was given.
        upper: PathBuf,
    },
    /// Opaque directories cannot be marked.
    #[error(
        "upper directory {path} is on a file system without user extended attributes ({errno}): use ext4, xfs, btrfs or tmpfs (Linux 6.6 or later)",
        path = path.display()
    )]
    NoAttributes {
        /// As it was given.
        path: PathBuf,
        /// What setting one said.
        errno: Errno,
    },
    /// The work directory cannot be prepared.
    #[error(
        "prepare work directory {path}: {errno}: it must be writable, and empty but for what an overlay left",
        path = path.display()
    )]
    Work {
        /// As it was given.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// More layers than the format can count.
    #[error("{0} lower directories are too many: at most {MOST_LAYERS}; merge some of them")]
    TooManyLayers(usize),
    /// No layer at all.
    #[error("no lower directory: name at least one")]
    NoLayers,
    /// `/dev/fuse` cannot be opened.
    #[error("open /dev/fuse: {errno}: {cure}", cure = crate::device::cure(*errno))]
    Device {
        /// Why.
        errno: Errno,
    },
}

/// As many as kernel overlayfs merges.
const MOST_LAYERS: usize = 500;
const LOWER: &str = "lower directory";
const UPPER: &str = "upper directory";
const WORK: &str = "work directory";

fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "it does not exist; create it or correct the path",
        Errno::ENOTDIR => "it is not a directory; correct the path",
        Errno::EACCES | Errno::EPERM => {
            "no permission; it and all directories above must be readable and searchable for you"
        }
        Errno::EROFS => "the file system is read-only; use another directory",
        _ => "the file system refuses",
    }
}

/// The opened layers, locked against use by another overlay for as long as this or an inherited
/// copy of it exists.
#[derive(Debug)]
pub struct Overlay {
    lowers: Vec<Layer>,
    /// The device numbers of the layers' file systems, the upper one's first.
    devices: Vec<u64>,
    pub(crate) upper: Option<Upper>,
    /// Keeps the lock on the work directory.
    _workdir: Option<UpperFolder>,
    pub(crate) view: View,
    pub(crate) writeback: bool,
    /// Whether directories of lower layers may be renamed.
    pub(crate) redirect_dir: bool,
}

impl Overlay {
    /// Opens and checks all directories of `config`, and clears the work directory: in the user
    /// namespace that will serve them, since what lies there may belong to any of its ids.
    ///
    /// The descriptors are closed on exec and shared over a fork, the locks with them.
    ///
    /// # Errors
    ///
    /// An [`OpenError`]; nothing was changed then but, at most, the inside of the work directory.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        if config.lowerdirs.is_empty() {
            return Err(OpenError::NoLayers);
        }
        if config.lowerdirs.len() > MOST_LAYERS {
            return Err(OpenError::TooManyLayers(config.lowerdirs.len()));
        }
        let lowers = config.lowerdirs.iter().map(|path| open_lower(path));
        let lowers = lowers.collect::<Result<Vec<_>, _>>()?;
        let (mut upper, mut held) = (None, None);
        if let (Some(upperdir), Some(workdir)) = (&config.upperdir, &config.workdir) {
            let root = open_upper(UPPER, upperdir)?;
            let work = open_upper(WORK, workdir)?;
            check_apart(config, &lowers, (upperdir, &root), (workdir, &work))?;
            check_same_mount((upperdir, &root), (workdir, &work))?;
            take(UPPER, upperdir, &root)?;
            take(WORK, workdir, &work)?;
            check_attributes(upperdir, &root)?;
            let failed = |errno| OpenError::Work { path: workdir.clone(), errno };
            let keeping = keep_permissions(config.permissions, &root).map_err(failed)?;
            let prepared = Upper::prepare(root, &work, keeping).map_err(failed)?;
            if lowers.iter().any(|layer| layer.whiteouts) {
                // Copies of them will lie in the upper directory.
                prepared.expect_whiteouts().map_err(failed)?;
            }
            upper = Some(prepared);
            held = Some(work);
        }
        let mut devices = Vec::new();
        if let (Some(upper), Some(path)) = (&upper, &config.upperdir) {
            let failed = |errno| OpenError::Directory { what: UPPER, path: path.clone(), errno };
            devices.push(upper.root.own_stat().map_err(failed)?.st_dev);
        }
        devices.extend(lowers.iter().map(|layer| layer.device));
        let mut seen = HashSet::new();
        devices.retain(|device| seen.insert(*device));
        let Config { writeback, redirect_dir, .. } = *config;
        let view = View::of(config);
        Ok(Self { lowers, devices, upper, _workdir: held, view, writeback, redirect_dir })
    }

    /// The lower layer with this index.
    pub(crate) fn layer(&self, index: LayerIndex) -> nix::Result<&Layer> {
        let position = usize::from(index.0).checked_sub(1).ok_or(Errno::EIO)?;
        self.lowers.get(position).ok_or(Errno::EIO)
    }

    /// The inode number that the merged tree shows for the inode `number` of `device`: the same with
    /// each mount of the same layers, and another for every other inode.
    pub(crate) fn number(&self, device: u64, number: u64) -> u64 {
        compose(self.devices.iter().position(|known| *known == device), device, number)
    }

    /// The same for the lower object that a record names, if its file system is among ours.
    pub(crate) fn number_of(&self, origin: Origin) -> Option<u64> {
        let layer = self.lowers.iter().find(|layer| layer.is_on(origin.system))?;
        Some(self.number(layer.device, origin.number))
    }

    /// The topmost lower layer.
    pub(crate) fn top(&self) -> nix::Result<&Layer> {
        self.layer(LayerIndex(1))
    }

    /// The index of the lowest layer.
    pub(crate) fn last_layer(&self) -> LayerIndex {
        LayerIndex(u16::try_from(self.lowers.len()).unwrap_or(u16::MAX))
    }
}

/// Bits of an inode number that file systems use in practice; the position of the file system among
/// ours goes above them. The first one's numbers stay as they are.
const NUMBER_BITS: u32 = 48;

/// See [`Overlay::number`]. What does not fit is mixed into the upper half of all numbers: two that
/// are the same then are too unlikely to be met with.
fn compose(position: Option<usize>, device: u64, number: u64) -> u64 {
    match position {
        Some(position) if number >> NUMBER_BITS == 0 => (position as u64) << NUMBER_BITS | number,
        _ => {
            let mut mixed = number ^ device.rotate_left(40);
            for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
                mixed = (mixed ^ mixed >> 30).wrapping_mul(factor);
            }
            mixed | 1 << 63
        }
    }
}

fn open_lower(path: &Path) -> Result<Layer, OpenError> {
    let failed = |errno| OpenError::Directory { what: LOWER, path: path.to_owned(), errno };
    Folder::open(path).and_then(Layer::new).map_err(failed)
}

/// Where the upper directory `root` keeps permissions: where it has them already, else as `wanted`.
fn keep_permissions(wanted: PermissionsKept, root: &UpperFolder) -> nix::Result<Keeping> {
    if let Some(name) = root.permissions_attribute()? {
        return Ok(Keeping::Attribute(name));
    }
    let name = match wanted {
        PermissionsKept::OnDisk => return Ok(Keeping::OnDisk),
        PermissionsKept::WithoutSetId => return Ok(Keeping::WithoutSetId),
        PermissionsKept::Privileged => permissions::PRIVILEGED,
        PermissionsKept::User => permissions::USER,
        PermissionsKept::Containers => permissions::CONTAINERS,
    };
    let stat = root.own_stat()?;
    let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
    let value = Permissions { uid, gid, mode }.format(libc::S_IFDIR);
    xattr::set(&root.own_attributes(), name, value.as_bytes(), 0)?;
    Ok(Keeping::Attribute(name))
}

fn open_upper(what: &'static str, path: &Path) -> Result<UpperFolder, OpenError> {
    UpperFolder::open(path).map_err(|errno| OpenError::Directory {
        what,
        path: path.to_owned(),
        errno,
    })
}

/// Refuses directories that contain each other: a write would change a layer.
fn check_apart(
    config: &Config,
    lowers: &[Layer],
    (upperdir, upper): (&Path, &UpperFolder),
    (workdir, work): (&Path, &UpperFolder),
) -> Result<(), OpenError> {
    let upper = Ancestry::of(UPPER, upperdir, upper)?;
    let work = Ancestry::of(WORK, workdir, work)?;
    upper.refuse_overlap(&work)?;
    for (path, layer) in config.lowerdirs.iter().zip(lowers) {
        let lower = Ancestry::of(LOWER, path, &layer.root)?;
        lower.refuse_overlap(&upper)?;
        lower.refuse_overlap(&work)?;
    }
    Ok(())
}

/// A directory and those above it.
struct Ancestry<'a> {
    what: &'static str,
    path: &'a Path,
    /// Device and inode number, beginning with the directory's own.
    upwards: Vec<(u64, u64)>,
}

impl<'a> Ancestry<'a> {
    /// Walks up by `..`, as far as that may be read: what lies above is taken as apart.
    fn of(what: &'static str, path: &'a Path, folder: &Folder) -> Result<Self, OpenError> {
        let failed = |errno| OpenError::Directory { what, path: path.to_owned(), errno };
        let identity = |folder: &Folder| folder.own_stat().map(|stat| (stat.st_dev, stat.st_ino));
        let mut upwards = vec![identity(folder).map_err(failed)?];
        let mut above = folder.folder("..".as_ref());
        while let Ok(folder) = above {
            let next = identity(&folder).map_err(failed)?;
            if upwards.last() == Some(&next) {
                break;
            }
            upwards.push(next);
            above = folder.folder("..".as_ref());
        }
        Ok(Self { what, path, upwards })
    }

    fn refuse_overlap(&self, other: &Self) -> Result<(), OpenError> {
        for (inner, outer) in [(self, other), (other, self)] {
            let depth = inner.upwards.iter().position(|above| outer.upwards.first() == Some(above));
            let relation = match depth {
                None => continue,
                Some(0) => "the same directory as",
                Some(_) => "inside",
            };
            return Err(OpenError::Overlap {
                one: inner.what,
                one_path: inner.path.to_owned(),
                relation,
                other: outer.what,
                other_path: outer.path.to_owned(),
            });
        }
        Ok(())
    }
}

fn check_same_mount(
    (upperdir, upper): (&Path, &UpperFolder),
    (workdir, work): (&Path, &UpperFolder),
) -> Result<(), OpenError> {
    let mount = |what, path: &Path, folder: &UpperFolder| {
        stat::mount_id(folder.as_fd()).map_err(|errno| OpenError::Directory {
            what,
            path: path.to_owned(),
            errno,
        })
    };
    if mount(UPPER, upperdir, upper)? == mount(WORK, workdir, work)? {
        return Ok(());
    }
    Err(OpenError::OtherMount { work: workdir.to_owned(), upper: upperdir.to_owned() })
}

/// Tries whether a directory can be marked, on the upper directory itself.
fn check_attributes(path: &Path, upper: &UpperFolder) -> Result<(), OpenError> {
    const PROBE: &CStr = c"user.overlay.probe";
    let subject = upper.own_attributes();
    let tried = xattr::set(&subject, PROBE, b"", 0).and_then(|()| xattr::remove(&subject, PROBE));
    match tried {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP) => {
            Err(OpenError::NoAttributes { path: path.to_owned(), errno: Errno::EOPNOTSUPP })
        }
        Err(errno) => Err(OpenError::Directory { what: UPPER, path: path.to_owned(), errno }),
    }
}

/// Takes a directory into exclusive use.
fn take(what: &'static str, path: &Path, folder: &UpperFolder) -> Result<(), OpenError> {
    let path = path.to_owned();
    lock::lock_exclusively(folder.as_fd()).map_err(|errno| match errno {
        Errno::EWOULDBLOCK => OpenError::InUse { what, path },
        errno => OpenError::Directory { what, path, errno },
    })
}

#[cfg(test)]
mod tests {
    use super::compose;

    #[test]
    fn numbers_of_several_file_systems_stay_apart() {
        assert_eq!(compose(Some(0), 5, 77), 77, "the first one's own");
        assert_eq!(compose(Some(2), 5, 77), (2 << 48) | 77);
        let large = 1 << 50;
        let mixed = [
            compose(Some(0), 5, large),
            compose(Some(0), 5, large + 1),
            compose(Some(1), 6, large),
            compose(None, 7, 77),
        ];
        for (at, number) in mixed.iter().enumerate() {
            assert_ne!(number >> 63, 0, "no small number is like it");
            assert!(!mixed[..at].contains(number));
        }
        assert_eq!(mixed[0], compose(Some(0), 5, large), "the same with each mount");
    }
}
