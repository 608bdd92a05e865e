//! What a copy keeps, and what never changes.

use super::*;

#[test]
fn a_copy_keeps_owner_permissions_times_and_attributes() {
    everywhere(|identity, stage| {
        let layers = Layers::new(stage, 1);
        let path = layers.file(1, "d/f", "contents");
        let (uid, gid) = if identity.has_many_ids() { (1000, 1001) } else { (0, 0) };
        lchown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o4750)).unwrap();
        xattr::set(&path, "user.comment", &[7; 3000]).unwrap();
        acl::set_access(&path, &acl::list(0o750, 0, 4));
        let accessed = UNIX_EPOCH + Duration::new(1_111_111_111, 111_111_111);
        let modified = UNIX_EPOCH + Duration::new(1_222_222_222, 222_222_222);
        let times = FileTimes::new().set_accessed(accessed).set_modified(modified);
        File::open(&path).unwrap().set_times(times).unwrap();
        File::open(layers.lower(1).join("d")).unwrap().set_times(times).unwrap();
        let before = fs::metadata(&path).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        xattr::set(&mounted.path("d/f"), "user.new", b"").unwrap();
        let after = fs::metadata(mounted.path("d/f")).unwrap();
        let all = |meta: &fs::Metadata| {
            let times = (meta.mtime(), meta.mtime_nsec(), meta.atime(), meta.atime_nsec());
            (meta.mode(), meta.uid(), meta.gid(), meta.size(), times)
        };
        assert_eq!(all(&after), all(&before));
        let folder = fs::metadata(mounted.path("d")).unwrap();
        assert_eq!((folder.mtime(), folder.mtime_nsec()), (1_222_222_222, 222_222_222));
        assert_eq!(xattr::get(&mounted.path("d/f"), "user.comment").unwrap(), [7; 3000]);
        let list = xattr::get(&mounted.path("d/f"), "system.posix_acl_access").unwrap();
        assert_eq!(list, xattr::get(&path, "system.posix_acl_access").unwrap());
        let (mode, rest) = (before.mode() & !0o6000, all(&before));
        let on_disk = all(&fs::metadata(layers.upper().join("d/f")).unwrap());
        assert_eq!(on_disk, (mode, rest.1, rest.2, rest.3, rest.4), "but for the set-id bit");
        assert_eq!(mounted.read("d/f"), "contents");
        mounted.unmount();
    });
}

#[test]
fn a_copy_keeps_holes() {
    everywhere(|_, stage| {
        const SIZE: u64 = 64 << 20;
        let layers = Layers::new(stage, 1);
        let file = File::create(layers.lower(1).join("sparse")).unwrap();
        file.set_len(SIZE).unwrap();
        file.write_all_at(b"in the middle", SIZE / 2).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = OpenOptions::new().read(true).write(true).open(mounted.path("sparse")).unwrap();
        file.write_all_at(b"start", 0).unwrap();
        let mut text = [0; 13];
        file.read_exact_at(&mut text, SIZE / 2).unwrap();
        assert_eq!(&text, b"in the middle");
        drop(file);
        mounted.unmount();
        let meta = fs::metadata(layers.upper().join("sparse")).unwrap();
        assert_eq!(meta.size(), SIZE);
        assert!(meta.blocks() < 1000, "{} blocks", meta.blocks());
    });
}

#[test]
fn an_inode_number_survives_the_copy() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/f", "contents");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let numbers = || ["d", "d/f"].map(|path| fs::metadata(mounted.path(path)).unwrap().ino());
        let before = numbers();
        fs::write(mounted.path("d/f"), "changed").unwrap();
        assert_eq!(numbers(), before);
        let device = |path| fs::metadata(mounted.path(path)).unwrap().dev();
        assert_eq!(device("d"), device("d/f"));
        mounted.unmount();
    });
}

/// Every name below `folder` with its number, as stat(2) and as readdir(3) tell it.
fn numbers(root: &Path, folder: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        assert_eq!(entry.ino(), meta.ino(), "{path}");
        if meta.is_dir() {
            found.extend(numbers(root, &path));
        }
        found.push((path, meta.ino()));
    }
    found.sort();
    found
}

