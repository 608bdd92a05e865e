//! The node table in the hands of another process.
//!
//! Random operations, with a book of what the kernel would know: which name in which directory is which
//! node, and how many references it holds. `RRUN_SEED` repeats a run.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use rrun_fusefs::Overlay;
use rrun_fusefs::tree::{Asker, Exchange, Ino, Kind, Tree};

use crate::common::{Layers, fork};
use crate::model::{Random, seed};

const DESCRIPTORS: usize = 8;
const STEPS: usize = 600;
/// Names are few, so that they collide; some do not fit into one record.
const NAMES: [&str; 5] = ["a", "b", "c", LONG, LONGEST];
const LONG: &str = "a name that is longer than thirty-two bytes";
const LONGEST: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234"
);

/// What the kernel knows.
#[derive(Clone, Debug, Default)]
struct Book {
    names: BTreeMap<(u64, String), u64>,
    references: BTreeMap<u64, u64>,
    folders: Vec<u64>,
}

impl Book {
    fn new() -> Self {
        Self { folders: vec![Ino::ROOT.0], ..Self::default() }
    }

    fn note(&mut self, parent: u64, name: &str, ino: u64, is_folder: bool) {
        self.names.insert((parent, name.to_owned()), ino);
        *self.references.entry(ino).or_default() += 1;
        if is_folder && !self.folders.contains(&ino) {
            self.folders.push(ino);
        }
    }

    fn any_name(&self, random: &mut Random) -> Option<((u64, String), u64)> {
        let names: Vec<_> = self.names.iter().collect();
        let place = random.below(names.len().max(1) as u64) as usize;
        names.get(place).map(|(at, ino)| ((*at).clone(), **ino))
    }

    /// Forgets what has no names below it, as the kernel does when it wants memory.
    fn forget(&mut self, ino: u64) -> Option<u64> {
        let has_names = self.names.keys().any(|(parent, _)| *parent == ino);
        let references = self.references.get(&ino).copied().filter(|_| !has_names)?;
        self.references.remove(&ino);
        self.names.retain(|_, known| *known != ino);
        self.folders.retain(|known| *known != ino);
        Some(references)
    }

    /// One operation, on the tree and in the book.
    fn step(&mut self, tree: &Tree, random: &mut Random) {
        let parent = *random.one_of(&self.folders);
        let name = *random.one_of(&NAMES);
        let asker = Asker {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            umask: 0o022,
        };
        let to = OsStr::new(name);
        match random.below(12) {
            0..3 => {
                if let Ok(attr) = tree.lookup(Ino(parent), to) {
                    self.note(parent, name, attr.ino.0, attr.is_folder());
                }
            }
            what @ 3..6 => {
                let kind = if what == 3 { Kind::Folder } else { Kind::File };
                if let Ok(attr) = tree.make(Ino(parent), to, kind, 0o755, &asker) {
                    self.note(parent, name, attr.ino.0, attr.is_folder());
                }
            }
            other => {
                let Some(((from, old), ino)) = self.any_name(random) else { return };
                self.step_with(tree, other, (from, &old, ino), (parent, name));
            }
        }
    }

    fn step_with(
        &mut self,
        tree: &Tree,
        what: u64,
        (from, old, ino): (u64, &str, u64),
        (parent, name): (u64, &str),
    ) {
        let (old_name, to) = (OsStr::new(old), OsStr::new(name));
        let (old_at, at) = ((from, old.to_owned()), (parent, name.to_owned()));
        match what {
            6 => {
                if let Ok(attr) = tree.link(Ino(ino), Ino(parent), to) {
                    self.note(parent, name, attr.ino.0, false);
                }
            }
            7 => {
                let is_folder = self.folders.contains(&ino);
                let done = if is_folder {
                    tree.remove_folder(Ino(from), old_name)
                } else {
                    tree.unlink(Ino(from), old_name)
                };
                if done.is_ok() {
                    self.names.remove(&old_at);
                    self.folders.retain(|known| *known != ino || !is_folder);
                }
            }
            8..11 => self.rename(tree, what == 10, (old_at, ino), at),
            _ => {
                let _a_directory = tree.write(Ino(ino), 0, b"x", false);
                if let Some(references) = self.forget(ino) {
                    tree.forget(Ino(ino), references);
                }
            }
        }
    }

