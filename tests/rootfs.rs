//! The root file system: mounts, devices, what is hidden, and what must not be followed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::json;

use crate::common::{Bundle, Sandbox, is_root, leftovers};

/// Lines of the container's mount table, as `destination type options [optional fields]`.
const MOUNTS: &str = "while read -r _ _ _ _ at options rest; do \
    set -- ${rest#*- }; echo \"$at $1 $options,${3-} [${rest%%- *}]\"; done < /proc/self/mountinfo";

/// The line of `destination`; the last one is on top.
#[track_caller]
fn mounted<'a>(table: &'a str, destination: &str) -> &'a str {
    let wanted = format!("{destination} ");
    table
        .lines()
        .rfind(|line| line.starts_with(&wanted))
        .unwrap_or_else(|| panic!("{destination} in\n{table}"))
}

fn plain() -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    (sandbox, bundle)
}

#[test]
fn the_mounts_of_the_config_are_there() {
    let (sandbox, bundle) = plain();
    let table = sandbox.prints(&bundle, MOUNTS);
    let expected = [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    ];
    for (destination, kind) in expected {
        assert_eq!(mounted(&table, destination).split(' ').nth(1), Some(kind), "{table}");
    }
    for option in ["nosuid", "noexec", "nodev"] {
        assert!(mounted(&table, "/dev/shm").contains(option), "{table}");
    }
    assert!(mounted(&table, "/sys").contains(" ro,"), "{table}");
}

#[test]
fn the_default_devices_are_there() {
    let (sandbox, bundle) = plain();
    let script = "cd /dev; stat -c '%n %F %t:%T' null zero full random urandom tty; \
        for link in fd stdin stdout stderr ptmx; do readlink $link; done; echo x > null; head -c 3 zero | wc -c";
    let expected = [
        "null character special file 1:3",
        "zero character special file 1:5",
        "full character special file 1:7",
        "random character special file 1:8",
        "urandom character special file 1:9",
        "tty character special file 5:0",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
        "3",
    ];
    assert_eq!(sandbox.prints(&bundle, script).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_device_of_the_config_is_there() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| {
        config["linux"]["devices"] = json!([{
            "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0,
        }]);
    });
    assert_eq!(
        sandbox.prints(&bundle, "stat -c '%F %t:%T' /dev/fuse"),
        "character special file a:e5"
    );
}

#[test]
fn a_device_that_was_bound_is_left_as_it_is() {
    let (sandbox, bundle) = plain();
    let mut node = PathBuf::from("/dev/null");
    if is_root() {
        node = sandbox.join("null");
        let owner_alone = Mode::S_IRUSR | Mode::S_IWUSR;
        mknod(&node, SFlag::S_IFCHR, owner_alone, makedev(1, 3)).unwrap();
    }
    let before = fs::metadata(&node).unwrap();
    bundle.mount("/dev/null", "bind", node.to_str().unwrap(), &["bind"]);
    let seen = sandbox.prints(&bundle, "echo x > /dev/null; stat -c %t:%T:%a /dev/null");
    assert_eq!(seen, format!("1:3:{:o}", before.mode() & 0o7777));
    let after = fs::metadata(&node).unwrap();
    assert_eq!((before.mode(), before.uid()), (after.mode(), after.uid()));
}

#[test]
fn the_root_can_be_read_only() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| config["root"]["readonly"] = true.into());
    let seen = sandbox.prints(&bundle, "touch /new 2>&1; touch /dev/shm/new && echo fine");
    assert!(seen.contains("Read-only file system") && seen.ends_with("fine"), "{seen}");
    assert!(!bundle.inside("/new").exists());
}

#[test]
fn a_bind_mount_shows_the_host_s_directory() {
    let (sandbox, bundle) = plain();
    let shared = sandbox.directory("shared");
    fs::write(shared.join("from-host"), "host\n").unwrap();
    bundle.mount("/new/shared", "bind", shared.to_str().unwrap(), &["bind", "rw"]);
    assert_eq!(
        sandbox.prints(&bundle, "cat /new/shared/from-host; echo back > /new/shared/from-inside"),
        "host"
    );
    assert_eq!(fs::read_to_string(shared.join("from-inside")).unwrap(), "back\n");
}

