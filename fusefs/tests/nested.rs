//! Overlays whose upper directory lies in ours: kernel overlayfs, and ours again.

use std::fs;
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::umount;
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::common::{Identity, Layers, Mounted, everywhere, names, tree_text, xattr};
use crate::interop::{change, kernel_mount, two_layers};

/// What overlayfs on a plain directory shows after changes of every kind.
fn expected(stage: &Path) -> String {
    let layers = two_layers(&stage.join("plain"));
    kernel_mount(&layers, 2);
    change(&layers.merged());
    let text = tree_text(&layers.merged());
    umount(&layers.merged()).unwrap();
    text
}

#[test]
fn overlayfs_may_have_its_upper_directory_in_ours() {
    everywhere(|identity, stage| {
        let expected = expected(stage);
        let outer = Layers::new(stage, 1);
        let mounted = Mounted::new(&outer.config(), &outer.merged());
        let inner = two_layers(&mounted.path("inner"));
        kernel_mount(&inner, 2);
        change(&inner.merged());
        assert_eq!(tree_text(&inner.merged()), expected, "{identity:?}");
        umount(&inner.merged()).unwrap();
        kernel_mount(&inner, 2);
        assert_eq!(tree_text(&inner.merged()), expected, "mounted again, {identity:?}");
        umount(&inner.merged()).unwrap();
        mounted.unmount();
        let mounted = Mounted::new(&outer.config(), &outer.merged());
        kernel_mount(&inner, 2);
        assert_eq!(tree_text(&inner.merged()), expected, "both mounted again, {identity:?}");
        umount(&inner.merged()).unwrap();
        mounted.unmount();
    });
}

/// One file of three names.
fn add_links(lower: &Path) {
    fs::create_dir(lower.join("links")).unwrap();
    fs::write(lower.join("links/one"), "linked").unwrap();
    for name in ["links/two", "links/three"] {
        fs::hard_link(lower.join("links/one"), lower.join(name)).unwrap();
    }
}

fn check_links(within: &Mounted) {
    let number = |name: &str| fs::metadata(within.path(name)).unwrap().ino();
    assert_eq!(within.read("links/two"), "changed");
    assert_eq!(number("links/one"), number("links/three"));
}

#[test]
fn ours_may_have_its_upper_directory_in_ours() {
    everywhere(|identity, stage| {
        let expected = expected(stage);
        let outer = Layers::new(stage, 1);
        let mounted = Mounted::new(&outer.config(), &outer.merged());
        let inner = two_layers(&mounted.path("inner"));
        add_links(&inner.lower(2));
        let within = Mounted::new(&inner.config(), &inner.merged());
        fs::write(within.path("links/one"), "changed").unwrap();
        check_links(&within);
        fs::set_permissions(within.path("links/one"), PermissionsExt::from_mode(0o4755)).unwrap();
        within.unmount();
        mounted.unmount();

        // Node ids of the outer mount are others now: nothing may hang on them.
        let mounted = Mounted::new(&outer.config(), &outer.merged());
        for folder in ["inner/lower1", "inner/upper"] {
            names(&mounted.path(folder));
        }
        let within = Mounted::new(&inner.config(), &inner.merged());
        check_links(&within);
        let found = fs::metadata(within.path("links/three")).unwrap().mode();
        assert_eq!(found & 0o7777, 0o4755);
        fs::remove_dir_all(within.path("links")).unwrap();
        change(within.root());
        assert_eq!(tree_text(within.root()), expected, "{identity:?}");
        within.unmount();
        mounted.unmount();
        let mounted = Mounted::new(&outer.config(), &outer.merged());
        let within = Mounted::new(&inner.config(), &inner.merged());
        assert_eq!(tree_text(within.root()), expected, "mounted again, {identity:?}");
        within.unmount();
        mounted.unmount();
    });
}

/// Devices 0:0 and nothing else, in listings and to stat.
fn check_devices(mounted: &Mounted) {
    assert_eq!(names(mounted.root()), ["d", "e"]);
    for (folder, known) in [("d", ["c", "lower"]), ("e", ["linked", "moved"])] {
        assert_eq!(names(&mounted.path(folder)), known);
        for entry in fs::read_dir(mounted.path(folder)).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            assert!(entry.file_type().unwrap().is_char_device(), "{entry:?}");
            assert!(meta.file_type().is_char_device(), "{entry:?}");
            assert_eq!((meta.rdev(), meta.size(), meta.ino()), (0, 0, entry.ino()));
            assert!(fs::read(entry.path()).is_err());
        }
    }
    let linked = fs::metadata(mounted.path("e/linked")).unwrap();
    assert_eq!((linked.mode() & 0o7777, linked.nlink()), (0o640, 2));
}