#[test]
fn inode_numbers_survive_a_remount() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 3);
        // A layer of another file system, whose numbers are those of others here.
        let other = layers.lower(2);
        mount(Some("none"), &other, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        for layer in 1..=3 {
            for number in 0..20 {
                layers.file(layer, &format!("d/l{layer}-{number}"), "");
                layers.file(layer, &format!("d{layer}/sub/f{number}"), "");
            }
        }
        fs::hard_link(layers.lower(3).join("d/l3-1"), layers.lower(3).join("d/link")).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let mut before = numbers(mounted.root(), ".");
        for path in ["d/l1-3", "d/l2-3", "d/l3-1", "d2/sub/f1", "d3/sub"] {
            let mode = if path == "d3/sub" { 0o700 } else { 0o600 };
            fs::set_permissions(mounted.path(path), PermissionsExt::from_mode(mode)).unwrap();
        }
        assert_eq!(numbers(mounted.root(), "."), before, "copied");
        fs::rename(mounted.path("d1/sub"), mounted.path("d3/sub/moved")).unwrap();
        for (path, _) in &mut before {
            *path = path.replace("./d1/sub", "./d3/sub/moved");
        }
        before.sort();
        assert_eq!(numbers(mounted.root(), "."), before, "moved");
        fs::create_dir(mounted.path("new")).unwrap();
        fs::write(mounted.path("new/file"), "").unwrap();
        let before = numbers(mounted.root(), ".");
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(numbers(mounted.root(), "."), before, "mounted again");
        let mut all: Vec<_> = before.iter().map(|(_, number)| number).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), before.len() - 1, "all differ, but those of the hard link");
        mounted.unmount();
        umount(&other).unwrap();
    });
}

/// Contents that lie elsewhere, in overlayfs' form that only real root may follow, are never shown
/// as the empty file that stands for them.
#[test]
fn files_with_contents_elsewhere_are_refused() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        for path in [layers.file(1, "lower", ""), layers.upper().join("upper")] {
            fs::write(&path, "\0\0\0").unwrap();
            xattr::set(&path, "user.overlay.metacopy", b"").unwrap();
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(errno(fs::read(mounted.path("lower"))), Errno::EPERM);
        let open = OpenOptions::new().append(true).open(mounted.path("lower")).unwrap();
        assert_eq!(errno((&open).write_all(b"x")), Errno::EPERM);
        assert_eq!(errno(fs::metadata(mounted.path("upper"))), Errno::EPERM);
        drop(open);
        mounted.unmount();
    });
}

#[test]
fn hard_links_stay_one_file() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        let one = layers.file(2, "a/one", "linked");
        layers.folder(2, "b");
        for name in ["b/two", "three"] {
            fs::hard_link(&one, layers.lower(2).join(name)).unwrap();
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::write(mounted.path("b/two"), "through two").unwrap();
        let check = |mounted: &Mounted, links| {
            let meta = |name: &str| fs::metadata(mounted.path(name)).unwrap();
            for name in ["a/one", "b/two", "three"] {
                assert_eq!(mounted.read(name), "through two", "{name}");
                assert_eq!(meta(name).ino(), meta("b/two").ino(), "{name}");
                assert_eq!(meta(name).nlink(), links, "{name}");
            }
        };
        check(&mounted, 3);
        fs::hard_link(mounted.path("three"), mounted.path("four")).unwrap();
        check(&mounted, 4);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        check(&mounted, 4);
        fs::remove_file(mounted.path("b/two")).unwrap();
        fs::remove_file(mounted.path("a/one")).unwrap();
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::write(mounted.path("three"), "last two").unwrap();
        assert_eq!(mounted.read("four"), "last two");
        assert_eq!(fs::metadata(mounted.path("four")).unwrap().nlink(), 2);
        fs::remove_file(mounted.path("three")).unwrap();
        fs::remove_file(mounted.path("four")).unwrap();
        mounted.unmount();
        assert_eq!(names(&layers.work().join("links")), [""; 0], "the index is empty");
    });
}