    fn rename(
        &mut self,
        tree: &Tree,
        swap: bool,
        (from, ino): ((u64, String), u64),
        to: (u64, String),
    ) {
        let known = self.names.get(&to).copied();
        if known == Some(ino) || (swap && known.is_none()) {
            return;
        }
        let how = if swap { Exchange::Swap } else { Exchange::Replace };
        let ((folder, name), (to_folder, to_name)) = (&from, &to);
        let name = OsStr::new(name);
        if tree.rename(Ino(*folder), name, Ino(*to_folder), OsStr::new(to_name), how).is_err() {
            return;
        }
        if let Ok(attr) = tree.lookup(Ino(*folder), name) {
            // Two names of one file, which was more than we knew: nothing was to be done.
            tree.forget(attr.ino, 1);
            if !swap {
                self.names.insert(to, ino);
                return;
            }
        }
        self.names.remove(&from);
        match self.names.insert(to, ino) {
            Some(other) if swap => drop(self.names.insert(from, other)),
            replaced => self.folders.retain(|known| Some(*known) != replaced),
        }
    }

    /// How many nodes `tree` knows by another node id, or not at all, in directories that it does know.
    fn differences(&mut self, tree: &Tree) -> usize {
        let mut different = BTreeMap::new();
        for ((parent, name), ino) in self.names.clone() {
            match tree.lookup(Ino(parent), OsStr::new(&name)) {
                Ok(attr) if attr.ino.0 == ino => {
                    *self.references.entry(ino).or_default() += 1;
                    assert_eq!(tree.attr(Ino(ino)).unwrap().ino, attr.ino);
                }
                Ok(attr) => {
                    tree.forget(attr.ino, 1);
                    different.insert(ino, parent);
                }
                Err(_) => drop(different.insert(ino, parent)),
            }
        }
        different.values().filter(|parent| !different.contains_key(parent)).count()
    }

    /// Gives everything back, of which nothing may be left.
    fn forget_all(&self, tree: &Tree) {
        for (ino, references) in &self.references {
            tree.forget(Ino(*ino), *references);
        }
        assert_eq!(tree.nodes(), 1);
    }
}

fn layers() -> (tempfile::TempDir, Layers) {
    let stage = tempfile::tempdir().unwrap();
    let layers = Layers::new(stage.path(), 2);
    for (layer, file) in [(2, "a/a/a"), (2, "a/b"), (1, "a/c"), (1, "b/a"), (2, "c")] {
        layers.file(layer, file, file);
    }
    layers.file(2, &format!("{LONG}/{LONGEST}"), "long");
    fs::hard_link(layers.lower(2).join("c"), layers.lower(2).join(LONGEST)).unwrap();
    fs::hard_link(layers.lower(2).join("c"), layers.lower(2).join("a/a/b")).unwrap();
    (stage, layers)
}

fn open(layers: &Layers) -> Overlay {
    Overlay::open(&layers.config()).unwrap()
}

fn resume(layers: &Layers, memory: OwnedFd) -> Tree {
    Tree::resume(open(layers), DESCRIPTORS, memory).unwrap()
}