#[test]
fn a_bind_mount_has_its_flags() {
    let (sandbox, bundle) = plain();
    let shared = sandbox.directory("shared");
    fs::copy("/bin/busybox", shared.join("program")).unwrap();
    bundle.mount(
        "/shared",
        "bind",
        shared.to_str().unwrap(),
        &["bind", "ro", "nosuid", "nodev", "noexec"],
    );
    let seen = sandbox
        .prints(&bundle, &format!("touch /shared/new 2>&1; /shared/program true 2>&1; {MOUNTS}"));
    assert!(
        seen.contains("Read-only file system") && seen.to_lowercase().contains("permission denied"),
        "{seen}"
    );
    for option in [" ro,", "nosuid", "nodev", "noexec"] {
        assert!(mounted(&seen, "/shared").contains(option), "{option} in {seen}");
    }
}

#[test]
fn a_bound_file_appears_where_there_was_none() {
    let (sandbox, bundle) = plain();
    fs::write(sandbox.join("hosts"), "127.0.0.1 me\n").unwrap();
    bundle.mount(
        "/etc/hosts",
        "bind",
        sandbox.join("hosts").to_str().unwrap(),
        &["rbind", "rprivate", "ro"],
    );
    assert_eq!(sandbox.prints(&bundle, "cat /etc/hosts"), "127.0.0.1 me");
}

#[test]
fn rbind_brings_the_mounts_below() {
    let (sandbox, bundle) = plain();
    bundle.mount("/recursive", "bind", "/dev", &["rbind"]);
    bundle.mount("/single", "none", "/dev", &["rbind", "rro"]);
    let table = sandbox.prints(&bundle, MOUNTS);
    assert_eq!(mounted(&table, "/recursive/pts").split(' ').nth(1), Some("devpts"));
    assert!(mounted(&table, "/single/pts").contains(" ro,"), "recursively read-only: {table}");
}

