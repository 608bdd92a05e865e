//! How many requests an operation makes the kernel send, and how many system calls the server makes for
//! them. Both are counted, so that neither a busy machine nor luck changes anything.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use crate::common::watch::Watch;
use crate::common::{Identity, Layers, Mounted, everywhere};

/// How often each operation is done.
const TIMES: u64 = 20;
/// What may happen besides, in all of them together: the first of its kind, a look at a directory.
const BESIDES: u64 = 6;

/// How often the server has read something so far: once for each request, at least.
pub(crate) fn requests(mounted: &Mounted) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", mounted.server())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap();
    line.parse().unwrap()
}

/// Requests and system calls of `act`, done [`TIMES`] times with a number.
fn count(
    mounted: &Mounted,
    watch: &Watch,
    act: impl Fn(u64) -> io::Result<()>,
) -> (u64, Vec<&'static str>) {
    let before = requests(mounted);
    watch.begin(None);
    (0..TIMES).for_each(|number| act(number).unwrap());
    // Nothing is opened to find something out, but `/proc/loadavg` now and then.
    let mut made = watch.end().made;
    let opened = made.iter().filter(|name| **name == "openat").count() as u64;
    if opened <= 1 {
        made.retain(|name| *name != "openat");
    }
    let read = made.iter().filter(|name| **name == "pread64").count() as u64;
    (requests(mounted) - before - read - opened.min(1), made)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Two layers with a directory of files in each, all looked at.
fn known(stage: &Path) -> (Layers, Mounted, Watch) {
    let layers = Layers::new(stage, 2);
    for number in 0..TIMES {
        layers.file(1, &format!("d/above{number}"), "contents");
        layers.file(2, &format!("d/below{number}"), "contents");
        layers.folder(2, &format!("d/folder{number}"));
    }
    let (mounted, watch) = Mounted::watched(&layers.config(), &layers.merged());
    for entry in fs::read_dir(mounted.path("d")).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_file() {
            fs::read(&path).unwrap();
        }
        // A read makes the kernel ask for the time of access once more.
        fs::symlink_metadata(&path).unwrap();
    }
    (layers, mounted, watch)
}

#[test]
fn what_is_known_costs_nothing() {
    everywhere(|_, stage| {
        let (_layers, mounted, watch) = known(stage);
        let path = |name: &str, number| mounted.path(&format!("d/{name}{number}"));
        for number in 0..TIMES {
            assert!(fs::metadata(path("missing", number)).is_err());
        }
        let (requests, calls) = count(&mounted, &watch, |number| {
            fs::metadata(path("above", number))?;
            assert_eq!(fs::read(path("below", number))?, b"contents");
            assert!(fs::metadata(path("missing", number)).is_err());
            fs::read_dir(mounted.path("d")).map(|all| assert_eq!(all.count() as u64, 3 * TIMES))
        });
        assert_eq!(calls.len(), 0, "{calls:?}");
        // What keeps processors awake reads too.
        assert!(requests <= BESIDES, "{requests} requests");
        mounted.unmount();
    });
}

/// A name that the kernel does not know is looked up in memory, whatever the number of layers.
#[test]
fn a_missing_name_costs_no_call() {
    everywhere(|_, stage| {
        let (_layers, mounted, watch) = known(stage);
        let (requests, calls) = count(&mounted, &watch, |number| {
            assert!(fs::metadata(mounted.path(&format!("d/missing{number}"))).is_err());
            Ok(())
        });
        assert_eq!(calls.len(), 0, "{calls:?}");
        assert!((TIMES..=TIMES + BESIDES).contains(&requests), "{requests} requests");
        mounted.unmount();
    });
}

