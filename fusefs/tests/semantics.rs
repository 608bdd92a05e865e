//! The promises of SEMANTICS.md.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use nix::unistd::{Gid, Uid, Whence, lseek, mkfifo, setfsgid, setfsuid};

use crate::common::{Identity, Layers, Mounted, acl, checksum, everywhere, names, xattr};

fn errno<T>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.err().and_then(|error| error.raw_os_error()).unwrap_or(0))
}

/// Acts as another user inside, who has no privilege.
fn as_user<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> T {
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    let result = act();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    result
}

/// How many requests the server has received so far: it makes one read(2) for each.
fn requests(mounted: &Mounted) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", mounted.server())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap();
    line.parse().unwrap()
}

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
fn new_files_belong_to_who_makes_them() {
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return; // there is nobody else
        }
        let layers = Layers::new(stage, 1);
        let shared = layers.folder(1, "shared");
        fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();
        let group = layers.folder(1, "group");
        lchown(&group, None, Some(50)).unwrap();
        fs::set_permissions(&group, PermissionsExt::from_mode(0o2777)).unwrap();
        fs::set_permissions(stage, PermissionsExt::from_mode(0o755)).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        umask(Mode::from_bits_truncate(0o027));
        for (folder, gid, set_gid) in [("shared", 1001, 0), ("group", 50, 0o2000)] {
            let path = |name: &str| mounted.path(folder).join(name);
            as_user(1000, 1001, || {
                fs::write(path("file"), "").unwrap();
                fs::create_dir(path("folder")).unwrap();
                symlink("x", path("link")).unwrap();
                mkfifo(&path("fifo"), Mode::from_bits_truncate(0o666)).unwrap();
            });
            for (name, mode) in
                [("file", 0o640), ("folder", 0o750 | set_gid), ("link", 0o777), ("fifo", 0o640)]
            {
                let meta = fs::symlink_metadata(path(name)).unwrap();
                assert_eq!((meta.uid(), meta.gid()), (1000, gid), "{folder}/{name}");
                assert_eq!(meta.mode() & 0o7777, mode, "{folder}/{name}");
            }
        }
        mounted.unmount();
    });
}

#[test]
fn an_owner_that_cannot_be_given_is_an_error() {
    everywhere(|identity, stage| {
        if identity.has_many_ids() {
            return;
        }
        let layers = Layers::new(stage, 1);
        layers.file(1, "f", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(errno(lchown(mounted.path("f"), Some(7), None)), Errno::EINVAL);
        mounted.unmount();
    });
}

#[test]
fn permissions_are_checked() {
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return;
        }
        let layers = Layers::new(stage, 1);
        let secret = layers.file(1, "secret", "");
        fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let sticky = layers.folder(1, "sticky");
        fs::set_permissions(&sticky, PermissionsExt::from_mode(0o1777)).unwrap();
        layers.file(1, "sticky/root", "");
        fs::set_permissions(stage, PermissionsExt::from_mode(0o755)).unwrap();
        let listed = layers.file(1, "listed", "for one");
        acl::set_access(&listed, &acl::list(0o600, 1000, 4));
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        as_user(1000, 1000, || {
            assert_eq!(errno(File::open(mounted.path("secret"))), Errno::EACCES);
            assert_eq!(errno(fs::write(mounted.path("new"), "")), Errno::EACCES);
            assert_eq!(errno(fs::remove_file(mounted.path("sticky/root"))), Errno::EPERM);
            assert_eq!(mounted.read("listed"), "for one");
        });
        as_user(1001, 1001, || {
            assert_eq!(errno(File::open(mounted.path("listed"))), Errno::EACCES);
        });
        mounted.unmount();
    });
}

#[test]
fn default_access_control_lists_are_inherited() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let folder = layers.folder(1, "d");
        acl::set_default(&folder, &acl::list(0o770, 0, 6));
        layers.file(1, "d/hidden", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        umask(Mode::from_bits_truncate(0o077));
        fs::remove_file(mounted.path("d/hidden")).unwrap();
        for name in ["d/new", "d/hidden"] {
            fs::write(mounted.path(name), "").unwrap();
            let list = xattr::get(&mounted.path(name), "system.posix_acl_access").unwrap();
            assert!(list.len() > 4 + 8 * 3, "{name} has no entry for a user");
            let mode = fs::metadata(mounted.path(name)).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o660, "{name}: the list takes the place of the umask");
        }
        fs::create_dir(mounted.path("d/e")).unwrap();
        xattr::get(&mounted.path("d/e"), "system.posix_acl_default").unwrap();
        xattr::remove(&mounted.path("d"), "system.posix_acl_default").unwrap();
        fs::write(mounted.path("d/private"), "").unwrap();
        assert_eq!(fs::metadata(mounted.path("d/private")).unwrap().mode() & 0o777, 0o600);
        mounted.unmount();
    });
}

