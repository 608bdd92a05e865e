//! All that can be seen of a tree, to compare it with another one or with itself later.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::AT_FDCWD;

use super::xattr;

/// All times of the layers lie before this, all of the test after it.
pub(crate) const OLD: Duration = Duration::from_secs(1_500_000_000);

/// All paths below `root`, itself included, relative to it and sorted.
pub(crate) fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    let mut at = 0;
    while let Some(folder) = found.get(at).cloned() {
        at += 1;
        let full = root.join(&folder);
        if fs::symlink_metadata(&full).unwrap().is_dir() {
            let mut names: Vec<OsString> =
                fs::read_dir(full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            found.extend(names.into_iter().map(|name| folder.join(name)));
        }
    }
    found
}

/// Everything about one object that must be the same in two views of one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    uid: u32,
    gid: u32,
    /// `None` for a directory, where layers count differently.
    links: Option<u64>,
    size: Option<u64>,
    /// Only times that a copy must keep.
    modified: Option<(i64, i64)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// A hash, so that a difference can be printed.
    contents: u64,
    /// The first path with the same inode number.
    same_as: PathBuf,
}

impl Seen {
    /// Whether it is what was `wanted`, but for the times of a directory, which may be newer.
    pub(crate) fn is_like(&self, wanted: &Self) -> bool {
        let is_folder = self.mode & libc::S_IFMT == libc::S_IFDIR;
        let modified = if is_folder { wanted.modified } else { self.modified };
        Self { modified, ..self.clone() } == *wanted
    }
}

fn hash(contents: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

/// All objects below `root`, itself included, by their paths.
pub(crate) fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for path in paths(root) {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let is_folder = meta.is_dir();
        let contents = if meta.is_file() {
            fs::read(&full).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        let old = meta.mtime() < i64::try_from(OLD.as_secs()).unwrap();
        let seen = Seen {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            links: (!is_folder).then_some(meta.nlink()),
            size: (!is_folder).then_some(meta.size()),
            modified: old.then_some((meta.mtime(), meta.mtime_nsec())),
            attributes: xattr::all(&full),
            contents: hash(&contents),
            same_as: first.entry(meta.ino()).or_insert(path.clone()).clone(),
        };
        all.insert(path, seen);
    }
    all
}

/// The inode numbers of what keeps them over a remount.
pub(crate) fn numbers(root: &Path) -> BTreeMap<PathBuf, u64> {
    let number = |path: PathBuf| {
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        (meta.is_dir() || meta.is_file()).then(|| (path, meta.ino()))
    };
    paths(root).into_iter().filter_map(number).collect()
}

/// Gives everything old times, the same for the same path in every layer.
pub(crate) fn age(root: &Path) {
    for path in paths(root) {
        let time = nix::sys::time::TimeSpec::new(1_000_000_000 + path.as_os_str().len() as i64, 7);
        let follow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(AT_FDCWD, &root.join(path), &time, &time, follow).unwrap();
    }
}