/// A name that the kernel has forgotten: its directory is not looked at again, nor any other layer.
#[test]
fn a_name_that_is_found_again_costs_a_look_at_it() {
    everywhere(|identity, stage| {
        if identity != Identity::Root {
            return; // dropping the kernel's caches is root's alone
        }
        let (_layers, mounted, watch) = known(stage);
        let in_use = File::open(mounted.path("d")).unwrap();
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let (_requests, calls) = count(&mounted, &watch, |number| {
            fs::metadata(mounted.path(&format!("d/below{number}"))).map(drop)
        });
        // Its metadata for the lookup, and again with the time of birth, for which Rust asks.
        assert!(calls.len() as u64 <= 3 * TIMES + BESIDES, "{calls:?}");
        drop(in_use);
        mounted.unmount();
    });
}

#[test]
fn changes_keep_to_their_budgets() {
    everywhere(|_, stage| {
        let (_layers, mounted, watch) = known(stage);
        let path = |name: &str, number: u64| mounted.path(&format!("d/{name}{number}"));
        let file = create(&mounted.path("d/appended")).unwrap();
        let mode = |mode| PermissionsExt::from_mode(mode);
        type Operation<'a> = &'a dyn Fn(u64) -> io::Result<()>;
        let table: [(&str, u64, u64, Operation<'_>); 12] = [
            ("write to an open file", 1, 1, &|n| file.write_all_at(b"more", n * 4)),
            ("create", 3, 3, &|n| create(&path("new", n)).map(drop)),
            ("create and write", 5, 5, &|n| {
                create(&path("written", n))?.write_all_at(&[7; 4096], 0)
            }),
            ("chmod", 1, 2, &|n| fs::set_permissions(path("new", n), mode(0o600))),
            ("make a directory", 3, 3, &|n| fs::create_dir(path("made", n))),
            ("make a symbolic link", 3, 3, &|n| symlink("x", path("symbolic", n))),
            ("link", 3, 4, &|n| fs::hard_link(path("new", n), path("linked", n))),
            ("rename", 3, 2, &|n| fs::rename(path("new", n), path("moved", n))),
            ("unlink", 3, 2, &|n| fs::remove_file(path("written", n))),
            ("remove a directory", 3, 2, &|n| fs::remove_dir(path("made", n))),
            ("unlink a lower file", 3, 2, &|n| fs::remove_file(path("above", n))),
            ("remove a lower directory", 3, 7, &|n| fs::remove_dir(path("folder", n))),
        ];
        for (name, most_requests, most_calls, act) in table {
            let (requests, calls) = count(&mounted, &watch, act);
            println!(
                "{name}: {requests} requests, {} calls: {:?}",
                calls.len(),
                &calls[..calls.len().min(12)]
            );
            assert!(requests <= most_requests * TIMES + BESIDES, "{name}: {requests} requests");
            assert!(calls.len() as u64 <= most_calls * TIMES + BESIDES, "{name}: {}", calls.len());
        }
        drop(file);
        mounted.unmount();
    });
}

/// The first change of a lower file brings it up: what that takes does not depend on the number of layers.
#[test]
fn a_copy_keeps_to_its_budget_whatever_the_number_of_layers() {
    everywhere(|_, stage| {
        let calls = |layers: usize| {
            let layers = Layers::new(&stage.join(layers.to_string()), layers);
            for number in 0..TIMES {
                layers.file(1, &format!("d/f{number}"), "contents");
            }
            let (mounted, watch) = Mounted::watched(&layers.config(), &layers.merged());
            for number in 0..TIMES {
                fs::read(mounted.path(&format!("d/f{number}"))).unwrap();
            }
            let (_requests, calls) = count(&mounted, &watch, |number| {
                let path = mounted.path(&format!("d/f{number}"));
                OpenOptions::new().append(true).open(path)?.write_all_at(b"more", 0)
            });
            mounted.unmount();
            calls.len() as u64
        };
        let (few, many) = (calls(1), calls(40));
        println!("{few} calls with one layer, {many} with forty");
        assert!(few <= 26 * TIMES && many <= few + BESIDES, "{few}, {many}");
    });
}
