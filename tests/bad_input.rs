//! Bad input: one line that names operation, object, cause and cure; and nothing has changed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::common::layers::Image;
use crate::common::outcome::Outcome;
use crate::common::{Bundle, Sandbox, is_root, outcome, rrun_binary};
use crate::userns::run_without_helpers;

/// `create` of `bundle`, which must fail naming `parts` and leave nothing.
#[track_caller]
fn create_fails(sandbox: &Sandbox, bundle: &Bundle, flags: &[&str], parts: &[&str]) {
    let id = sandbox.id("bad");
    let args = [&["create", "--bundle", bundle.as_str()], flags, &[&id]].concat();
    sandbox.rrun(&args).exits(1).complains_of(&[&["rrun: error: "], parts].concat());
    sandbox.assert_nothing_left();
    sandbox.rrun(&["state", &id]).complains_of(&["does not exist"]);
}

fn plain() -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    (sandbox, bundle)
}

#[test]
fn a_missing_config_is_named_with_its_cure() {
    let (sandbox, bundle) = plain();
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    create_fails(&sandbox, &bundle, &[], &["config.json", "not found", "rrun spec"]);
    fs::remove_dir_all(bundle.path()).unwrap();
    create_fails(&sandbox, &bundle, &[], &[bundle.as_str()]);
}

#[test]
fn a_broken_config_is_named_with_line_and_column() {
    let (sandbox, bundle) = plain();
    for (text, place) in [
        ("{\n  \"ociVersion\": oops\n}", ["line 2", "column 1"]),
        ("", ["line 1", "column 0"]),
        ("{}{", ["line 1", "column 3"]),
    ] {
        fs::write(bundle.path().join("config.json"), text).unwrap();
        create_fails(&sandbox, &bundle, &[], &[&["config.json"][..], &place].concat());
    }
}

#[test]
fn a_config_that_is_no_file_does_not_hang() {
    let (sandbox, bundle) = plain();
    let config = bundle.path().join("config.json");
    fs::remove_file(&config).unwrap();
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    create_fails(&sandbox, &bundle, &[], &["config.json"]);
}

#[test]
fn a_place_for_containers_that_others_can_change_is_refused() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let shared = sandbox.directory("shared");
    fs::set_permissions(&shared, PermissionsExt::from_mode(0o1777)).unwrap();
    let shared = shared.to_str().unwrap();
    let refused = |place: &str| {
        let id = sandbox.id("shared");
        let mut command = Command::new(rrun_binary());
        command.args(["--root", place, "run", "--bundle", bundle.as_str(), &id]);
        outcome::spawn(&mut command).wait().exits(1)
    };
    refused(shared).complains_of(&[shared, "others", "--root"]);
    if !is_root() {
        refused("/").complains_of(&["user 0", "--root"]);
    }
}

#[test]
fn an_unreadable_config_is_named() {
    let (sandbox, bundle) = plain();
    fs::set_permissions(bundle.path().join("config.json"), Permissions::from_mode(0o0)).unwrap();
    if is_root() {
        sandbox.run(&bundle).ok();
    } else {
        create_fails(&sandbox, &bundle, &[], &["config.json", "ermission denied"]);
    }
}

