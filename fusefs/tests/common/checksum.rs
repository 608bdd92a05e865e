//! All that a layer consists of, as one number.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::xattr;

/// Names, metadata, attributes and contents of everything beneath `path`; not the times of access.
pub(crate) fn checksum(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    add(path, &mut hasher);
    hasher.finish()
}

fn add(path: &Path, hasher: &mut DefaultHasher) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ino(), meta.mode(), meta.nlink(), meta.uid(), meta.gid()).hash(hasher);
    (meta.rdev(), meta.size(), meta.mtime(), meta.mtime_nsec()).hash(hasher);
    (meta.ctime(), meta.ctime_nsec()).hash(hasher);
    for (name, value) in xattr::all(path) {
        (name, value).hash(hasher);
    }
    let kind = meta.file_type();
    if kind.is_symlink() {
        fs::read_link(path).unwrap().hash(hasher);
    } else if kind.is_file() {
        fs::read(path).unwrap().hash(hasher);
    } else if kind.is_dir() {
        let mut entries: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            entry.as_os_str().as_bytes().hash(hasher);
            add(&entry, hasher);
        }
    } else {
        assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device(), "{path:?}");
    }
}
