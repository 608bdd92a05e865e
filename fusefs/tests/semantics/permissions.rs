//! Permissions that do not lie on disk as they are shown.

use rrun_fusefs::{Config, PermissionsKept};

use super::*;
use crate::common::tree_text;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// No file of the upper directory lends its owner's rights to others of the host.
#[test]
#[expect(clippy::too_many_lines, reason = "one story: every way to get and to lose them")]
fn set_id_bits_of_files_are_not_on_disk() {
    everywhere(|identity, stage| {
        let layers = Layers::new(stage, 1);
        for name in ["copied", "cleared", "given"] {
            set_mode(&layers.file(1, name, "program"), 0o6755);
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        xattr::set(&mounted.path("copied"), "user.new", b"").unwrap();
        set_mode(&mounted.path("cleared"), 0o755);
        umask(Mode::empty());
        mknod(&mounted.path("made"), SFlag::S_IFREG, Mode::from_bits_truncate(0o4711), 0).unwrap();
        fs::write(mounted.path("changed"), "").unwrap();
        set_mode(&mounted.path("changed"), 0o2711);
        fs::create_dir(mounted.path("folder")).unwrap();
        set_mode(&mounted.path("folder"), 0o2755);
        let owner = if identity.has_many_ids() { 1000 } else { 0 };
        lchown(mounted.path("given"), Some(owner), None).unwrap();
        let nameless = OpenOptions::new()
            .write(true)
            .mode(0o4700)
            .custom_flags(libc::O_TMPFILE)
            .open(mounted.root())
            .unwrap();
        assert_eq!(nameless.metadata().unwrap().mode() & 0o7777, 0o4700);
        drop(nameless);
        let shown = [
            ("copied", 0o6755, 0o755),
            ("cleared", 0o755, 0o755),
            ("made", 0o4711, 0o711),
            ("changed", 0o2711, 0o711),
            ("folder", 0o2755, 0o2755),
            ("given", 0o755, 0o755),
        ];
        let check = |mounted: &Mounted| {
            for (name, shown, on_disk) in shown {
                assert_eq!(mode(&mounted.path(name)), shown, "{name}");
                assert_eq!(mode(&layers.upper().join(name)), on_disk, "{name} on disk");
            }
        };
        check(&mounted);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        check(&mounted);
        if identity != Identity::Root {
            // Who writes takes them away; so does root, but for real root.
            fs::write(mounted.path("copied"), "changed").unwrap();
            assert_eq!(mode(&mounted.path("copied")), 0o755);
        }
        set_mode(&mounted.path("made"), 0o700);
        fs::hard_link(mounted.path("changed"), mounted.path("linked")).unwrap();
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(mode(&mounted.path("made")), 0o700);
        assert_eq!(mode(&mounted.path("linked")), 0o2711);
        mounted.unmount();
    });
}

/// A hard link of a lower layer, of which only one name lies in the upper directory.
#[test]
fn set_id_bits_of_hard_links_are_not_on_disk() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let one = layers.file(1, "one", "program");
        fs::hard_link(&one, layers.lower(1).join("two")).unwrap();
        set_mode(&one, 0o4755);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        xattr::set(&mounted.path("one"), "user.new", b"").unwrap();
        let check = |mounted: &Mounted| {
            assert_eq!((mode(&mounted.path("two")), mode(&mounted.path("one"))), (0o4755, 0o4755));
            assert_eq!(mode(&layers.upper().join("one")), 0o755);
        };
        check(&mounted);
        mounted.unmount();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        check(&mounted);
        mounted.unmount();
    });
}

/// Changes of all kinds.
fn change(root: &Path, identity: Identity) {
    // A single id can name no other.
    let id = |id| Some(if identity.has_many_ids() { id } else { 0 });
    umask(Mode::from_bits_truncate(0o022));
    fs::create_dir(root.join("new")).unwrap();
    fs::write(root.join("new/file"), "new").unwrap();
    lchown(root.join("new/file"), id(1000), id(100)).unwrap();
    set_mode(&root.join("new/file"), 0o4755);
    lchown(root.join("new"), id(7), None).unwrap();
    set_mode(&root.join("new"), 0o1777);
    lchown(root.join("lower/file"), id(5), id(6)).unwrap();
    fs::write(root.join("lower/other"), "changed").unwrap();
    symlink("target", root.join("link")).unwrap();
}

