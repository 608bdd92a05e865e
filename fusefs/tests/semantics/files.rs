//! Files, directories and other objects, and what they cost.

use super::*;

#[test]
fn names_may_be_of_any_bytes_but_the_markers() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let longest = [b'n'; 255];
        let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let names: [&[u8]; 5] = [&longest, &odd, b"\n", b" ", b"\xff\xfe"];
        for name in names {
            fs::write(layers.lower(1).join(OsStr::from_bytes(name)), "lower").unwrap();
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        for name in names {
            let path = mounted.root().join(OsStr::from_bytes(name));
            assert_eq!(fs::read_to_string(&path).unwrap(), "lower");
            fs::write(&path, "upper").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "upper");
            fs::remove_file(&path).unwrap();
            assert!(!path.exists());
            fs::create_dir(&path).unwrap();
        }
        let too_long = mounted.path(&"n".repeat(256));
        assert_eq!(errno(fs::write(too_long, "")), Errno::ENAMETOOLONG);
        assert_eq!(errno(fs::write(mounted.path(".wh.file"), "")), Errno::EINVAL);
        mounted.unmount();
    });
}

#[test]
fn special_files_work_and_are_never_opened_by_the_server() {
    everywhere(|identity, stage| {
        let layers = Layers::new(stage, 1);
        let lower = layers.lower(1);
        mkfifo(&lower.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(lower.join("socket")).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        for name in ["fifo", "socket"] {
            fs::set_permissions(mounted.path(name), PermissionsExt::from_mode(0o640)).unwrap();
            fs::rename(mounted.path(name), mounted.path(&format!("{name}2"))).unwrap();
        }
        let kind = |name: &str| fs::symlink_metadata(mounted.path(name)).unwrap().file_type();
        assert!(kind("fifo2").is_fifo() && kind("socket2").is_socket());
        let fifo = mounted.path("fifo2");
        let writer = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::write(fifo, "through").unwrap()
        });
        assert_eq!(fs::read_to_string(&fifo).unwrap(), "through");
        writer.join().unwrap();
        let device = |number| mknod(&mounted.path("device"), SFlag::S_IFCHR, Mode::S_IRUSR, number);
        if identity == Identity::Root {
            device(nix::sys::stat::makedev(1, 300)).unwrap();
            let number = fs::symlink_metadata(mounted.path("device")).unwrap().rdev();
            assert_eq!(number, nix::sys::stat::makedev(1, 300));
        } else {
            assert_eq!(device(nix::sys::stat::makedev(1, 3)), Err(Errno::EPERM));
        }
        drop(socket);
        mounted.unmount();
    });
}

#[test]
fn open_files_outlive_their_names() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "lower", "lower");
        layers.file(1, "d/x", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::write(mounted.path("upper"), "upper").unwrap();
        for name in ["lower", "upper"] {
            let mut file =
                OpenOptions::new().read(true).write(true).open(mounted.path(name)).unwrap();
            fs::remove_file(mounted.path(name)).unwrap();
            fs::write(mounted.path(name), "another").unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, name);
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            file.write_all(b" still").unwrap();
            file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
            file.set_modified(UNIX_EPOCH).unwrap();
            let meta = file.metadata().unwrap();
            assert_eq!((meta.size(), meta.mode() & 0o777, meta.mtime()), (11, 0o600, 0));
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("{name}{name} still"));
            assert_eq!(mounted.read(name), "another");
        }
        let folder = File::open(mounted.path("d")).unwrap();
        fs::remove_dir_all(mounted.path("d")).unwrap();
        assert!(folder.metadata().unwrap().is_dir());
        drop(folder);
        mounted.unmount();
    });
}

#[test]
fn renames_take_every_flag() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        for name in ["a", "b", "d/f"] {
            layers.file(1, name, name);
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let rename = |from: &str, to: &str, flags| {
            renameat2(AT_FDCWD, &mounted.path(from), AT_FDCWD, &mounted.path(to), flags)
        };
        assert_eq!(rename("a", "b", RenameFlags::RENAME_NOREPLACE), Err(Errno::EEXIST));
        rename("a", "c", RenameFlags::RENAME_NOREPLACE).unwrap();
        rename("c", "b", RenameFlags::RENAME_EXCHANGE).unwrap();
        assert_eq!((mounted.read("b"), mounted.read("c")), ("a".into(), "b".into()));
        assert_eq!(names(mounted.root()), ["b", "c", "d"]);
        mounted.unmount();
    });
}

