//! Who may do what, and whose things are.

use super::*;

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
        for name in names.iter().chain(&["kept"]) {
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
        open("kept").set_len(1).unwrap();
        open("kept").write_all(b"y").unwrap();
        // The kernel means real root alone, on any file system (`setattr_should_drop_suidgid()`).
        let expected = if identity == Identity::Root { 0o6777 } else { 0o777 };
        assert_eq!(mode("kept"), expected);
        for name in names {
            // stat(1) asks for the permissions alone, which the kernel may answer by itself.
            let asked = Command::new("stat").args(["-c", "%a"]).arg(mounted.path(name)).output();
            assert_eq!(asked.unwrap().stdout, b"777\n", "{name}: what the kernel believes");
            assert_eq!(mode(name), 0o777, "{name}");
        }
        mounted.unmount();
    });
}

/// Who gives a file of another group a list takes the set-group-id bit away (Linux
/// `fs/posix_acl.c`, `posix_acl_update_mode()`).
#[test]
fn a_list_takes_the_set_group_id_bit_of_others() {
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return;
        }
        let layers = Layers::new(stage, 1);
        for name in ["other", "own"] {
            let path = layers.file(1, name, "program");
            lchown(&path, Some(1000), Some(if name == "own" { 1000 } else { 2000 })).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o2755)).unwrap();
        }
        fs::set_permissions(stage, PermissionsExt::from_mode(0o755)).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        as_user(1000, 1000, || {
            for name in ["other", "own"] {
                acl::set_access(&mounted.path(name), &acl::list(0o755, 7, 4));
            }
        });
        let mode = |name: &str| fs::metadata(mounted.path(name)).unwrap().mode() & 0o7000;
        assert_eq!((mode("other"), mode("own")), (0, 0o2000));
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
