//! A tree as text, to compare two views of it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One line for each object beneath `root`: path, type and permissions, owner, size and contents.
/// Not: times, inode numbers, the number of links of a directory.
pub(crate) fn tree_text(root: &Path) -> String {
    let mut text = String::new();
    add(root, root, &mut text);
    text
}

fn add(root: &Path, path: &Path, text: &mut String) {
    let meta = fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().display();
    write!(text, "{name} {:o} {}:{} ", meta.mode(), meta.uid(), meta.gid()).unwrap();
    let kind = meta.file_type();
    if kind.is_file() {
        let contents = fs::read(path).unwrap();
        writeln!(text, "{} {}", meta.nlink(), String::from_utf8_lossy(&contents)).unwrap();
    } else if kind.is_symlink() {
        writeln!(text, "{}", fs::read_link(path).unwrap().display()).unwrap();
    } else {
        writeln!(text).unwrap();
    }
    if kind.is_dir() {
        let mut entries: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            add(root, &entry, text);
        }
    }
}
