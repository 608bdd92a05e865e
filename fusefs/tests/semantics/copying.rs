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
        assert_eq!(all(&fs::metadata(layers.upper().join("d/f")).unwrap()), all(&before));
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
        let meta = fs::metadata(layers.upper().join("sparse")).unwrap();
        assert_eq!(meta.size(), SIZE);
        assert!(meta.blocks() < 1000, "{} blocks", meta.blocks());
        let mut text = [0; 13];
        file.read_exact_at(&mut text, SIZE / 2).unwrap();
        assert_eq!(&text, b"in the middle");
        drop(file);
        mounted.unmount();
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
fn remount(layers: &Layers) -> Mounted {
    while rrun_fusefs::Overlay::open(&layers.config()).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Mounted::new(&layers.config(), &layers.merged())
}
