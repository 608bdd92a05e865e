//! Uses of files that a copy must not disturb.

use std::time::Instant;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::*;
use crate::common::{Map, child, succeeded, tree_text};

/// Bytes of a page.
const PAGE: usize = 4096;

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn maps_see_what_is_written_after_the_copy() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "f", &"a".repeat(2 * PAGE));
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let before = Map::new(&File::open(mounted.path("f")).unwrap(), 2 * PAGE, false);
        assert_eq!(before.read(PAGE), b'a');
        writable(&mounted.path("f")).write_all_at(b"written", PAGE as u64).unwrap();
        assert_eq!(before.read(PAGE), b'w', "the map of the lower file");
        let own = Map::new(&writable(&mounted.path("f")), 2 * PAGE, true);
        own.write(0, b'm');
        assert_eq!(before.read(0), b'm', "one map sees the other");
        assert_eq!(mounted.read("f").as_bytes()[0], b'm');
        own.sync();
        assert_eq!(fs::read(layers.upper().join("f")).unwrap()[0], b'm');
        drop((before, own));
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert!(mounted.read("f").starts_with('m'));
        mounted.unmount();
        assert!(fs::read_to_string(layers.lower(1).join("f")).unwrap().starts_with("aaa"));
    });
}

/// The first change of a lower file may come from a map.
#[test]
fn a_written_map_copies_up() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "f", &"a".repeat(PAGE));
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = writable(&mounted.path("f"));
        let map = Map::new(&file, PAGE, true);
        map.write(7, b'x');
        map.sync();
        drop((map, file));
        mounted.unmount();
        assert_eq!(fs::read(layers.upper().join("f")).unwrap()[7], b'x');
        assert_eq!(fs::read(layers.lower(1).join("f")).unwrap()[7], b'a');
    });
}

#[test]
fn direct_reads_and_writes_pass_the_cache() {
    #[repr(align(4096))]
    struct Aligned([u8; PAGE]);
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "f", &"a".repeat(3 * PAGE));
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        let direct = options.open(mounted.path("f")).unwrap();
        let mut page = Aligned([0; PAGE]);
        direct.read_exact_at(&mut page.0, 0).unwrap();
        assert_eq!(page.0[0], b'a');
        assert_eq!(mounted.read("f").len(), 3 * PAGE);
        page.0.fill(b'd');
        direct.write_all_at(&page.0, PAGE as u64).unwrap();
        assert_eq!(mounted.read("f").as_bytes()[PAGE..=PAGE + 1], *b"dd", "the cache follows");
        drop(direct);
        mounted.unmount();
        assert_eq!(fs::read(layers.upper().join("f")).unwrap()[2 * PAGE - 1..=2 * PAGE], *b"da");
    });
}

#[test]
fn space_is_zeroed_and_what_fuse_lacks_is_refused() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "f", &"a".repeat(4 * PAGE));
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = writable(&mounted.path("f"));
        let page = i64::try_from(PAGE).unwrap();
        fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, page, page).unwrap();
        let text = mounted.read("f");
        assert_eq!(text.as_bytes()[PAGE - 1..=PAGE], *b"a\0");
        assert_eq!(text.as_bytes()[2 * PAGE - 1..=2 * PAGE], *b"\0a");
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 8 * page).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 4 * PAGE as u64);
        for flag in
            [FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, FallocateFlags::FALLOC_FL_INSERT_RANGE]
        {
            assert_eq!(fallocate(&file, flag, 0, page), Err(Errno::EOPNOTSUPP));
        }
        drop(file);
        mounted.unmount();
    });
}

#[test]
fn locks_outlast_the_copy() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "f", "lower");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let before = File::open(mounted.path("f")).unwrap();
        before.lock().unwrap();
        let after = writable(&mounted.path("f"));
        after.write_all_at(b"U", 0).unwrap();
        assert!(writable(&mounted.path("f")).try_lock().is_err(), "held by who had the lower file");
        before.unlock().unwrap();
        after.try_lock().unwrap();
        assert!(before.try_lock().is_err());
        drop((before, after));
        mounted.unmount();
    });
}

#[test]
fn watchers_hear_of_changes() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        for name in ["d/changed", "d/removed", "d/moved"] {
            layers.file(1, name, "");
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let all = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE;
        watch.add_watch(&mounted.path("d"), all).unwrap();
        fs::write(mounted.path("d/new"), "").unwrap();
        writable(&mounted.path("d/changed")).write_all_at(b"x", 0).unwrap();
        fs::remove_file(mounted.path("d/removed")).unwrap();
        fs::rename(mounted.path("d/moved"), mounted.path("d/after")).unwrap();
        let heard: Vec<_> = watch
            .read_events()
            .unwrap()
            .into_iter()
            .map(|event| (event.mask, event.name.unwrap().into_string().unwrap()))
            .collect();
        let expected = [
            (AddWatchFlags::IN_CREATE, "new"),
            (AddWatchFlags::IN_MODIFY, "changed"),
            (AddWatchFlags::IN_DELETE, "removed"),
            (AddWatchFlags::IN_MOVED_FROM, "moved"),
            (AddWatchFlags::IN_MOVED_TO, "after"),
        ];
        assert_eq!(heard, expected.map(|(mask, name)| (mask, name.to_owned())));
        drop(watch);
        mounted.unmount();
    });
}