fn with_lower(stage: &Path) -> Layers {
    let layers = Layers::new(stage, 1);
    set_mode(&layers.file(1, "lower/file", "file"), 0o644);
    set_mode(&layers.file(1, "lower/other", "other"), 0o640);
    for folder in ["lower", "."] {
        set_mode(&layers.lower(1).join(folder), 0o755);
    }
    layers
}

#[test]
fn an_attribute_may_hold_all_permissions() {
    everywhere(|identity, stage| {
        let kinds =
            [PermissionsKept::User, PermissionsKept::Containers, PermissionsKept::Privileged];
        for permissions in kinds {
            if permissions == PermissionsKept::Privileged && identity != Identity::Root {
                continue; // nobody else may set such attributes
            }
            let stage = stage.join(format!("{permissions:?}"));
            fs::create_dir(&stage).unwrap();
            let layers = with_lower(&stage);
            let config = Config { permissions, ..layers.config() };
            let mounted = Mounted::new(&config, &layers.merged());
            change(mounted.root(), identity);
            let before = tree_text(mounted.root());
            let meta = fs::metadata(mounted.path("new/file")).unwrap();
            let ids = if identity.has_many_ids() { (1000, 100) } else { (0, 0) };
            assert_eq!(((meta.uid(), meta.gid()), meta.mode()), (ids, 0o104_755));
            mounted.unmount();
            for name in ["new/file", "lower/file", "lower/other", "lower"] {
                let meta = fs::metadata(layers.upper().join(name)).unwrap();
                let own = if meta.is_dir() { 0o700 } else { 0o600 };
                assert_eq!((meta.mode() & 0o7777, meta.uid()), (own, 0), "{name} on disk");
            }
            // The directory says itself where they are.
            let mounted = Mounted::new(&layers.config(), &layers.merged());
            assert_eq!(tree_text(mounted.root()), before);
            mounted.unmount();
            // As a lower layer, too.
            let above =
                Config { lowerdirs: vec![layers.upper()], upperdir: None, workdir: None, ..config };
            let mounted = Mounted::new(&above, &layers.merged());
            assert_eq!(fs::metadata(mounted.path("new/file")).unwrap().uid(), ids.0);
            assert_eq!(mode(&mounted.path("new/file")), 0o4755);
            mounted.unmount();
        }
    });
}

/// Mounts with fuse-overlayfs, calls `act` with the tree, unmounts.
fn in_fuse_overlayfs<T>(layers: &Layers, act: impl FnOnce(&Path) -> T) -> T {
    let options = format!(
        "xattr_permissions=2,lowerdir={},upperdir={},workdir={}",
        layers.lower(1).display(),
        layers.upper().display(),
        layers.work().display()
    );
    let merged = layers.merged();
    let started = Command::new("fuse-overlayfs").arg("-o").arg(options).arg(&merged).status();
    assert!(started.expect("package fuse-overlayfs").success());
    let result = act(&merged);
    umount(&merged).unwrap();
    result
}

#[test]
fn fuse_overlayfs_and_we_read_each_others_permissions() {
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return;
        }
        let layers = with_lower(stage);
        let config =
            Config { permissions: PermissionsKept::User, redirect_dir: false, ..layers.config() };
        let mounted = Mounted::new(&config, &layers.merged());
        change(mounted.root(), identity);
        let ours = tree_text(mounted.root());
        mounted.unmount();
        let theirs = in_fuse_overlayfs(&layers, |root| {
            let theirs = tree_text(root);
            lchown(root.join("new/file"), Some(2000), Some(2001)).unwrap();
            set_mode(&root.join("lower/other"), 0o4710);
            theirs
        });
        assert_eq!(ours, theirs);
        let mounted = Mounted::new(&config, &layers.merged());
        let meta = fs::metadata(mounted.path("new/file")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (2000, 2001));
        assert_eq!(mode(&mounted.path("lower/other")), 0o4710);
        mounted.unmount();
    });
}

#[test]
fn broken_permissions_are_an_error() {
    everywhere(|_, stage| {
        let layers = with_lower(stage);
        let config = Config { permissions: PermissionsKept::User, ..layers.config() };
        Mounted::new(&config, &layers.merged()).unmount();
        fs::write(layers.upper().join("broken"), "").unwrap();
        xattr::set(&layers.upper().join("broken"), "user.fuseoverlayfs.override_stat", b"0:x")
            .unwrap();
        let mounted = Mounted::new(&config, &layers.merged());
        assert_eq!(errno(fs::metadata(mounted.path("broken"))), Errno::EIO);
        mounted.unmount();
    });
}
