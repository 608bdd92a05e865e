//! What a mount may show differently: owners, numbers, attributes, and for how long.

use rrun_fusefs::{Config, IdMap};

use super::*;

fn layers(stage: &Path) -> Layers {
    let layers = Layers::new(stage, 1);
    layers.file(1, "d/sub/f", "contents");
    layers.file(1, "d/g", "contents");
    layers
}

fn with(layers: &Layers, change: impl FnOnce(&mut Config)) -> Mounted {
    let mut config = layers.config();
    change(&mut config);
    Mounted::new(&config, &layers.merged())
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn owners_are_mapped_both_ways() {
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return;
        }
        let layers = layers(stage);
        lchown(layers.lower(1).join("d/g"), Some(3), Some(4)).unwrap();
        lchown(layers.lower(1).join("d/sub"), Some(500), None).unwrap();
        let mounted = with(&layers, |config| {
            config.users = IdMap::parse("0:0:1:1:1001:100").unwrap();
            config.groups = IdMap::parse("0:0:1:1:2001:100").unwrap();
        });
        assert_eq!(owner(&mounted.path("d/g")), (1003, 2004));
        assert_eq!(owner(&mounted.path("d/sub")), (65_534, 0), "no range has it");
        lchown(mounted.path("d/g"), Some(1010), Some(2020)).unwrap();
        assert_eq!(owner(&mounted.path("d/g")), (1010, 2020));
        assert_eq!(owner(&layers.upper().join("d/g")), (10, 20));
        set_open(&mounted.path("d"));
        fs::set_permissions(stage, PermissionsExt::from_mode(0o755)).unwrap();
        as_user(1007, 2008, || fs::write(mounted.path("d/new"), "").unwrap());
        assert_eq!(owner(&mounted.path("d/new")), (1007, 2008));
        assert_eq!(owner(&layers.upper().join("d/new")), (7, 8));
        mounted.unmount();
    });
}

fn set_open(folder: &Path) {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).unwrap();
}

#[test]
fn all_may_be_shown_as_one() {
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return;
        }
        let layers = layers(stage);
        lchown(layers.lower(1).join("d/g"), Some(3), Some(4)).unwrap();
        let mounted = with(&layers, |config| {
            config.users.squash = Some(42);
            config.groups.squash = Some(0);
        });
        assert_eq!(owner(&mounted.path("d/g")), (42, 0));
        lchown(mounted.path("d/g"), Some(7), Some(8)).unwrap();
        assert_eq!(owner(&mounted.path("d/g")), (42, 0));
        set_open(&mounted.path("d"));
        fs::set_permissions(stage, PermissionsExt::from_mode(0o755)).unwrap();
        as_user(9, 9, || fs::write(mounted.path("d/new"), "").unwrap());
        assert_eq!(owner(&mounted.path("d/new")), (42, 0));
        assert_eq!(owner(&layers.upper().join("d/new")), (0, 0), "it belongs to the server");
        mounted.unmount();
    });
}

#[test]
fn numbers_may_be_short_and_links_one() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        let other = layers.lower(1).join("d/sub");
        mount(Some("none"), &other, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::write(other.join("f"), "").unwrap();
        let mounted = with(&layers, |config| {
            config.short_numbers = true;
            config.static_nlink = true;
        });
        fs::create_dir_all(mounted.path("new/deeper")).unwrap();
        for path in ["d", "new", "d/sub"] {
            let meta = fs::metadata(mounted.path(path)).unwrap();
            assert_eq!(meta.nlink(), 1, "{path}");
            for entry in fs::read_dir(mounted.path(path)).unwrap() {
                let entry = entry.unwrap();
                let number = entry.ino();
                assert!(number > 0 && number <= u64::from(u32::MAX), "{number}");
                assert_eq!(fs::metadata(entry.path()).unwrap().ino(), number);
            }
        }
        mounted.unmount();
        umount(&other).unwrap();
    });
}

#[test]
fn lists_and_attributes_may_be_left_out() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        acl::set_access(&layers.lower(1).join("d/g"), &acl::list(0o644, 0, 4));
        xattr::set(&layers.lower(1).join("d/g"), "user.comment", b"x").unwrap();
        let mounted = with(&layers, |config| config.acl = false);
        let list = xattr::get(&mounted.path("d/g"), "system.posix_acl_access");
        assert_eq!(list, Err(Errno::EOPNOTSUPP));
        assert_eq!(xattr::list(&mounted.path("d/g")).unwrap(), [b"user.comment".to_vec()]);
        assert_eq!(xattr::get(&mounted.path("d/g"), "user.comment").unwrap(), b"x");
        mounted.unmount();
        let mounted = with(&layers, |config| {
            config.acl = false;
            config.xattrs = false;
        });
        assert_eq!(xattr::get(&mounted.path("d/g"), "user.comment"), Err(Errno::EOPNOTSUPP));
        assert_eq!(xattr::set(&mounted.path("d/g"), "user.a", b""), Err(Errno::EOPNOTSUPP));
        mounted.unmount();
    });
}

#[test]
fn what_is_known_may_grow_old() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        let mounted = with(&layers, |config| config.timeout = Some(Duration::ZERO));
        let look = || fs::metadata(mounted.path("d/g")).unwrap().size();
        look();
        let before = requests(&mounted);
        (0..10).for_each(|_| assert_eq!(look(), 8));
        assert!(requests(&mounted) - before >= 10);
        mounted.unmount();
    });
}

#[test]
fn syncing_may_mean_nothing() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        for fsync in [true, false] {
            let mounted = with(&layers, |config| config.fsync = fsync);
            let file = File::create(mounted.path("synced")).unwrap();
            file.write_all_at(b"contents", 0).unwrap();
            let folder = File::open(mounted.root()).unwrap();
            let sync = || {
                file.sync_all().unwrap();
                folder.sync_all().unwrap();
            };
            sync();
            let before = requests(&mounted);
            (0..10).for_each(|_| sync());
            let made = requests(&mounted) - before;
            assert_eq!(made >= 20, fsync, "{made} requests");
            drop((file, folder));
            mounted.unmount();
        }
    });
}
