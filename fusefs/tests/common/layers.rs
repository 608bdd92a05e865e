//! Layers on disk.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};
use rrun_fusefs::{Config, PermissionsKept};

/// Directories for the layers of one overlay.
pub(crate) struct Layers {
    top: PathBuf,
    /// Where the upper and work directory lie.
    upper: PathBuf,
    lowers: usize,
    writeback: bool,
    permissions: PermissionsKept,
}

impl Layers {
    /// Makes `lowers` empty lower directories, an upper, a work directory and a mount point.
    pub(crate) fn new(top: &Path, lowers: usize) -> Self {
        for name in ["upper", "work", "merged"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        let (upper, permissions) = (top.to_owned(), Config::default().permissions);
        let top = top.to_owned();
        let layers = Self { top, upper, lowers, writeback: false, permissions };
        for number in 1..=lowers {
            fs::create_dir_all(layers.lower(number)).unwrap();
        }
        layers
    }

    /// The same layers with an upper and a work directory elsewhere.
    pub(crate) fn with_upper(self, elsewhere: &Path) -> Self {
        let upper = Self::new(elsewhere, 0).upper;
        Self { upper, ..self }
    }

    /// The same layers with the kernel's writeback cache.
    pub(crate) fn with_writeback(self) -> Self {
        Self { writeback: true, ..self }
    }

    /// The same layers with owners and permissions elsewhere than on disk.
    pub(crate) fn with_permissions(self, permissions: PermissionsKept) -> Self {
        Self { permissions, ..self }
    }

    /// Lower directory `number`; 1 is the topmost.
    pub(crate) fn lower(&self, number: usize) -> PathBuf {
        self.top.join(format!("lower{number}"))
    }

    /// The upper directory.
    pub(crate) fn upper(&self) -> PathBuf {
        self.upper.join("upper")
    }

    /// The work directory.
    pub(crate) fn work(&self) -> PathBuf {
        self.upper.join("work")
    }

    /// Where to mount.
    pub(crate) fn merged(&self) -> PathBuf {
        self.top.join("merged")
    }

    /// All of it.
    pub(crate) fn config(&self) -> Config {
        Config {
            lowerdirs: (1..=self.lowers).map(|number| self.lower(number)).collect(),
            upperdir: Some(self.upper()),
            workdir: Some(self.work()),
            writeback: self.writeback,
            permissions: self.permissions,
            ..Config::default()
        }
    }

    /// Makes the file `path` of a lower layer, and the directories above it.
    pub(crate) fn file(&self, layer: usize, path: &str, contents: &str) -> PathBuf {
        let path = self.lower(layer).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// Makes the directory `path` of a lower layer.
    pub(crate) fn folder(&self, layer: usize, path: &str) -> PathBuf {
        let path = self.lower(layer).join(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Hides `path` in the layers below `layer`.
    pub(crate) fn whiteout(&self, layer: usize, path: &str) {
        let path = self.lower(layer).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    }
}

/// Mounts kernel overlayfs over new directories: a file system that refuses whiteouts as devices,
/// as one that is itself part of a container does.
pub(crate) fn without_devices(stage: &Path) -> PathBuf {
    let base = Layers::new(&stage.join("base"), 1);
    let options = format!(
        "userxattr,lowerdir={},upperdir={},workdir={}",
        base.lower(1).display(),
        base.upper().display(),
        base.work().display()
    );
    let kind = Some("overlay");
    mount(kind, &base.merged(), kind, MsFlags::empty(), Some(options.as_str())).unwrap();
    base.merged()
}

/// The names in a directory, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