#[test]
fn an_invalid_value_is_named_by_its_pointer() {
    let hook =
        |path: &str, timeout: i64| json!({ "poststop": [{ "path": path, "timeout": timeout }] });
    let limit = |kind: &str, soft: u64| json!([{ "type": kind, "soft": soft, "hard": 8 }]);
    // What to put where, and the pointer in the complaint if it is another one.
    let cases = [
        ("/ociVersion", json!("9.0.0"), ""),
        ("/process/args", json!([]), ""),
        ("/process/cwd", json!("relative"), ""),
        ("/process/env", json!(["no-equals-sign"]), "/process/env/0"),
        ("/process/user/uid", json!("zero"), ""),
        ("/process/user/uid", json!(-1), ""),
        ("/process/oomScoreAdj", json!(1001), ""),
        ("/process/rlimits", limit("RLIMIT_NOFILE", 9), "/process/rlimits/0"),
        ("/process/rlimits", limit("RLIMIT_NONSENSE", 8), "/process/rlimits/0"),
        ("/root/path", json!(""), ""),
        ("/mounts", json!([{ "destination": "", "type": "tmpfs" }]), "/mounts/0/destination"),
        ("/linux/namespaces", json!([{ "type": "pid" }, { "type": "pid" }]), "/linux/namespaces/1"),
        ("/linux/namespaces", json!([{ "type": "pid", "path": "here" }]), "/linux/namespaces/0"),
        ("/linux/maskedPaths", json!(["relative"]), "/linux/maskedPaths/0"),
        ("/linux/rootfsPropagation", json!("sideways"), ""),
        ("/linux/cgroupsPath", json!("../../up"), ""),
        ("/hooks", hook("relative", 1), "/hooks/poststop/0/path"),
        ("/hooks", hook("/bin/true", 0), "/hooks/poststop/0/timeout"),
    ];
    for (place, value, pointer) in cases {
        let (sandbox, bundle) = plain();
        let (parent, key) = place.rsplit_once('/').unwrap();
        bundle.edit(|config| config.pointer_mut(parent).unwrap()[key] = value);
        create_fails(&sandbox, &bundle, &[], &[if pointer.is_empty() { place } else { pointer }]);
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| {
        config["process"]["cwd"] = "relative".into();
        config["linux"]["rootfsPropagation"] = "sideways".into();
    });
    create_fails(&sandbox, &bundle, &[], &["/process/cwd", "/linux/rootfsPropagation"]);
}

#[test]
fn a_missing_root_or_mount_source_is_named() {
    let (sandbox, bundle) = plain();
    bundle.mount("/shared", "bind", "/no/such/source", &["bind"]);
    create_fails(&sandbox, &bundle, &[], &["/no/such/source", "o such file or directory"]);
    let (sandbox, bundle) = plain();
    bundle.edit(|config| config["root"]["path"] = "elsewhere".into());
    create_fails(&sandbox, &bundle, &[], &["elsewhere", "o such file or directory"]);
}

#[test]
fn a_program_that_cannot_run_is_named() {
    let cases = [
        ("no-such-program", "executable file not found in $PATH"),
        ("/no/such/program", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
    ];
    for (program, cause) in cases {
        let (sandbox, bundle) = plain();
        bundle.edit(|config| config["process"]["args"] = json!([program]));
        create_fails(&sandbox, &bundle, &[], &[program, cause]);
    }
}

#[test]
fn a_failed_create_leaves_no_pid_file() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| config["process"]["args"] = json!(["no-such-program"]));
    let file = sandbox.join("pid");
    create_fails(&sandbox, &bundle, &["--pid-file", file.to_str().unwrap()], &["no-such-program"]);
    assert!(!file.exists());
}

/// An image with a bundle, for the layers that follow.
fn layered() -> (Sandbox, Image, Bundle) {
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    let bundle = sandbox.bundle(&["true"]);
    (sandbox, image, bundle)
}

/// `create` with `lowerdir` as given and the upper and work directories below `place`.
#[track_caller]
fn layers_fail(sandbox: &Sandbox, bundle: &Bundle, lowerdir: &str, upper: &Path, parts: &[&str]) {
    let work = sandbox.directory("work");
    let flags = [
        "--lowerdir",
        lowerdir,
        "--upperdir",
        upper.to_str().unwrap(),
        "--workdir",
        work.to_str().unwrap(),
    ];
    create_fails(sandbox, bundle, &flags, parts);
}

#[test]
fn a_missing_layer_is_named() {
    let (sandbox, image, bundle) = layered();
    let missing = image.layer("missing").display().to_string();
    let lowerdir = format!("{missing}:{}", image.lowerdir());
    create_fails(&sandbox, &bundle, &["--lowerdir", &lowerdir], &[&missing]);
    let mut find = Command::new("find");
    find.arg(sandbox.path()).args(["-name", &sandbox.id("bad")]);
    assert_eq!(outcome::spawn(&mut find).wait().ok().stdout, "", "no writable layer is left");
}

#[test]
fn a_layer_that_cannot_be_read_is_named() {
    let (sandbox, image, bundle) = layered();
    image.write("base/file", "text\n");
    // Root reads everything, but no layer in what is not a directory.
    let file = image.layer("base/file").display().to_string();
    let (layer, cause) =
        if is_root() { (file.as_str(), "not a directory") } else { ("/root", "ermission denied") };
    let lowerdir = format!("{layer}:{}", image.lowerdir());
    create_fails(&sandbox, &bundle, &["--lowerdir", &lowerdir], &[layer, cause]);
}