/// Names that go before the file is copied up are gone after a remount too.
#[test]
fn hard_links_are_counted_before_they_are_copied() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let one = layers.file(1, "one", "linked");
        for name in ["two", "three", "four"] {
            fs::hard_link(&one, layers.lower(1).join(name)).unwrap();
        }
        let mut mounted = Mounted::new(&layers.config(), &layers.merged());
        for (gone, left) in [("two", 3), ("one", 2)] {
            fs::remove_file(mounted.path(gone)).unwrap();
            assert_eq!(fs::metadata(mounted.path("three")).unwrap().nlink(), left);
            mounted.unmount();
            mounted = Mounted::new(&layers.config(), &layers.merged());
            assert_eq!(fs::metadata(mounted.path("four")).unwrap().nlink(), left);
        }
        fs::write(mounted.path("four"), "changed").unwrap();
        assert_eq!(fs::metadata(mounted.path("three")).unwrap().nlink(), 2);
        assert_eq!(names(&layers.work().join("links")).len(), 1);
        fs::remove_file(mounted.path("three")).unwrap();
        fs::remove_file(mounted.path("four")).unwrap();
        mounted.unmount();
        assert_eq!(names(&layers.work().join("links")), [""; 0]);
    });
}

/// Links and special files of several names, which can have no attributes.
#[test]
fn hard_links_of_what_has_no_attributes_stay_one() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        symlink("target", layers.lower(1).join("link")).unwrap();
        mkfifo(&layers.lower(1).join("fifo"), Mode::S_IRUSR).unwrap();
        for name in ["link", "fifo"] {
            let (one, two) = (layers.lower(1).join(name), format!("{name}2"));
            fs::hard_link(one, layers.lower(1).join(two)).unwrap();
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::set_permissions(mounted.path("fifo"), PermissionsExt::from_mode(0o640)).unwrap();
        lchown(mounted.path("link"), Some(0), Some(0)).unwrap();
        fs::rename(mounted.path("link"), mounted.path("link3")).unwrap();
        let check = |mounted: &Mounted| {
            let meta = |name: &str| fs::symlink_metadata(mounted.path(name)).unwrap();
            for (one, two) in [("fifo", "fifo2"), ("link3", "link2")] {
                assert_eq!((meta(one).ino(), meta(one).nlink()), (meta(two).ino(), 2), "{one}");
            }
            assert_eq!(meta("fifo2").mode() & 0o777, 0o640);
        };
        check(&mounted);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        check(&mounted);
        for name in ["fifo", "fifo2", "link2", "link3"] {
            fs::remove_file(mounted.path(name)).unwrap();
        }
        mounted.unmount();
        assert_eq!(names(&layers.work().join("links")), [""; 0]);
    });
}

#[test]
fn lower_layers_never_change() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        for file in ["a", "b", "c", "d/e", "d/f", "g/h"] {
            layers.file(2, file, file);
        }
        layers.file(1, "d/f", "newer");
        let sum = || (checksum(&layers.lower(1)), checksum(&layers.lower(2)));
        let before = sum();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::write(mounted.path("a"), "written").unwrap();
        fs::set_permissions(mounted.path("b"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::hard_link(mounted.path("c"), mounted.path("c2")).unwrap();
        fs::rename(mounted.path("d/e"), mounted.path("e")).unwrap();
        xattr::set(&mounted.path("d"), "user.a", b"b").unwrap();
        fs::remove_dir_all(mounted.path("g")).unwrap();
        OpenOptions::new().append(true).open(mounted.path("d/f")).unwrap().write_all(b"x").unwrap();
        mounted.unmount();
        assert_eq!(sum(), before);
    });
}

#[test]
fn a_killed_server_loses_nothing_that_was_acknowledged() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "lower", "lower");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::write(mounted.path("new"), "new").unwrap();
        fs::write(mounted.path("lower"), "changed").unwrap();
        kill(mounted.server(), Signal::SIGKILL).unwrap();
        drop(mounted);
        let mounted = remount(&layers);
        assert_eq!(mounted.read("new"), "new");
        assert_eq!(mounted.read("lower"), "changed");
        mounted.unmount();
    });
}

/// Mounts again as soon as the killed server's lock is gone.
pub(super) fn remount(layers: &Layers) -> Mounted {
    while rrun_fusefs::Overlay::open(&layers.config()).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Mounted::new(&layers.config(), &layers.merged())
}