#[test]
fn another_process_finds_the_same_ids() {
    let seed = seed();
    println!("RRUN_SEED={seed}");
    let mut random = Random(seed | 1);
    let (_stage, layers) = layers();
    let tree = Tree::new(open(&layers), DESCRIPTORS).unwrap();
    let mut book = Book::new();
    for _ in 0..STEPS {
        book.step(&tree, &mut random);
    }
    let nodes = tree.nodes();
    let memory = tree.memory().unwrap();
    drop(tree);
    let child = fork::child(move || {
        let tree = resume(&layers, memory);
        assert_eq!(tree.nodes(), nodes);
        assert_eq!(book.differences(&tree), 0);
        // Everything works on, under old ids and new ones.
        for _ in 0..STEPS {
            book.step(&tree, &mut random);
        }
        book.forget_all(&tree);
    });
    assert!(fork::succeeded(child));
}

#[test]
fn a_process_that_is_killed_leaves_a_whole_table() {
    let seed = seed();
    println!("RRUN_SEED={seed}");
    let mut random = Random(seed | 1);
    for round in 0..8 {
        let (_stage, layers) = layers();
        // The child has this tree as it is now, and its memory is ours too.
        let tree = Tree::new(open(&layers), DESCRIPTORS).unwrap();
        let memory = tree.memory().unwrap();
        let (mut told, mut tell) = pipe().unwrap();
        let mut steps = Random(random.next() | 1);
        let worker = fork::child(move || {
            let mut book = Book::new();
            loop {
                book.step(&tree, &mut steps);
                let names = book.names.iter();
                let lines = names.map(|((parent, name), ino)| format!("{parent} {ino} {name}\n"));
                tell.write_all(format!("{}\n", lines.collect::<String>()).as_bytes()).unwrap();
            }
        });
        let patience = Duration::from_millis(5 + random.below(60));
        let killer = std::thread::spawn(move || {
            sleep(patience);
            kill(worker, Signal::SIGKILL).unwrap();
        });
        let mut lines = String::new();
        told.read_to_string(&mut lines).unwrap();
        killer.join().unwrap();
        waitpid(worker, None).unwrap();
        let tree = resume(&layers, memory);
        let mut book = Book::new();
        book.names = last_page(&lines);
        // The last operation may be done or not, on disk or in the table; it is about two nodes.
        let different = book.differences(&tree);
        assert!(different <= 2, "round {round}: {different} of {}", book.names.len());
    }
}

/// The names of the last book that was told in whole.
fn last_page(lines: &str) -> BTreeMap<(u64, String), u64> {
    let whole = lines.rfind("\n\n").map_or("", |end| &lines[..end]);
    let page = whole.rfind("\n\n").map_or(whole, |start| &whole[start + 2..]);
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (parent, ino) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(((parent, words.next()?.to_owned()), ino))
    };
    page.lines().filter_map(parse).collect()
}

#[test]
fn what_had_lost_its_name_is_not_there_for_the_next_process() {
    let (_stage, layers) = layers();
    let tree = Tree::new(open(&layers), DESCRIPTORS).unwrap();
    let file = tree.lookup(Ino::ROOT, OsStr::new("b")).unwrap().ino;
    let gone = tree.lookup(file, OsStr::new("a")).unwrap().ino;
    tree.unlink(file, OsStr::new("a")).unwrap();
    assert_eq!(tree.attr(gone).unwrap().links, 0);
    let memory = tree.memory().unwrap();
    drop(tree);
    let tree = resume(&layers, memory);
    assert_eq!(tree.attr(gone), Err(Errno::ENOENT));
    assert_eq!(tree.read(gone, 0, &mut [0]), Err(Errno::ENOENT));
    tree.forget(gone, 1);
    assert_eq!(tree.attr(gone), Err(Errno::ESTALE));
    assert_eq!(tree.nodes(), 2, "the root and the directory");
}

#[test]
fn what_is_no_node_table_is_refused() {
    let (_stage, layers) = layers();
    let file = fs::File::open(layers.lower(2).join("c")).unwrap();
    let refused = Tree::resume(open(&layers), DESCRIPTORS, file.into()).unwrap_err();
    assert_eq!(refused, Errno::EINVAL);
}