#[test]
fn a_directory_is_not_lower_and_upper_at_once() {
    let (sandbox, image, bundle) = layered();
    let top = image.layer("top");
    let name = top.display().to_string();
    let before = image.fingerprint();
    layers_fail(&sandbox, &bundle, &image.lowerdir(), &top, &[&name]);
    layers_fail(&sandbox, &bundle, &image.lowerdir(), &top.join("manual"), &[&name]);
    assert_eq!(image.fingerprint(), before);
}

#[test]
fn an_upper_in_use_is_refused() {
    let (sandbox, image, bundle) = layered();
    bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let (upper, work) = (sandbox.directory("upper"), sandbox.directory("work"));
    let flags = [
        "--lowerdir",
        &image.lowerdir(),
        "--upperdir",
        upper.to_str().unwrap(),
        "--workdir",
        work.to_str().unwrap(),
    ];
    let (first, second) = (sandbox.id("first"), sandbox.id("second"));
    sandbox.rrun(&[&["create", "--bundle", bundle.as_str()], &flags[..], &[&first]].concat()).ok();
    let again =
        sandbox.rrun(&[&["create", "--bundle", bundle.as_str()], &flags[..], &[&second]].concat());
    again.exits(1).complains_of(&[upper.to_str().unwrap(), "use"]);
    sandbox.rrun(&["delete", "--force", &first]).ok();
    sandbox.rrun(&[&["create", "--bundle", bundle.as_str()], &flags[..], &[&second]].concat()).ok();
    sandbox.rrun(&["delete", "--force", &second]).ok();
    sandbox.assert_nothing_left();
}

#[test]
fn an_upper_needs_a_workdir() {
    let (sandbox, image, bundle) = layered();
    let upper = sandbox.directory("upper");
    let flags = ["--lowerdir", &image.lowerdir(), "--upperdir", upper.to_str().unwrap()];
    create_fails(&sandbox, &bundle, &flags, &["workdir"]);
}

/// Runs `script` where the caller may mount: `$RRUN` is the command with its flags, `$BUNDLE`,
/// `$LAYERS`, `$ID` and `$PLACE` are what they say.
fn where_mounting_is_allowed(
    sandbox: &Sandbox,
    image: &Image,
    bundle: &Bundle,
    script: &str,
) -> Outcome {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    let rrun = format!("{} --root {}", rrun_binary().display(), sandbox.root().display());
    command.args(["sh", "-euc", script]).env("RRUN", rrun).env("RRUN_DATA", sandbox.data());
    command.env("BUNDLE", bundle.path()).env("LAYERS", image.lowerdir());
    command.env("ID", sandbox.id("bad")).env("PLACE", sandbox.directory("place"));
    outcome::spawn(&mut command).wait()
}

#[test]
fn an_upper_without_user_attributes_is_refused() {
    let (sandbox, image, bundle) = layered();
    let script = "mount -t ramfs ramfs $PLACE; mkdir $PLACE/upper $PLACE/work; \
        $RRUN create --bundle $BUNDLE --lowerdir $LAYERS --upperdir $PLACE/upper --workdir $PLACE/work $ID";
    let outcome = where_mounting_is_allowed(&sandbox, &image, &bundle, script);
    outcome.complains_of(&[sandbox.join("place/upper").to_str().unwrap(), "extended attributes"]);
    sandbox.assert_nothing_left();
}

/// A `/dev` of the few devices that a container wants, and no `/dev/fuse`.
const POOR_DEV: &str = "mount -t tmpfs tmpfs $PLACE; \
    for d in null zero full random urandom tty; do touch $PLACE/$d; mount --bind /dev/$d $PLACE/$d; done; \
    mkdir $PLACE/pts $PLACE/shm; mount --rbind /dev/pts $PLACE/pts; mount --rbind $PLACE /dev; ";