#[test]
fn writing_takes_set_id_bits_away() {
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return;
        }
        let layers = Layers::new(stage, 1);
        let names = ["write", "truncate", "overwrite", "own"];
        for name in names {
            let path = layers.file(1, name, "program");
            lchown(&path, Some(2000), Some(2000)).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o6777)).unwrap();
        }
        fs::set_permissions(stage, PermissionsExt::from_mode(0o755)).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let mode = |name: &str| fs::metadata(mounted.path(name)).unwrap().mode() & 0o7777;
        for name in names {
            assert_eq!(mode(name), 0o6777, "{name}");
        }
        let open = |name: &str| OpenOptions::new().write(true).open(mounted.path(name)).unwrap();
        as_user(1000, 1000, || {
            open("write").write_all(b"x").unwrap();
            open("truncate").set_len(1).unwrap();
            fs::write(mounted.path("overwrite"), "x").unwrap();
        });
        as_user(2000, 2000, || open("own").write_all(b"x").unwrap());
        for name in names {
            // stat(1) asks for the permissions alone, which the kernel may answer by itself.
            let asked = Command::new("stat").args(["-c", "%a"]).arg(mounted.path(name)).output();
            assert_eq!(asked.unwrap().stdout, b"777\n", "{name}: what the kernel believes");
            assert_eq!(mode(name), 0o777, "{name}");
        }
        mounted.unmount();
    });
}

#[test]
fn capabilities_stay_until_somebody_writes() {
    /// Revision 2, effective, `CAP_NET_BIND_SERVICE` permitted.
    const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const NAME: &str = "security.capability";
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let path = layers.file(1, "ping", "program");
        xattr::set(&path, NAME, &BIND).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(xattr::get(&mounted.path("ping"), NAME).unwrap(), BIND);
        fs::set_permissions(mounted.path("ping"), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(xattr::get(&mounted.path("ping"), NAME).unwrap(), BIND, "after the copy");
        let file = OpenOptions::new().append(true).open(mounted.path("ping")).unwrap();
        (&file).write_all(b"more").unwrap();
        assert_eq!(xattr::get(&mounted.path("ping"), NAME), Err(Errno::ENODATA));
        drop(file);
        mounted.unmount();
    });
}

#[test]
fn attributes_of_the_format_are_not_for_the_inside() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let path = layers.file(1, "d/f", "");
        let private =
            ["user.overlay.opaque", "user.containers.override_stat", "user.fuseoverlayfs.origin"];
        for name in private {
            xattr::set(&path, name, b"y").unwrap();
        }
        xattr::set(&path, "user.own", b"mine").unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = mounted.path("d/f");
        assert_eq!(xattr::list(&file).unwrap(), [b"user.own".to_vec()]);
        for name in private {
            assert_eq!(xattr::get(&file, name), Err(Errno::ENODATA), "{name}");
            assert_eq!(xattr::set(&file, name, b"y"), Err(Errno::EPERM), "{name}");
            assert_eq!(xattr::remove(&file, name), Err(Errno::EPERM), "{name}");
        }
        xattr::set(&file, "user.own", &[1; 4000]).unwrap();
        assert_eq!(xattr::get(&file, "user.own").unwrap(), [1; 4000]);
        xattr::remove(&file, "user.own").unwrap();
        assert!(xattr::list(&file).unwrap().is_empty());
        mounted.unmount();
    });
}

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
        assert_eq!(device(0), Err(Errno::EPERM), "that would be a whiteout");
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
fn layers_cannot_lead_outside() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        let outside = stage.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        layers.file(1, "d/f", "");
        symlink(&outside, layers.lower(2).join("d")).unwrap();
        let redirected = layers.file(1, "r/f", "");
        xattr::set(redirected.parent().unwrap(), "user.overlay.redirect", b"/../outside").unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(names(&mounted.path("d")), ["f"]);
        let mut listing = fs::read_dir(mounted.path("r")).unwrap();
        assert_eq!(errno(listing.next().unwrap()), Errno::EIO);
        drop(listing);
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
fn renames_take_the_flags_that_overlayfs_takes() {
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
        assert_eq!(rename("b", "x", RenameFlags::RENAME_WHITEOUT), Err(Errno::EINVAL));
        assert_eq!(rename("d", "e", RenameFlags::empty()), Err(Errno::EXDEV));
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