/// chattr(1) and lsattr(1), as far as an ordinary user may.
#[test]
fn flags_of_files_are_kept() {
    everywhere(|identity, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/f", "lower");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let chattr = |change: &str, name: &str| {
            Command::new("chattr").arg(change).arg(mounted.path(name)).output().unwrap()
        };
        let flags = |mounted: &Mounted, name: &str| {
            let listed = Command::new("lsattr").arg("-d").arg(mounted.path(name)).output().unwrap();
            assert!(listed.status.success(), "{listed:?}");
            let text = String::from_utf8(listed.stdout).unwrap();
            text.split(' ').next().unwrap().replace('-', "")
        };
        let before = flags(&mounted, "d/f");
        assert!(!before.contains('A'), "{before}");
        for name in ["d/f", "d"] {
            for change in ["+A", "+d", "-d"] {
                let done = chattr(change, name);
                assert!(done.status.success(), "{change} {name}: {done:?}");
            }
        }
        let appended = chattr("+a", "d/f");
        let why = if identity == Identity::Root { "not supported" } else { "not permitted" };
        assert!(String::from_utf8_lossy(&appended.stderr).contains(why), "{appended:?}");
        fs::write(mounted.path("d/f"), "still writable").unwrap();
        let after = flags(&mounted, "d/f");
        assert!(after.contains('A') && !after.contains('d'), "{after}");
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(flags(&mounted, "d/f"), after);
        assert!(flags(&mounted, "d").contains('A'));
        mounted.unmount();
    });
}

/// Many processes change a lower file at the same moment: it is copied once, and nothing is lost.
#[test]
fn many_may_copy_one_file_at_once() {
    const PROCESSES: u64 = 8;
    const SIZE: usize = 1 << 20;
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/f", &"-".repeat(SIZE));
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let number = fs::metadata(mounted.path("d/f")).unwrap().ino();
        let start = Instant::now() + Duration::from_millis(200);
        let processes: Vec<_> = (0..PROCESSES)
            .map(|process| {
                child(|| {
                    while Instant::now() < start {}
                    let file = writable(&mounted.path("d/f"));
                    for round in 0..20 {
                        let at = (round * PROCESSES + process) * 100;
                        file.write_all_at(format!("<{process}>").as_bytes(), at).unwrap();
                    }
                })
            })
            .collect();
        assert!(processes.into_iter().all(succeeded));
        let text = mounted.read("d/f");
        assert_eq!((text.len(), fs::metadata(mounted.path("d/f")).unwrap().ino()), (SIZE, number));
        for at in 0..20 * PROCESSES {
            let expected = format!("<{}>-", at % PROCESSES);
            let at = usize::try_from(at * 100).unwrap();
            assert_eq!(text[at..at + 4], expected, "at {at}");
        }
        mounted.unmount();
        assert_eq!(names(&layers.work().join("work")), [""; 0]);
        let lower = fs::read_to_string(layers.lower(1).join("d/f")).unwrap();
        assert!(lower.bytes().all(|byte| byte == b'-'));
    });
}

/// Kernel overlayfs takes our tree as its lower layer.
#[test]
fn overlayfs_stands_on_top() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/f", "lower");
        layers.file(1, "d/gone", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::remove_file(mounted.path("d/gone")).unwrap();
        fs::write(mounted.path("d/new"), "new").unwrap();
        let above = Layers::new(&stage.join("above"), 0);
        let options = format!(
            "userxattr,lowerdir={},upperdir={},workdir={}",
            mounted.root().display(),
            above.upper().display(),
            above.work().display()
        );
        let kind = Some("overlay");
        mount(kind, &above.merged(), kind, MsFlags::empty(), Some(options.as_str())).unwrap();
        assert_eq!(tree_text(&above.merged()), tree_text(mounted.root()));
        fs::write(above.merged().join("d/f"), "changed above").unwrap();
        fs::rename(above.merged().join("d/new"), above.merged().join("moved")).unwrap();
        assert_eq!(fs::read_to_string(above.merged().join("d/f")).unwrap(), "changed above");
        assert_eq!(mounted.read("d/f"), "lower");
        umount(&above.merged()).unwrap();
        mounted.unmount();
    });
}