#[test]
fn a_tmpfs_has_its_mode_and_size() {
    let (sandbox, bundle) = plain();
    bundle.mount("/scratch", "tmpfs", "tmpfs", &["mode=1750", "size=128k", "noexec"]);
    let seen = sandbox.prints(&bundle, "stat -c %a /scratch; head -c 200000 /dev/zero > /scratch/file 2>&1; stat -c %s /scratch/file");
    assert!(seen.starts_with("1750\n") && seen.ends_with("131072"), "{seen}");
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_hides() {
    let (sandbox, bundle) = plain();
    fs::create_dir(bundle.inside("/hidden")).unwrap();
    fs::set_permissions(bundle.inside("/hidden"), fs::Permissions::from_mode(0o710)).unwrap();
    fs::write(bundle.inside("/hidden/file"), "below").unwrap();
    bundle.mount("/hidden", "tmpfs", "tmpfs", &[]);
    bundle.mount("/new", "tmpfs", "tmpfs", &[]);
    let seen = sandbox.prints(&bundle, "stat -c %a /hidden /new; ls -A /hidden");
    assert_eq!(seen, "710\n1777");
}

#[test]
fn a_tmpfs_is_filled_with_what_it_hides() {
    let (sandbox, bundle) = plain();
    let hidden = bundle.inside("/hidden");
    fs::create_dir_all(hidden.join("sub/deep")).unwrap();
    fs::write(hidden.join("sub/deep/file"), "in the image\n").unwrap();
    fs::set_permissions(hidden.join("sub/deep/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(hidden.join("sub"), fs::Permissions::from_mode(0o1705)).unwrap();
    symlink("/etc/hostname", hidden.join("link")).unwrap();
    mkfifo(&hidden.join("pipe"), Mode::S_IRUSR).unwrap();
    bundle.mount("/hidden", "tmpfs", "tmpfs", &["ro", "tmpcopyup", "mode=750"]);
    let script = "cd /hidden; cat sub/deep/file; readlink link; stat -c '%a %F' . sub sub/deep/file pipe; \
        touch sub/new 2>&1; stat -f -c %T .";
    let expected = [
        "in the image",
        "/etc/hostname",
        "750 directory",
        "1705 directory",
        "4751 regular file",
        "400 fifo",
        "touch: sub/new: Read-only file system",
        "tmpfs",
    ];
    assert_eq!(sandbox.prints(&bundle, script).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_tmpfs_too_small_for_what_it_hides_is_refused() {
    let (sandbox, bundle) = plain();
    fs::create_dir(bundle.inside("/hidden")).unwrap();
    fs::write(bundle.inside("/hidden/big"), vec![1; 1 << 20]).unwrap();
    bundle.mount("/hidden", "tmpfs", "tmpfs", &["tmpcopyup", "size=64k"]);
    sandbox.run(&bundle).complains_of(&[
        "mount tmpfs on /hidden",
        "tmpcopyup",
        "copy big",
        "No space left",
    ]);
    sandbox.assert_nothing_left();
}

#[test]
fn mounts_are_made_in_their_order() {
    let (sandbox, bundle) = plain();
    bundle.mount("/a", "tmpfs", "tmpfs", &[]);
    bundle.mount("/a/b", "tmpfs", "tmpfs", &[]);
    bundle.mount("relative", "tmpfs", "tmpfs", &[]);
    let table = sandbox.prints(&bundle, MOUNTS);
    let places: Vec<_> = table.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let own = places.windows(3).any(|three| three == ["/a", "/a/b", "/relative"]);
    assert!(own, "{table}");
}

#[test]
fn masked_paths_are_empty() {
    let (sandbox, bundle) = plain();
    fs::write(bundle.inside("/etc/secret"), "secret\n").unwrap();
    fs::create_dir(bundle.inside("/vault")).unwrap();
    fs::write(bundle.inside("/vault/secret"), "secret\n").unwrap();
    bundle.edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/etc/secret", "/vault", "/not/there"]);
    });
    let seen = sandbox.prints(
        &bundle,
        "cat /etc/secret; ls -A /vault; touch /vault/new 2>/dev/null || echo refused",
    );
    assert_eq!(seen, "refused");
    assert_eq!(bundle.read("/etc/secret"), "secret\n");
}

#[test]
fn read_only_paths_are_not_written() {
    let (sandbox, bundle) = plain();
    fs::create_dir(bundle.inside("/frozen")).unwrap();
    bundle.edit(|config| {
        config["linux"]["readonlyPaths"] = json!(["/frozen", "/proc/sys", "/not/there"]);
    });
    let seen = sandbox.prints(
        &bundle,
        "touch /frozen/new 2>&1; echo x 2>&1 > /proc/sys/kernel/hostname; touch /new && echo fine",
    );
    assert_eq!(seen.matches("Read-only file system").count(), 2, "{seen}");
    assert!(seen.ends_with("fine"), "{seen}");
}

#[test]
fn the_root_propagates_as_asked() {
    for (propagation, shows, lacks) in [
        ("private", "[]", "shared:"),
        ("rprivate", "[]", "shared:"),
        ("shared", "shared:", "[]"),
        ("rshared", "shared:", "[]"),
    ] {
        let (sandbox, bundle) = plain();
        bundle.edit(|config| config["linux"]["rootfsPropagation"] = propagation.into());
        let table = sandbox.prints(&bundle, MOUNTS);
        let root = mounted(&table, "/");
        assert!(
            root.replace(" ]", "]").contains(shows) && !root.replace(" ]", "]").contains(lacks),
            "{propagation}: {root}"
        );
    }
    for propagation in ["slave", "rslave"] {
        let (sandbox, bundle) = plain();
        bundle.edit(|config| config["linux"]["rootfsPropagation"] = propagation.into());
        let table = sandbox.prints(&bundle, MOUNTS);
        assert!(!mounted(&table, "/").contains("shared:"), "{table}");
    }
}

#[test]
fn a_mount_propagates_as_asked() {
    let (sandbox, bundle) = plain();
    let source = sandbox.directory("source");
    bundle.mount("/one", "bind", source.to_str().unwrap(), &["bind", "shared"]);
    bundle.mount("/two", "bind", source.to_str().unwrap(), &["rbind", "rprivate"]);
    bundle.mount("/three", "tmpfs", "tmpfs", &["unbindable"]);
    let table = sandbox.prints(&bundle, MOUNTS);
    assert!(mounted(&table, "/one").contains("shared:"), "{table}");
    assert!(!mounted(&table, "/two").contains("shared:"), "{table}");
    assert!(mounted(&table, "/three").contains("unbindable"), "{table}");
}

#[test]
fn the_host_sees_none_of_the_mounts() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = sandbox.start(&bundle, "unseen");
    assert_eq!(leftovers::mounts(sandbox.path()), [""; 0]);
    sandbox.remove(&id);
}

#[test]
fn the_old_root_is_gone() {
    for flag in [None, Some("--no-pivot")] {
        let (sandbox, bundle) = plain();
        bundle.edit(|config| {
            config["process"]["args"] = json!(["sh", "-c", format!("ls -A /; {MOUNTS}")]);
        });
        let mut args = vec!["run", "--bundle", bundle.as_str()];
        args.extend(flag);
        let id = sandbox.id("root");
        args.push(&id);
        let seen = sandbox.rrun(&args).ok().stdout;
        assert!(seen.starts_with("bin\ndev\netc\nhome\nproc\nsys\ntmp\nvar\n"), "{seen}");
        if flag.is_none() {
            let first = seen.lines().find(|line| line.starts_with('/')).unwrap();
            assert!(
                first.starts_with("/ "),
                "the root comes first, the host's is not there: {seen}"
            );
        }
    }
}

/// Beneath the root that was moved, the host's `/proc` would allow another one without masks.
#[test]
fn no_other_proc_can_be_mounted_inside() {
    for flag in [None, Some("--no-pivot")] {
        let (sandbox, bundle) = plain();
        bundle.edit(|config| {
            let line = "mount -t proc proc /proc && echo mounted; echo done";
            // Or else the user namespace could not have a root.
            for set in ["bounding", "effective", "permitted"] {
                let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
                set.push(json!("CAP_SETFCAP"));
            }
            config["process"]["args"] =
                json!(["unshare", "-m", "-r", "-p", "-f", "sh", "-c", line]);
        });
        let mut args = vec!["run", "--bundle", bundle.as_str()];
        args.extend(flag);
        let id = sandbox.id("unmasked");
        args.push(&id);
        let seen = sandbox.rrun(&args).ok();
        assert_eq!(seen.stdout, "done\n", "{flag:?}: {}", seen.stderr);
    }
}

#[test]
fn the_control_groups_can_be_mounted() {
    let (sandbox, bundle) = plain();
    bundle.mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    );
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "cgroup" }));
    });
    let seen = sandbox.prints(
        &bundle,
        &format!("mkdir /sys/fs/cgroup/new 2>/dev/null || echo refused; {MOUNTS}"),
    );
    assert!(seen.starts_with("refused\n"), "{seen}");
    mounted(&seen, "/sys/fs/cgroup");
}