#[test]
fn a_missing_fuse_device_is_named_with_its_cure() {
    let (sandbox, image, bundle) = layered();
    let script = format!("{POOR_DEV} $RRUN create --bundle $BUNDLE --lowerdir $LAYERS $ID");
    let outcome = where_mounting_is_allowed(&sandbox, &image, &bundle, &script);
    outcome.complains_of(&["/dev/fuse", "modprobe fuse"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_plain_root_needs_no_fuse_device() {
    let (sandbox, image, bundle) = layered();
    let script = format!("{POOR_DEV} $RRUN run --bundle $BUNDLE $ID");
    where_mounting_is_allowed(&sandbox, &image, &bundle, &script).ok();
    sandbox.assert_nothing_left();
}

/// /dev/fuse is replaced by a file of root's that the ordinary user may not open; root meets
/// there a device that is another one.
#[test]
fn a_fuse_device_without_permission_is_named_with_its_cure() {
    let (sandbox, image, bundle) = layered();
    let instead = if is_root() { "/dev/null" } else { "/etc/shadow" };
    let script = format!(
        "mount --bind {instead} /dev/fuse; $RRUN create --bundle $BUNDLE --lowerdir $LAYERS $ID"
    );
    let outcome = where_mounting_is_allowed(&sandbox, &image, &bundle, &script);
    let cause: &[&str] =
        if is_root() { &["/dev/fuse"] } else { &["/dev/fuse", "ermission denied", "chmod"] };
    outcome.complains_of(cause);
    sandbox.assert_nothing_left();
}

/// Ids that the caller has not got. Root has all.
#[test]
fn ids_that_are_not_ours_are_refused_with_the_cure() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        let mapping = json!([{ "containerID": 0, "hostID": 3_000_000_000_u32, "size": 10 }]);
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
    });
    if is_root() {
        // Root may map them, but the image is not theirs: that is another complaint or none.
        let _either = sandbox.run(&bundle);
        sandbox.assert_nothing_left();
    } else {
        create_fails(&sandbox, &bundle, &[], &["/etc/subuid"]);
    }
}

/// newuidmap is needed for more than one id, if that was asked for by name.
#[test]
fn a_missing_newuidmap_is_named_with_its_cure() {
    let (sandbox, bundle) = plain();
    let own = nix::unistd::geteuid().as_raw();
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        let mapping = json!([
            { "containerID": 0, "hostID": own, "size": 1 },
            { "containerID": 1, "hostID": 100_000, "size": 10 },
        ]);
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
    });
    let outcome = run_without_helpers(&sandbox, &bundle);
    if is_root() {
        outcome.ok();
    } else {
        outcome.complains_of(&["newuidmap", "uidmap"]);
    }
    sandbox.assert_nothing_left();
}

/// User namespaces can be switched off, here for all below one of our own.
#[test]
fn switched_off_user_namespaces_are_named_with_their_cure() {
    let (sandbox, image, bundle) = layered();
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        let mapping = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
    });
    let script = "unshare --user --map-root-user sh -euc \
        'echo 0 > /proc/sys/user/max_user_namespaces; exec $RRUN create --bundle $BUNDLE $ID'";
    let outcome = where_mounting_is_allowed(&sandbox, &image, &bundle, script);
    outcome.complains_of(&["user.max_user_namespaces"]);
    sandbox.assert_nothing_left();
}

/// The runtime directory lies on a disk that is full: nothing is created, and nothing is left
/// when there is room again.
#[test]
fn a_full_disk_while_creating_leaves_nothing() {
    let (sandbox, image, bundle) = layered();
    let script = "mount -t tmpfs -o size=16k tmpfs $PLACE; mkdir $PLACE/run; \
        head -c 100000 /dev/zero > $PLACE/fill 2>/dev/null || true; \
        ${RRUN%% *} --root $PLACE/run create --bundle $BUNDLE $ID && exit 99; \
        rm $PLACE/fill; test -z \"$(ls -A $PLACE/run)\" || { ls -lA $PLACE/run >&2; exit 98; }; exit 1";
    let outcome = where_mounting_is_allowed(&sandbox, &image, &bundle, script);
    outcome.exits(1).complains_of(&["No space left on device"]);
    sandbox.assert_nothing_left();
}

#[test]
fn arguments_that_contradict_each_other_are_refused() {
    let (sandbox, image, bundle) = layered();
    let (upper, work) = (sandbox.directory("upper"), sandbox.directory("work"));
    let alone = ["--upperdir", upper.to_str().unwrap(), "--workdir", work.to_str().unwrap()];
    create_fails(&sandbox, &bundle, &alone, &["lowerdir"]);
    create_fails(&sandbox, &bundle, &["--lowerdir", ""], &["lowerdir"]);
    let both = format!("{}:", image.lowerdir());
    create_fails(&sandbox, &bundle, &["--lowerdir", &both], &["lowerdir"]);
}
