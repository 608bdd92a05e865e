//! The merged tree without a mount.

use std::ffi::OsStr;
use std::fs;

use nix::errno::Errno;
use rrun_fusefs::Overlay;
use rrun_fusefs::tree::{Asker, Exchange, Ino, Kind, Tree, Wanted};

use crate::common::Layers;

/// Descriptors for the cache: few, so that it has to close and open again.
const DESCRIPTORS: usize = 4;

fn tree(layers: &Layers) -> Tree {
    Tree::new(Overlay::open(&layers.config()).unwrap(), DESCRIPTORS).unwrap()
}

fn asker() -> Asker {
    Asker {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        umask: 0o022,
    }
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// Names and node ids of a listing.
fn list(tree: &Tree, ino: Ino, wanted: Wanted) -> Vec<(String, Ino)> {
    let mut lines = Vec::new();
    tree.list(ino, 0, wanted, |line| {
        lines.push((line.name.to_string_lossy().into_owned(), line.ino));
        true
    })
    .unwrap();
    lines.retain(|(name, _)| name != "." && name != "..");
    lines.sort();
    lines
}

fn stage(lowers: usize) -> (tempfile::TempDir, Layers) {
    let stage = tempfile::tempdir().unwrap();
    let layers = Layers::new(stage.path(), lowers);
    (stage, layers)
}

#[test]
fn node_ids_are_never_used_twice() {
    let (_stage, layers) = stage(1);
    layers.file(1, "a", "");
    let tree = tree(&layers);
    let lower = tree.lookup(Ino::ROOT, name("a")).unwrap().ino;
    let mut seen = vec![lower];
    for _ in 0..5 {
        let made = tree.make(Ino::ROOT, name("b"), Kind::File, 0o644, &asker()).unwrap().ino;
        assert!(!seen.contains(&made));
        seen.push(made);
        tree.unlink(Ino::ROOT, name("b")).unwrap();
        tree.forget(made, 1);
    }
}

#[test]
fn a_forgotten_node_is_gone_and_comes_back_under_its_number() {
    let (_stage, layers) = stage(1);
    layers.file(1, "d/f", "");
    let tree = tree(&layers);
    let folder = tree.lookup(Ino::ROOT, name("d")).unwrap().ino;
    let file = tree.lookup(folder, name("f")).unwrap().ino;
    tree.lookup(folder, name("f")).unwrap();
    assert_eq!(tree.nodes(), 3);
    tree.forget(file, 1);
    assert_eq!(tree.nodes(), 3, "one reference is left");
    tree.forget(folder, 1);
    assert_eq!(tree.nodes(), 3, "its child holds it");
    tree.forget(file, 1);
    assert_eq!(tree.nodes(), 1, "both are given back");
    assert_eq!(tree.attr(file), Err(Errno::ESTALE));
    assert_eq!(tree.lookup(Ino::ROOT, name("d")).unwrap().ino, folder);
}

#[test]
fn listings_and_lookups_agree_on_node_ids() {
    let (_stage, layers) = stage(2);
    layers.file(2, "a", "");
    fs::hard_link(layers.lower(2).join("a"), layers.lower(2).join("b")).unwrap();
    layers.file(1, "c", "");
    layers.folder(1, "d");
    let tree = tree(&layers);
    let lines = list(&tree, Ino::ROOT, Wanted::Names);
    assert_eq!(tree.nodes(), 1, "names alone make no nodes");
    assert_eq!(lines.len(), 4);
    for (entry, ino) in &lines {
        assert_eq!(tree.lookup(Ino::ROOT, name(entry)).unwrap().ino, *ino, "{entry}");
    }
    assert_eq!(lines[0].1, lines[1].1, "hard links share one");
    assert_eq!(list(&tree, Ino::ROOT, Wanted::Metadata), lines);
}

#[test]
fn a_listing_survives_changes_between_its_parts() {
    let (_stage, layers) = stage(1);
    for number in 0..10 {
        layers.file(1, &format!("f{number}"), "");
    }
    let tree = tree(&layers);
    let (mut cookie, mut seen) = (0, Vec::new());
    loop {
        let before = seen.len();
        tree.list(Ino::ROOT, cookie, Wanted::Names, |line| {
            if seen.len() == before + 1 {
                return false;
            }
            cookie = line.cookie;
            seen.push(line.name.to_string_lossy().into_owned());
            true
        })
        .unwrap();
        let Some(last) = seen.last().filter(|_| seen.len() > before).cloned() else { break };
        if last.starts_with('f') {
            tree.unlink(Ino::ROOT, name(&last)).unwrap();
        }
    }
    seen.sort();
    let expected: Vec<_> = (0..10).map(|number| format!("f{number}")).collect();
    assert_eq!(seen[2..], expected);
    assert_eq!(list(&tree, Ino::ROOT, Wanted::Names), []);
}

#[test]
fn a_line_without_room_counts_no_reference() {
    let (_stage, layers) = stage(1);
    layers.file(1, "f", "");
    let tree = tree(&layers);
    tree.list(Ino::ROOT, 2, Wanted::Metadata, |_line| false).unwrap();
    assert_eq!(tree.nodes(), 1);
    tree.list(Ino::ROOT, 2, Wanted::Metadata, |_line| true).unwrap();
    assert_eq!(tree.nodes(), 2);
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten() {
    let (_stage, layers) = stage(1);
    layers.file(1, "lower", "from below");
    let tree = tree(&layers);
    let lower = tree.lookup(Ino::ROOT, name("lower")).unwrap().ino;
    let upper = tree.make(Ino::ROOT, name("upper"), Kind::File, 0o600, &asker()).unwrap().ino;
    tree.write(upper, 0, b"from above", false).unwrap();
    for (ino, file, text) in [(lower, "lower", "from below"), (upper, "upper", "from above")] {
        tree.unlink(Ino::ROOT, name(file)).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(tree.read(ino, 0, &mut buffer), Ok(10), "{file}");
        assert_eq!(buffer, text.as_bytes());
        assert_eq!(tree.attr(ino).unwrap().links, 0, "{file}");
        assert_eq!(tree.write(ino, 4, b"!", false).unwrap().bytes, 1, "{file}");
        tree.read(ino, 0, &mut buffer).unwrap();
        assert_eq!(buffer[4], b'!', "{file}");
        tree.forget(ino, 1);
        assert_eq!(tree.attr(ino), Err(Errno::ESTALE), "{file}");
    }
    assert_eq!(tree.nodes(), 1);
    assert_eq!(fs::read_to_string(layers.lower(1).join("lower")).unwrap(), "from below");
}

#[test]
fn names_that_are_none_are_refused() {
    let (_stage, layers) = stage(1);
    let tree = tree(&layers);
    let long = "n".repeat(256);
    let root = Ino::ROOT;
    for (bad, errno) in [
        ("", Errno::EINVAL),
        ("..", Errno::EINVAL),
        ("a/b", Errno::EINVAL),
        (long.as_str(), Errno::ENAMETOOLONG),
    ] {
        assert_eq!(tree.lookup(root, name(bad)).unwrap_err(), errno, "{bad:?}");
        assert_eq!(tree.make(root, name(bad), Kind::Folder, 0o755, &asker()), Err(errno));
        assert_eq!(tree.unlink(root, name(bad)), Err(errno), "{bad:?}");
        assert_eq!(tree.rename(root, name("x"), root, name(bad), Exchange::Replace), Err(errno));
    }
    let marker = tree.make(root, name(".wh.x"), Kind::File, 0o644, &asker());
    assert_eq!(marker.unwrap_err(), Errno::EINVAL);
}

#[test]
fn directories_do_not_move_into_themselves() {
    let (_stage, layers) = stage(1);
    layers.file(1, "lower/f", "");
    let tree = tree(&layers);
    let root = Ino::ROOT;
    let lower = tree.lookup(root, name("lower")).unwrap().ino;
    let within = tree.rename(root, name("lower"), lower, name("x"), Exchange::Replace);
    assert_eq!(within, Err(Errno::EINVAL));
    let made = tree.make(root, name("made"), Kind::Folder, 0o755, &asker()).unwrap();
    tree.make(made.ino, name("f"), Kind::File, 0o644, &asker()).unwrap();
    tree.rename(root, name("made"), root, name("other"), Exchange::Replace).unwrap();
    assert_eq!(list(&tree, made.ino, Wanted::Names).len(), 1);
    let within = tree.rename(root, name("other"), made.ino, name("x"), Exchange::Replace);
    assert_eq!(within, Err(Errno::EINVAL));
}

#[test]
fn the_same_file_under_two_names_stays_when_one_replaces_the_other() {
    let (_stage, layers) = stage(1);
    let tree = tree(&layers);
    let root = Ino::ROOT;
    let file = tree.make(root, name("a"), Kind::File, 0o644, &asker()).unwrap().ino;
    assert_eq!(tree.link(file, root, name("b")).unwrap().links, 2);
    tree.rename(root, name("a"), root, name("b"), Exchange::Replace).unwrap();
    assert_eq!(list(&tree, root, Wanted::Names).len(), 2);
}

#[test]
fn memory_is_given_back() {
    const FILES: usize = 2_500;
    /// What a file costs: its record, its line in the listing, its place in the index.
    const MOST_PER_FILE: i64 = 120;
    let resident = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let own = |line: &&str| line.starts_with("RssAnon:") || line.starts_with("RssShmem:");
        let number = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap();
        status.lines().filter(own).map(number).sum::<i64>()
    };
    let (_stage, layers) = stage(1);
    for number in 0..FILES {
        layers.file(1, &format!("d{}/file{number}", number % 10), "");
    }
    let tree = tree(&layers);
    // Touched, so that it counts among what was there before.
    let mut known = vec![Ino::ROOT; 2 * FILES];
    known.clear();
    list(&tree, Ino::ROOT, Wanted::Metadata).into_iter().for_each(|(_, ino)| tree.forget(ino, 1));
    let before = resident();
    for number in 0..10 {
        let folder = tree.lookup(Ino::ROOT, name(&format!("d{number}"))).unwrap().ino;
        known.push(folder);
        known.extend(list(&tree, folder, Wanted::Metadata).into_iter().map(|(_, ino)| ino));
    }
    let full = resident();
    known.into_iter().for_each(|ino| tree.forget(ino, 1));
    let after = resident();
    assert_eq!(tree.nodes(), 1);
    let each = (full - before) * 1024 / FILES as i64;
    assert!((64..MOST_PER_FILE).contains(&each), "{before}, {full}: {each} bytes each");
    assert!(after - before < (full - before) / 2, "{before}, {full}, {after}");
}

#[test]
fn many_threads_may_use_the_tree_at_once() {
    let (_stage, layers) = stage(1);
    for number in 0..50 {
        layers.file(1, &format!("shared/f{number}"), "0123456789");
    }
    let tree = tree(&layers);
    let shared = tree.lookup(Ino::ROOT, name("shared")).unwrap().ino;
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let tree = &tree;
            scope.spawn(move || {
                for number in 0..50 {
                    let file = format!("f{number}");
                    let ino = tree.lookup(shared, name(&file)).unwrap().ino;
                    tree.write(ino, thread, b"x", true).unwrap();
                    let own = format!("t{thread}-{number}");
                    let made = tree.make(shared, name(&own), Kind::File, 0o644, &asker()).unwrap();
                    tree.write(made.ino, 0, b"y", false).unwrap();
                    tree.forget(ino, 1);
                    tree.forget(made.ino, 1);
                }
            });
        }
    });
    assert_eq!(list(&tree, shared, Wanted::Names).len(), 250);
    for number in 0..50 {
        let ino = tree.lookup(shared, name(&format!("f{number}"))).unwrap().ino;
        let mut buffer = [0; 10];
        tree.read(ino, 0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"xxxx456789");
    }
}

