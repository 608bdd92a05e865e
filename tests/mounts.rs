//! What mounts can do beyond the plain ones: mapped IDs, recursive attributes, links, overlays,
//! changes of what is there.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::common::{Bundle, Outcome, Sandbox, is_root};

/// Lines of the container's mount table, as `destination options of the mount,of its file system`.
const MOUNTS: &str = "while read -r _ _ _ _ at options rest; do \
    set -- ${rest#*- }; echo \"$at $options,${3-}\"; done < /proc/self/mountinfo";

fn plain() -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    (sandbox, bundle)
}

/// The options of the mount at `destination`, those of its file system after them.
#[track_caller]
fn options<'a>(table: &'a str, destination: &str) -> Vec<&'a str> {
    let wanted = format!("{destination} ");
    let line = table.lines().rfind(|line| line.starts_with(&wanted));
    let line = line.unwrap_or_else(|| panic!("{destination} in\n{table}"));
    line.split([' ', ',']).skip(1).collect()
}

/// The whole of `mount`, in the configuration.
fn add(bundle: &Bundle, mount: Value) {
    bundle.edit(|config| config["mounts"].as_array_mut().unwrap().push(mount));
}

fn range(stored: u32, shown: u32, count: u32) -> Value {
    json!([{ "containerID": stored, "hostID": shown, "size": count }])
}

/// A directory with files of these owners, each of that name.
fn owned(sandbox: &Sandbox, name: &str, owners: &[u32]) -> PathBuf {
    let directory = sandbox.directory(name);
    for owner in owners {
        let file = directory.join(owner.to_string());
        fs::write(&file, "").unwrap();
        chown(&file, Some(*owner), Some(*owner)).unwrap();
    }
    directory
}

/// Gives the container a user namespace of 1000 IDs from 300000, and its root to that one's root.
fn in_user_namespace(bundle: &Bundle) {
    give_away(&bundle.rootfs());
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        config["linux"]["uidMappings"] = range(0, 300_000, 1000);
        config["linux"]["gidMappings"] = range(0, 300_000, 1000);
    });
}

fn give_away(path: &Path) {
    std::os::unix::fs::lchown(path, Some(300_000), Some(300_000)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

/// Mapped mounts of what others mounted are for root; everybody else is told so.
#[track_caller]
fn only_root(outcome: Outcome) {
    outcome.complains_of(&["/mounts/", "run as root"]);
}

#[test]
fn ids_are_mapped_as_listed() {
    let (sandbox, bundle) = plain();
    let source = if is_root() { owned(&sandbox, "s", &[0, 5, 20]) } else { sandbox.directory("s") };
    let mount = json!({
        "destination": "/mapped", "type": "bind", "source": source, "options": ["bind"],
        "uidMappings": range(0, 1000, 10), "gidMappings": range(0, 2000, 10),
    });
    add(&bundle, mount);
    if !is_root() {
        return only_root(sandbox.run(&bundle));
    }
    let seen = sandbox.prints(&bundle, "cd /mapped; stat -c %n=%u:%g *; touch new 2>&1; true");
    let overflow = "20=65534:65534";
    assert!(seen.starts_with(&format!("0=1000:2000\n{overflow}\n5=1005:2005\n")), "{seen}");
    assert!(seen.contains("Value too large"), "root has no ID there: {seen}");
    bundle.edit(|config| config["process"]["user"] = json!({ "uid": 1003, "gid": 2003 }));
    fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).unwrap();
    sandbox.prints(&bundle, "touch /mapped/made");
    let made = fs::metadata(source.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (3, 3), "what is written goes the other way");
    sandbox.assert_nothing_left();
}

#[test]
fn ids_are_mapped_as_the_container_s_are() {
    let (sandbox, bundle) = plain();
    if !is_root() {
        bundle.mount("/mapped", "bind", sandbox.path().to_str().unwrap(), &["bind", "idmap"]);
        return only_root(sandbox.run(&bundle));
    }
    let source = owned(&sandbox, "source", &[0, 5]);
    in_user_namespace(&bundle);
    bundle.mount("/plain", "bind", source.to_str().unwrap(), &["bind"]);
    bundle.mount("/mapped", "bind", source.to_str().unwrap(), &["bind", "idmap"]);
    bundle.mount("/deeply", "bind", source.to_str().unwrap(), &["rbind", "ridmap", "ro"]);
    let script = "stat -c %n=%u:%g /plain/* /mapped/* /deeply/*; touch /mapped/new; touch /deeply/x 2>&1; true";
    let seen = sandbox.prints(&bundle, script);
    let expected = [
        "/plain/0=65534:65534",
        "/plain/5=65534:65534",
        "/mapped/0=0:0",
        "/mapped/5=5:5",
        "/deeply/0=0:0",
        "/deeply/5=5:5",
        "touch: /deeply/x: Read-only file system",
    ];
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
    assert_eq!(fs::metadata(source.join("new")).unwrap().uid(), 0);
}

#[test]
fn ids_are_mapped_as_in_a_namespace_that_is_joined() {
    let (sandbox, bundle) = plain();
    if !is_root() {
        bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({ "type": "user", "path": "/proc/self/ns/user" }));
        });
        bundle.mount("/mapped", "bind", sandbox.path().to_str().unwrap(), &["bind", "idmap"]);
        return only_root(sandbox.run(&bundle));
    }
    let source = owned(&sandbox, "source", &[0, 5]);
    in_user_namespace(&bundle);
    bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let first = sandbox.start(&bundle, "first");
    let second = sandbox.bundle(&["true"]);
    give_away(&second.rootfs());
    second.mount("/mapped", "bind", source.to_str().unwrap(), &["bind", "idmap"]);
    let path = format!("/proc/{}/ns/user", sandbox.state(&first)["pid"]);
    second.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "user", "path": path }));
    });
    assert_eq!(sandbox.prints(&second, "stat -c %u:%g /mapped/0 /mapped/5"), "0:0\n5:5");
    sandbox.remove(&first);
}

