//! Image layers: plain directories in overlayfs' on-disk form, and checksums over them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, mknod};

use super::bundle::busybox_root;
use super::{Sandbox, needs_fuse};

/// Three layers: busybox; one that adds and changes files; one that removes some.
///
/// Inside are `/shop/prices` with `apples 3`, no `/shop/draft`, and `/manual` with only `new`.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) path: PathBuf,
}

impl Image {
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        needs_fuse();
        let image = Self { path: sandbox.directory("image") };
        for layer in ["base", "middle", "top"] {
            fs::create_dir(image.layer(layer)).unwrap();
        }
        busybox_root(&image.layer("base"));
        image.write("base/manual/old", "from the base\n");
        image.write("base/shop/prices", "apples 1\n");
        image.write("middle/shop/prices", "apples 3\n");
        image.write("middle/shop/draft", "not for sale\n");
        image.write("top/manual/new", "from the top\n");
        image.whiteout("top/shop/draft");
        image.opaque("top/manual");
        image
    }

    pub(crate) fn layer(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The value of `lowerdir`: topmost first.
    pub(crate) fn lowerdir(&self) -> String {
        let layers = ["top", "middle", "base"].map(|layer| self.layer(layer).display().to_string());
        layers.join(":")
    }

    /// Writes a file of a layer.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Removes a name of the layers below. The kernel lets everybody make this one device.
    pub(crate) fn whiteout(&self, name: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    }

    /// Hides what the layers below have in this directory.
    fn opaque(&self, name: &str) {
        let mut command = Command::new("setfattr");
        command.args(["-n", "user.overlay.opaque", "-v", "y"]).arg(self.path.join(name));
        assert!(command.status().unwrap().success(), "{command:?}");
    }

    /// Everything that a write could change: see [`fingerprint`].
    pub(crate) fn fingerprint(&self) -> Vec<String> {
        fingerprint(&self.path)
    }
}

/// One line for each file below `root`: name, metadata with times to the nanosecond, extended
/// attributes, content. Reading changes none of it.
pub(crate) fn fingerprint(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let is_directory = fs::symlink_metadata(&path).unwrap().is_dir();
        lines.push(describe(&path));
        if is_directory {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines.push(attributes(root));
    lines
}

fn describe(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let (mode, uid, gid, size) = (meta.mode(), meta.uid(), meta.gid(), meta.size());
    let (modified, changed) = (meta.mtime_nsec(), meta.ctime_nsec());
    let content = match meta.file_type() {
        kind if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string(),
        kind if kind.is_file() => hash(&fs::read(path).unwrap()),
        _ => OsString::new(),
    };
    let seconds = (meta.mtime(), meta.ctime());
    format!("{path:?} {mode:o} {uid} {gid} {size} {seconds:?} {modified} {changed} {content:?}")
}

fn hash(bytes: &[u8]) -> OsString {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish().to_string().into()
}

/// All extended attributes below `root`.
fn attributes(root: &Path) -> String {
    let mut command = Command::new("getfattr");
    let output = command
        .args(["-R", "-P", "-h", "-d", "-m", "-"])
        .arg(".")
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