/// The names of a copied hard link are one node, in whatever order they are found again.
#[test]
fn a_hard_link_stays_one_file_when_it_was_forgotten() {
    for first in ["one", "two"] {
        let (_stage, layers) = stage(1);
        let path = layers.file(1, "d/one", "linked");
        fs::hard_link(&path, layers.lower(1).join("d/two")).unwrap();
        let tree = tree(&layers);
        let folder = tree.lookup(Ino::ROOT, name("d")).unwrap().ino;
        let one = tree.lookup(folder, name("one")).unwrap().ino;
        assert_eq!(tree.lookup(folder, name("two")).unwrap().ino, one);
        tree.write(one, 0, b"changed", false).unwrap();
        tree.forget(one, 2);
        tree.forget(folder, 1);

        let folder = tree.lookup(Ino::ROOT, name("d")).unwrap().ino;
        let second = if first == "one" { "two" } else { "one" };
        let found = tree.lookup(folder, name(first)).unwrap().ino;
        assert_eq!(tree.lookup(folder, name(second)).unwrap().ino, found, "{first} first");
    }
}

/// Whoever has one name of a hard link open when it goes sees how many are left, though no other is known.
#[test]
fn names_that_nobody_knows_count() {
    for is_copied in [false, true] {
        let (_stage, layers) = stage(1);
        let path = layers.file(1, "one", "linked");
        for other in ["two", "three"] {
            fs::hard_link(&path, layers.lower(1).join(other)).unwrap();
        }
        let tree = tree(&layers);
        let one = tree.lookup(Ino::ROOT, name("one")).unwrap().ino;
        if is_copied {
            tree.write(one, 0, b"changed", false).unwrap();
        }
        tree.unlink(Ino::ROOT, name("one")).unwrap();
        assert_eq!(tree.attr(one).unwrap().links, 2, "copied: {is_copied}");
    }
}