/// A link in the image must not turn a mount of proc or sysfs to another place (CVE-2019-19921,
/// CVE-2023-27561).
#[test]
fn a_link_in_place_of_proc_or_sys_is_refused() {
    for name in ["proc", "sys"] {
        let (sandbox, bundle) = plain();
        fs::remove_dir(bundle.inside(name)).unwrap();
        symlink("/tmp", bundle.inside(name)).unwrap();
        let id = sandbox.id("link");
        sandbox
            .rrun(&["create", "--bundle", bundle.as_str(), &id])
            .complains_of(&[&format!("/{name}")]);
        assert_eq!(leftovers::entries(&bundle.inside("/tmp")), [""; 0]);
        sandbox.assert_nothing_left();
    }
}

/// A path of the image that a link sends out of it (CVE-2021-30465, CVE-2024-45310,
/// CVE-2026-41579, CVE-2026-47766): whatever the runtime makes stays in the image.
#[test]
fn no_link_in_the_image_leads_out_of_it() {
    let outside_stays_empty = |sandbox: &Sandbox, bundle: &Bundle, outside: &Path| {
        // Refused or resolved within the image: both are right.
        sandbox.run(bundle);
        assert_eq!(leftovers::entries(outside), [""; 0]);
        sandbox.assert_nothing_left();
    };
    for target in ["absolute", "relative"] {
        let (sandbox, bundle) = plain();
        let outside = sandbox.directory("outside");
        let up = Path::new("../../../../../../..").join(outside.strip_prefix("/").unwrap());
        let link = if target == "absolute" { &outside } else { &up };
        symlink(link, bundle.inside("/link")).unwrap();
        bundle.mount("/link/made", "tmpfs", "tmpfs", &[]);
        bundle.mount("/link/file", "bind", "/etc/passwd", &["bind"]);
        outside_stays_empty(&sandbox, &bundle, &outside);
    }
    let (sandbox, bundle) = plain();
    let outside = sandbox.directory("outside");
    fs::remove_dir(bundle.inside("/dev")).unwrap();
    symlink(&outside, bundle.inside("/dev")).unwrap();
    bundle.edit(|config| {
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    outside_stays_empty(&sandbox, &bundle, &outside);
}

/// What a link in the image names is hidden and made read-only there: a link that leads out of it means
/// the same name inside.
#[test]
fn masks_stay_in_the_image() {
    let (sandbox, bundle) = plain();
    for name in ["/vault", "/cold"] {
        fs::create_dir(bundle.inside(name)).unwrap();
        fs::write(bundle.inside(name).join("secret"), "secret\n").unwrap();
    }
    symlink("/vault", bundle.inside("/masked")).unwrap();
    symlink("../../../../../../../cold", bundle.inside("/frozen")).unwrap();
    bundle.edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/masked"]);
        config["linux"]["readonlyPaths"] = json!(["/frozen"]);
    });
    let script = "ls /vault; touch /cold/new 2>&1; cat /cold/secret";
    assert_eq!(sandbox.prints(&bundle, script), "touch: /cold/new: Read-only file system\nsecret");
}

/// What hides a file is the runtime's own: an image with another `/dev/null` gains nothing
/// (CVE-2025-31133).
#[test]
fn masking_uses_nothing_of_the_image() {
    let (sandbox, bundle) = plain();
    fs::write(bundle.inside("/etc/secret"), "secret\n").unwrap();
    // A /dev of the caller's is left as it is: this is the null device that is seen inside.
    let dev = sandbox.directory("dev");
    fs::write(dev.join("null"), "decoy\n").unwrap();
    bundle.edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/etc/secret", "/proc/timer_list"]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    bundle.mount("/dev", "bind", dev.to_str().unwrap(), &["bind"]);
    let seen =
        sandbox.prints(&bundle, "cat /etc/secret /proc/timer_list; stat -c '%t:%T' /etc/secret");
    assert_eq!(seen, "1:3", "the host's null device");
    assert_eq!(bundle.read("/etc/secret"), "secret\n");
}

/// The host's node there would open terminals of the host's.
#[test]
fn a_device_in_place_of_ptmx_is_still_the_containers_own() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| {
        config["linux"]["devices"] =
            json!([{ "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 }]);
    });
    assert_eq!(sandbox.prints(&bundle, "readlink /dev/ptmx"), "pts/ptmx");
}