/// What such an overlay calls a whiteout: a device that nobody can open, by name like any other.
#[test]
fn whiteouts_of_an_overlay_inside_are_plain_devices() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/lower", "lower");
        layers.folder(1, "e");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let make = |path: &str| {
            mknod(&mounted.path(path), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), 0)
        };
        for path in ["a", "d/b", "d/c"] {
            make(path).unwrap();
        }
        assert_eq!(make("a"), Err(Errno::EEXIST));
        fs::remove_file(mounted.path("d/lower")).unwrap();
        make("d/lower").unwrap();
        fs::rename(mounted.path("d/b"), mounted.path("e/moved")).unwrap();
        fs::hard_link(mounted.path("d/c"), mounted.path("e/linked")).unwrap();
        fs::set_permissions(mounted.path("d/c"), PermissionsExt::from_mode(0o640)).unwrap();
        fs::remove_file(mounted.path("a")).unwrap();
        check_devices(&mounted);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        check_devices(&mounted);
        mounted.unmount();

        // The upper directory as a layer: what is copied from it stays what it is.
        let above = Layers::new(&stage.join("above"), 0);
        let mut config = above.config();
        config.lowerdirs = vec![layers.upper(), layers.lower(1)];
        let mounted = Mounted::new(&config, &above.merged());
        check_devices(&mounted);
        fs::set_permissions(mounted.path("e/moved"), PermissionsExt::from_mode(0o604)).unwrap();
        fs::set_permissions(mounted.path("e"), PermissionsExt::from_mode(0o700)).unwrap();
        check_devices(&mounted);
        mounted.unmount();
        let mounted = Mounted::new(&config, &above.merged());
        check_devices(&mounted);
        let moved = fs::metadata(mounted.path("e/moved")).unwrap().mode();
        assert_eq!(moved, libc::S_IFCHR | 0o604);
        mounted.unmount();
    });
}

fn check_left(mounted: &Mounted) {
    assert_eq!(names(mounted.root()), ["d", "e", "lower", "moved"]);
    assert_eq!(names(&mounted.path("d")), ["a", "b", "c", "lower", "moved"]);
    assert_eq!((mounted.read("d/b"), mounted.read("e")), ("d/a".into(), "d/c".into()));
    for name in ["d/a", "d/c", "lower", "moved"] {
        let found = fs::symlink_metadata(mounted.path(name)).unwrap();
        assert!(found.file_type().is_char_device() && found.rdev() == 0, "{name}");
    }
}

#[test]
fn a_rename_may_leave_a_whiteout() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "lower", "lower");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::create_dir(mounted.path("d")).unwrap();
        fs::create_dir(mounted.path("moved")).unwrap();
        for name in ["d/a", "d/b", "d/c"] {
            fs::write(mounted.path(name), name).unwrap();
        }
        let rename = |from: &str, to: &str, flags| {
            renameat2(AT_FDCWD, &mounted.path(from), AT_FDCWD, &mounted.path(to), flags)
        };
        let whiteout = RenameFlags::RENAME_WHITEOUT;
        let unless_there = whiteout | RenameFlags::RENAME_NOREPLACE;
        assert_eq!(rename("d/a", "d/b", unless_there), Err(Errno::EEXIST));
        rename("d/a", "d/b", whiteout).unwrap();
        rename("d/c", "e", unless_there).unwrap();
        rename("lower", "d/lower", whiteout).unwrap();
        rename("moved", "d/moved", whiteout).unwrap();
        check_left(&mounted);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        check_left(&mounted);
        for name in ["d/a", "lower", "moved"] {
            fs::remove_file(mounted.path(name)).unwrap();
        }
        fs::create_dir(mounted.path("moved")).unwrap();
        fs::remove_dir_all(mounted.path("d")).unwrap();
        assert_eq!(names(mounted.root()), ["e", "moved"]);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(names(mounted.root()), ["e", "moved"]);
        mounted.unmount();
    });
}

const PRIVATE: [&str; 3] =
    ["user.overlay.opaque", "user.containers.override_stat", "user.fuseoverlayfs.origin"];

#[test]
fn attributes_of_the_format_are_not_for_the_inside() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let path = layers.file(1, "d/f", "");
        for name in PRIVATE {
            xattr::set(&path, name, b"y").unwrap();
        }
        xattr::set(&path, "user.own", b"mine").unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = mounted.path("d/f");
        assert_eq!(xattr::list(&file).unwrap(), [b"user.own".to_vec()]);
        for name in PRIVATE {
            assert_eq!(xattr::get(&file, name), Err(Errno::ENODATA), "{name}");
            assert_eq!(xattr::remove(&file, name), Err(Errno::ENODATA), "{name}");
        }
        xattr::set(&file, "user.own", &[1; 3000]).unwrap();
        assert_eq!(xattr::get(&file, "user.own").unwrap(), [1; 3000]);
        xattr::remove(&file, "user.own").unwrap();
        assert!(xattr::list(&file).unwrap().is_empty());
        mounted.unmount();
    });
}

/// What has a meaning on disk has none when the inside sets it, and is kept for it.
#[test]
fn attributes_of_an_overlay_inside_are_its_own() {
    everywhere(|identity, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/f", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let mut private = PRIVATE.to_vec();
        private.push("user.overlay.overlay.opaque");
        if identity == Identity::Root {
            private.push("trusted.overlay.redirect");
        }
        for name in &private {
            xattr::set(&mounted.path("d/f"), name, name.as_bytes()).unwrap();
            xattr::set(&mounted.path("d"), name, b"y").unwrap();
        }
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let file = mounted.path("d/f");
        assert_eq!(names(&mounted.path("d")), ["f"], "not opaque, not moved");
        for name in &private {
            assert_eq!(xattr::get(&file, name).unwrap(), name.as_bytes());
            assert_eq!(xattr::get(&mounted.path("d"), name).unwrap(), b"y");
        }
        assert_eq!(xattr::list(&file).unwrap().len(), private.len());
        for name in &private {
            xattr::remove(&file, name).unwrap();
        }
        assert!(xattr::list(&file).unwrap().is_empty());
        mounted.unmount();
    });
}