#[test]
fn space_can_be_reserved_punched_and_found() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = File::create(mounted.path("f")).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 1 << 20);
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, hole, 256 << 10, 512 << 10).unwrap();
        assert_eq!(lseek(&file, 0, Whence::SeekHole), Ok(256 << 10));
        assert_eq!(lseek(&file, 300 << 10, Whence::SeekData), Ok(768 << 10));
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        File::open(mounted.root()).unwrap().sync_all().unwrap();
        let space = nix::sys::statvfs::statvfs(mounted.root()).unwrap();
        assert!(space.blocks() > 0 && space.name_max() == 255);
        drop(file);
        mounted.unmount();
    });
}

#[test]
fn times_before_1970_and_to_the_nanosecond_are_kept() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = File::create(mounted.path("f")).unwrap();
        let time = UNIX_EPOCH - Duration::new(86_400, 250_000_000);
        file.set_modified(time).unwrap();
        drop(file);
        assert_eq!(fs::metadata(mounted.path("f")).unwrap().modified().unwrap(), time);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(fs::metadata(mounted.path("f")).unwrap().modified().unwrap(), time);
        mounted.unmount();
    });
}

/// Files without a name (`O_TMPFILE`), and how they get one.
#[test]
fn files_may_be_made_without_a_name() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/gone", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::remove_file(mounted.path("d/gone")).unwrap();
        umask(Mode::from_bits_truncate(0o027));
        let nameless = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(0o666).custom_flags(libc::O_TMPFILE | flags);
            options.open(mounted.path("d")).unwrap()
        };
        let give_name = |file: &File, name: &str| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let follow = AtFlags::AT_SYMLINK_FOLLOW;
            linkat(AT_FDCWD, path.as_str(), AT_FDCWD, &mounted.path(name), follow)
        };
        let file = nameless(0);
        file.write_all_at(b"written before", 0).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.nlink(), meta.mode() & 0o777, meta.size()), (0, 0o640, 14));
        assert_eq!(names(&mounted.path("d")), [""; 0]);
        // Over a whiteout, and a second time.
        give_name(&file, "d/gone").unwrap();
        give_name(&file, "d/too").unwrap();
        file.write_all_at(b"later ", 8).unwrap();
        assert_eq!(mounted.read("d/gone"), "written later ");
        let named = fs::metadata(mounted.path("d/gone")).unwrap();
        assert_eq!((named.ino(), named.nlink()), (meta.ino(), 2));
        let private = nameless(libc::O_EXCL);
        assert_eq!(give_name(&private, "d/never"), Err(Errno::ENOENT));
        drop((file, private));
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(names(&mounted.path("d")), ["gone", "too"]);
        assert_eq!(mounted.read("d/too"), "written later ");
        assert_eq!(fs::metadata(mounted.path("d/too")).unwrap().nlink(), 2);
        mounted.unmount();
    });
}

#[test]
fn the_time_of_birth_is_told() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let lower = layers.file(1, "lower", "");
        let before = fs::metadata(lower).unwrap().created().unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let born = |name: &str| fs::metadata(mounted.path(name)).unwrap().created().unwrap();
        assert_eq!(born("lower"), before);
        fs::write(mounted.path("new"), "").unwrap();
        let new = fs::metadata(layers.upper().join("new")).unwrap().created().unwrap();
        assert_eq!(born("new"), new);
        assert!(new >= before);
        mounted.unmount();
    });
}

#[test]
fn locks_hold_between_processes() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "f", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let open = || OpenOptions::new().write(true).open(mounted.path("f")).unwrap();
        let (one, two) = (open(), open());
        one.lock().unwrap();
        assert!(two.try_lock().is_err());
        one.unlock().unwrap();
        two.try_lock().unwrap();
        drop((one, two));
        mounted.unmount();
    });
}

#[test]
fn what_is_known_costs_no_request() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        layers.file(2, "d/f", "contents");
        symlink("f", layers.lower(2).join("d/link")).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let look = || {
            assert_eq!(mounted.read("d/f"), "contents");
            assert_eq!(mounted.read("d/link"), "contents");
            assert!(!mounted.path("d/missing").exists());
            assert_eq!(names(&mounted.path("d")), ["f", "link"]);
            fs::metadata(mounted.path("d/f")).unwrap();
        };
        look();
        look();
        let before = requests(&mounted);
        for _ in 0..100 {
            look();
        }
        assert_eq!(requests(&mounted) - before, 0);
        mounted.unmount();
    });
}

#[test]
fn a_write_is_one_request() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let mut file = File::create(mounted.path("log")).unwrap();
        file.write_all(b"first").unwrap();
        let before = requests(&mounted);
        for _ in 0..1000 {
            file.write_all(b"more").unwrap();
        }
        let made = requests(&mounted) - before;
        assert!(made <= 1010, "{made} requests for 1000 writes");
        drop(file);
        mounted.unmount();
    });
}