#[test]
fn crun_s_list_of_ids_is_understood() {
    let (sandbox, bundle) = plain();
    if !is_root() {
        bundle.mount("/m", "tmpfs", "tmpfs", &["idmap=uids=0-1;gids=0-0-1"]);
        sandbox.run(&bundle).complains_of(&["/mounts/6/options/0", "\"0-1\" is no range"]);
        return;
    }
    let source = owned(&sandbox, "source", &[0, 5]);
    in_user_namespace(&bundle);
    let list = "idmap=uids=0-300007-1#@5-8-1;gids=@0-0-10";
    bundle.mount("/mapped", "bind", source.to_str().unwrap(), &["bind", list]);
    assert_eq!(sandbox.prints(&bundle, "stat -c %u:%g /mapped/0 /mapped/5"), "7:0\n8:5");
}

/// `idmap` is for the mount alone, `ridmap` for all below it.
#[test]
fn ids_are_mapped_below_only_if_asked() {
    let (sandbox, bundle) = plain();
    if !is_root() {
        let list = "ridmap=uids=0-0-1;gids=0-0-1";
        bundle.mount("/mapped", "bind", sandbox.path().to_str().unwrap(), &["rbind", list]);
        return only_root(sandbox.run(&bundle));
    }
    let tree = owned(&sandbox, "tree", &[0]);
    let below = owned(&sandbox, "below", &[0]);
    fs::create_dir(tree.join("sub")).unwrap();
    for (option, expected) in [("idmap", "1000\n0"), ("ridmap", "1000\n1000")] {
        let mount = json!({
            "destination": "/mapped", "type": "bind", "source": tree, "options": ["rbind", option],
            "uidMappings": range(0, 1000, 10), "gidMappings": range(0, 1000, 10),
        });
        bundle.edit(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/mapped");
            mounts.push(mount);
            let script = "stat -c %u /mapped/0 /mapped/sub/0";
            config["process"]["args"] = json!(["sh", "-c", script]);
        });
        let run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id(option)]);
        let outcome = in_mount_namespace(&run, "mount --bind \"$1\" \"$2/sub\"", &[&below, &tree]);
        assert_eq!(outcome.ok().line(), expected, "{option}");
    }
}

/// Runs `command` in a mount namespace of its own, after the shell's `script` with these arguments.
fn in_mount_namespace(
    command: &std::process::Command,
    script: &str,
    arguments: &[&Path],
) -> Outcome {
    let mut inside = std::process::Command::new("unshare");
    let shift = format!("{script}; shift {}; exec \"$@\"", arguments.len());
    inside.args(["--mount", "sh", "-euc", &shift, "sh"]).args(arguments);
    inside.arg(command.get_program()).args(command.get_args());
    inside.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    crate::common::outcome::spawn(inside.stdin(std::process::Stdio::null())).wait()
}

/// Where only the container's own user namespace can be used, a file system made in it can still be
/// mapped: one ID of the container becomes another.
#[test]
fn a_new_file_system_is_mapped_too() {
    let (sandbox, bundle) = plain();
    let seventh = if is_root() {
        in_user_namespace(&bundle);
        300_007
    } else {
        crate::common::first_subordinate_uid() + 6
    };
    let mount = json!({
        "destination": "/mapped", "type": "tmpfs", "source": "tmpfs", "options": ["mode=777"],
        "uidMappings": range(0, seventh, 1), "gidMappings": range(0, seventh, 1),
    });
    add(&bundle, mount);
    bundle.mount("/same", "tmpfs", "tmpfs", &["mode=777", "idmap"]);
    assert_eq!(sandbox.prints(&bundle, "stat -c %u:%g /mapped /same"), "7:7\n0:0");
    sandbox.assert_nothing_left();
}

#[test]
fn a_file_system_that_cannot_map_ids_is_named_with_the_cure() {
    let (sandbox, bundle) = plain();
    let mount = json!({
        "destination": "/mapped", "type": "bind", "source": "/proc", "options": ["bind"],
        "uidMappings": range(0, 1000, 10), "gidMappings": range(0, 1000, 10),
    });
    add(&bundle, mount);
    let outcome = sandbox.run(&bundle);
    if is_root() {
        outcome.complains_of(&[
            "mount on /mapped",
            "map the IDs: EINVAL",
            "cannot map IDs",
            "ext4",
        ]);
    } else {
        only_root(outcome);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn recursive_attributes_reach_the_mounts_below() {
    let (sandbox, bundle) = plain();
    let all = ["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime"];
    bundle.mount("/all", "bind", "/dev", &all);
    bundle.mount("/links", "bind", "/dev", &["rbind", "rnosymfollow", "rstrictatime"]);
    let single = ["rbind", "ro", "noexec"];
    bundle.mount("/single", "bind", "/dev", &single);
    let table = sandbox.prints(&bundle, MOUNTS);
    for at in ["/all", "/all/pts", "/all/shm"] {
        let found = options(&table, at);
        // The access time of a mount of root's is locked in a user namespace.
        let asked = ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"];
        for option in asked.iter().take(if is_root() { 6 } else { 4 }) {
            assert!(found.contains(option), "{option} at {at}: {found:?}");
        }
    }
    let found = options(&table, "/links/pts");
    let atime = found.iter().any(|option| option.ends_with("atime"));
    assert!(found.contains(&"nosymfollow") && atime != is_root(), "{found:?}");
    assert_eq!(options(&table, "/single")[0], "ro");
    assert_eq!(options(&table, "/single/shm")[0], "rw", "the mount alone");
}

/// What a user namespace gets of the host's is there to be opened, not to be run.
#[test]
fn devices_of_the_host_are_bound_without_more() {
    let (sandbox, bundle) = plain();
    if is_root() {
        in_user_namespace(&bundle);
    }
    let table = sandbox.prints(&bundle, MOUNTS);
    for device in ["/dev/null", "/dev/zero", "/dev/tty", "/dev/urandom"] {
        let found = options(&table, device);
        assert!(found.contains(&"nosuid") && found.contains(&"noexec"), "{table}");
    }
}

/// Even one that the host lacks: nobody inside could make it.
#[test]
fn a_device_in_a_user_namespace_is_what_the_config_says() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| {
        config["linux"]["devices"] = json!([{"path": "/dev/foo", "type": "b", "major": 1,
            "minor": 5, "uid": 10, "gid": 11, "fileMode": 0o157}]);
    });
    if !is_root() {
        sandbox.run(&bundle).complains_of(&["make device /dev/foo", "ENOENT"]);
        return;
    }
    in_user_namespace(&bundle);
    let seen = sandbox.prints(&bundle, "stat -c '%a %u:%g %t:%T' /dev/foo; cat /proc/mounts");
    assert!(seen.starts_with("157 10:11 1:5\n"), "{seen}");
    assert_eq!(seen.matches("devices ").count(), 1, "the place where it was made is gone: {seen}");
    sandbox.assert_nothing_left();
}

/// As with mount(8), what is not named is cleared; but not in a user namespace.
#[test]
fn a_bind_with_flags_has_only_these() {
    let (sandbox, bundle) = plain();
    let source = sandbox.directory("source");
    let path = source.to_str().unwrap();
    let seen = |flags: &[&str]| {
        bundle.edit(|config| config["mounts"].as_array_mut().unwrap().retain(|at| at["x"] != 1));
        add(&bundle, json!({"destination": "/b", "source": path, "options": flags, "x": 1}));
        let table = sandbox.prints(&bundle, MOUNTS);
        let found = options(&table, "/b").into_iter().take_while(|option| *option != "rw");
        found.map(str::to_owned).collect::<Vec<_>>().join(",")
    };
    if !is_root() {
        assert_eq!(seen(&["bind", "ro", "noexec"]), "ro,noexec,relatime");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    sys_mount("none", "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    sys_mount(path, path, MsFlags::MS_BIND);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    sys_mount(path, path, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags);
    assert_eq!(seen(&["bind"]), "ro,nosuid,nodev,noexec,noatime");
    assert_eq!(seen(&["bind", "ro", "dev"]), "ro,noatime");
    assert_eq!(seen(&["bind", "ro", "nosuid", "relatime"]), "ro,nosuid,relatime");
    in_user_namespace(&bundle);
    assert_eq!(seen(&["bind", "exec"]), "ro,nosuid,nodev,noatime");
}

fn sys_mount(source: &str, target: &str, flags: MsFlags) {
    nix::mount::mount(Some(source), target, None::<&str>, flags, None::<&str>).unwrap();
}

#[test]
fn attributes_can_be_taken_away_below() {
    let (sandbox, bundle) = plain();
    let first = sandbox.directory("first");
    fs::create_dir(first.join("sub")).unwrap();
    let flags = ["bind", "noexec", "nosymfollow", "noatime"];
    bundle.mount("/first", "bind", first.to_str().unwrap(), &flags);
    bundle.mount("/first", "none", "", &["remount", "rexec", "rsymfollow", "rrelatime", "ro"]);
    let table = sandbox.prints(&bundle, MOUNTS);
    let found = options(&table, "/first");
    assert_eq!(found[..2], ["ro", "relatime"], "{found:?}");
    assert!(!found.contains(&"noexec") && !found.contains(&"nosymfollow"), "{found:?}");
}

#[test]
fn a_new_file_system_takes_the_recursive_options_too() {
    let (sandbox, bundle) = plain();
    bundle.mount("/scratch", "tmpfs", "tmpfs", &["rro", "rnoexec"]);
    bundle.mount("/scratch/below", "tmpfs", "tmpfs", &[]);
    let seen = sandbox.prints(&bundle, &format!("touch /scratch/x 2>&1; {MOUNTS}"));
    assert!(seen.contains("Read-only file system"), "{seen}");
    assert!(options(&seen, "/scratch").contains(&"noexec"), "{seen}");
    options(&seen, "/scratch/below");
}

#[test]
fn links_on_a_mount_are_not_followed_if_asked() {
    let (sandbox, bundle) = plain();
    let shared = sandbox.directory("shared");
    fs::write(shared.join("file"), "text\n").unwrap();
    symlink("file", shared.join("link")).unwrap();
    bundle.mount("/shared", "bind", shared.to_str().unwrap(), &["bind", "nosymfollow"]);
    let script = "cat /shared/file; readlink /shared/link; cat /shared/link 2>&1; true";
    let seen = sandbox.prints(&bundle, script);
    assert!(seen.starts_with("text\nfile\n") && seen.contains("symbolic link"), "{seen}");
}

#[test]
fn what_is_mounted_can_be_changed() {
    let (sandbox, bundle) = plain();
    bundle.mount("/scratch", "tmpfs", "tmpfs", &["size=1m"]);
    bundle.mount("/scratch", "tmpfs", "tmpfs", &["remount", "size=2m", "nosuid", "ro"]);
    bundle.mount("/dev/shm", "none", "", &["rshared"]);
    let script = format!("{MOUNTS}; grep ' /dev/shm ' /proc/self/mountinfo");
    let table = sandbox.prints(&bundle, &script);
    let found = options(&table, "/scratch");
    assert!(found[0] == "ro" && found.contains(&"nosuid"), "{found:?}");
    assert!(found.contains(&"size=2048k"), "{found:?}");
    assert!(table.lines().last().unwrap().contains("shared:"), "{table}");
    let (sandbox, bundle) = plain();
    bundle.mount("/tmp", "none", "", &["remount", "ro"]);
    sandbox.run(&bundle).complains_of(&["change the mount on /tmp", "is something mounted there?"]);
}

#[test]
fn versions_of_inodes_are_counted_if_asked() {
    let (sandbox, bundle) = plain();
    bundle.mount("/scratch", "tmpfs", "tmpfs", &["iversion", "sync", "noexec", "size=64k"]);
    let table = sandbox.prints(&bundle, MOUNTS);
    let found = options(&table, "/scratch");
    for option in ["sync", "noexec", "size=64k"] {
        assert!(found.contains(&option), "{option}: {found:?}");
    }
}

#[test]
fn a_link_at_the_source_can_be_bound_itself_or_made_again() {
    let (sandbox, bundle) = plain();
    let file = sandbox.join("file");
    fs::write(&file, "text\n").unwrap();
    let link = sandbox.join("link");
    symlink("file", &link).unwrap();
    let link = link.to_str().unwrap();
    bundle.mount("/followed", "bind", link, &["bind"]);
    bundle.mount("/itself", "bind", link, &["bind", "src-nofollow"]);
    bundle.mount("/deep/down/copied", "bind", link, &["rbind", "copy-symlink"]);
    bundle.mount("/plain", "bind", file.to_str().unwrap(), &["bind", "copy-symlink"]);
    let script = "cat /followed /plain; readlink /itself; readlink /deep/down/copied; \
        grep -c ' /itself ' /proc/self/mountinfo; grep -c copied /proc/self/mountinfo";
    bundle.edit(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    assert_eq!(sandbox.run(&bundle).stdout, "text\ntext\nfile\nfile\n1\n0\n");
    let seen = sandbox.run(&bundle).stdout;
    assert_eq!(seen.lines().nth(3), Some("file"), "the same link is there already: {seen}");
    fs::remove_file(bundle.inside("/deep/down/copied")).unwrap();
    symlink("other", bundle.inside("/deep/down/copied")).unwrap();
    sandbox.run(&bundle).complains_of(&["/deep/down/copied", "something else is there"]);
}

#[test]
fn a_link_at_the_destination_can_be_covered_itself() {
    let (sandbox, bundle) = plain();
    let file = sandbox.join("file");
    fs::write(&file, "bound\n").unwrap();
    fs::write(bundle.inside("/target"), "target\n").unwrap();
    symlink("/target", bundle.inside("/link")).unwrap();
    bundle.mount("/link", "bind", file.to_str().unwrap(), &["bind", "dest-nofollow"]);
    assert_eq!(sandbox.prints(&bundle, "cat /link /target"), "bound\ntarget");
    bundle.edit(|config| {
        config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["bind"]);
    });
    assert_eq!(sandbox.prints(&bundle, "cat /link /target"), "bound\nbound");
}

#[test]
fn contradictions_about_links_are_refused() {
    let (sandbox, bundle) = plain();
    bundle.mount("/a", "bind", "/etc", &["bind", "copy-symlink", "src-nofollow"]);
    let problem = "/mounts/6/options/2: \"src-nofollow\" contradicts \"copy-symlink\"";
    sandbox.run(&bundle).complains_of(&[problem]);
}

/// As podman mounts images and `:O` volumes; a list of layers may be longer than `fsconfig` takes.
#[test]
fn a_kernel_overlay_is_mounted() {
    let (sandbox, bundle) = plain();
    let mut layers = Vec::new();
    for number in 0..12 {
        let layer = sandbox.directory(&format!("layers/{number:040}"));
        fs::write(layer.join(format!("file{number}")), format!("{number}\n")).unwrap();
        layers.push(layer.to_str().unwrap().to_owned());
    }
    let odd = sandbox.directory("layers/a:b");
    fs::write(odd.join("colon"), "colon\n").unwrap();
    layers.push(odd.to_str().unwrap().replace(':', "\\:"));
    let long = sandbox.directory(&format!("{}/{}", "u".repeat(200), "d".repeat(100)));
    let (upper, work) = (long.join("upper"), long.join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let mut options = vec![
        format!("lowerdir={}", layers.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    if !is_root() {
        options.push("userxattr".to_owned());
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    bundle.mount("/merged", "overlay", "overlay", &options);
    let script = "cd /merged; cat file0 file11 colon; echo new > file3; rm file4; stat -f -c %t .";
    assert_eq!(sandbox.prints(&bundle, script), "0\n11\ncolon\n794c7630");
    assert_eq!(fs::read_to_string(upper.join("file3")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(Path::new(&layers[3]).join("file3")).unwrap(), "3\n");
}

#[test]
fn what_the_kernel_does_not_know_is_named() {
    let (sandbox, bundle) = plain();
    bundle.mount("/a", "no-such-fs", "none", &[]);
    let parts = ["mount no-such-fs on /a", "no file system \"no-such-fs\"", "/proc/filesystems"];
    sandbox.run(&bundle).complains_of(&parts);
    let (sandbox, bundle) = plain();
    let long = format!("mpol={}", "x".repeat(300));
    bundle.mount("/a", "tmpfs", "tmpfs", &[&long]);
    let parts = ["mount tmpfs on /a", "option mpol", "300 bytes", "the kernel takes 255"];
    sandbox.run(&bundle).complains_of(&parts);
    sandbox.assert_nothing_left();
}

/// A source that the container's own root could not reach, but root of the host can.
#[test]
fn a_source_is_found_with_the_caller_s_rights() {
    let (sandbox, bundle) = plain();
    let secret = sandbox.directory("closed/inner");
    fs::write(secret.join("file"), "reached\n").unwrap();
    symlink(&secret, sandbox.join("closed/link")).unwrap();
    fs::set_permissions(sandbox.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let link = sandbox.join("closed/link");
    bundle.mount("/shared", "bind", link.to_str().unwrap(), &["rbind", "ro"]);
    if is_root() {
        in_user_namespace(&bundle);
    }
    bundle.mount("/again", "bind", link.to_str().unwrap(), &["bind", "copy-symlink"]);
    let seen = sandbox.prints(&bundle, "cat /shared/file; readlink /again");
    assert_eq!(seen, format!("reached\n{}", secret.display()));
}

/// Engines name sources by descriptor, so that nobody can exchange them.
#[test]
fn a_source_can_be_a_descriptor_of_the_caller() {
    let (sandbox, bundle) = plain();
    let shared = sandbox.directory("shared");
    fs::write(shared.join("file"), "by descriptor\n").unwrap();
    bundle.mount("/shared", "bind", "/proc/self/fd/7", &["bind"]);
    bundle.edit(|config| {
        config["process"]["args"] = json!(["sh", "-c", "cat /shared/file; ls /proc/self/fd"]);
    });
    let run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("fd")]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec 7<\"$SHARED\"; exec \"$@\"", "sh"]).env("SHARED", &shared);
    shell.arg(run.get_program()).args(run.get_args()).stdin(std::process::Stdio::null());
    let seen = crate::common::outcome::spawn(&mut shell).wait().ok().stdout;
    assert_eq!(seen, "by descriptor\n0\n1\n2\n3\n", "and it does not reach the program");
}

/// A file system on `/` is the root for all that follows.
#[test]
fn the_root_itself_can_be_covered() {
    let (sandbox, bundle) = plain();
    let other = sandbox.directory("other");
    crate::common::bundle::busybox_root(&other);
    fs::write(other.join("marker"), "other\n").unwrap();
    bundle.edit(|config| {
        let mount =
            json!({ "destination": "/", "type": "bind", "source": other, "options": ["bind"] });
        config["mounts"].as_array_mut().unwrap().insert(0, mount);
    });
    let seen = sandbox.prints(&bundle, "cat /marker; stat -f -c %T /proc; ls -d /dev/null");
    assert_eq!(seen, "other\nproc\n/dev/null");
    bundle.mount("/", "tmpfs", "tmpfs", &["tmpcopyup"]);
    sandbox.run(&bundle).complains_of(&["/mounts/7/options/0", "whole root"]);
}

/// A mount stays where it is asked for, and its siblings come along only if asked.
#[test]
fn every_kind_of_file_can_be_bound() {
    let (sandbox, bundle) = plain();
    let pipe = sandbox.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let socket = sandbox.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    bundle.mount("/new/pipe", "bind", pipe.to_str().unwrap(), &["bind", "ro"]);
    bundle.mount("/new/socket", "bind", socket.to_str().unwrap(), &["bind", "rro"]);
    bundle.mount("new//device/", "bind", "/dev/zero", &["bind"]);
    let seen = sandbox.prints(&bundle, "stat -c %F /new/pipe /new/socket /new/device");
    assert_eq!(seen, "fifo\nsocket\ncharacter special file");
}

#[test]
fn features_lists_all_of_it() {
    let sandbox = Sandbox::new();
    let features: Value = serde_json::from_str(&sandbox.rrun(&["features"]).ok().stdout).unwrap();
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    let options = features["mountOptions"].as_array().unwrap();
    for option in ["idmap", "ridmap", "copy-symlink", "dest-nofollow", "remount", "rnosymfollow"] {
        assert!(options.contains(&option.into()), "{option}");
    }
}
