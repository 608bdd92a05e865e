//! The layered root: read-only layers, one writable layer for each container.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::common::layers::Image;
use crate::common::{Bundle, Outcome, PATIENCE, Sandbox, is_root, leftovers, outcome, rrun_binary};

/// An image and a bundle that sleeps and has no root of its own.
fn layered() -> (Sandbox, Image, Bundle) {
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    fs::remove_dir_all(bundle.rootfs()).unwrap();
    fs::create_dir(bundle.rootfs()).unwrap();
    (sandbox, image, bundle)
}

#[track_caller]
fn start(sandbox: &Sandbox, image: &Image, bundle: &Bundle, name: &str) -> String {
    let id = sandbox.id(name);
    sandbox
        .rrun(&["create", "--bundle", bundle.as_str(), "--lowerdir", &image.lowerdir(), &id])
        .ok();
    sandbox.rrun(&["start", &id]).ok();
    id
}

#[track_caller]
fn inside(sandbox: &Sandbox, id: &str, script: &str) -> String {
    sandbox.rrun(&["exec", id, "sh", "-c", script]).ok().line().to_owned()
}

#[test]
fn the_layers_are_one_tree() {
    let (sandbox, image, bundle) = layered();
    let id = start(&sandbox, &image, &bundle, "merged");
    let seen =
        inside(&sandbox, &id, "cat /shop/prices; ls /shop /manual; id -u; stat -c %u /shop/prices");
    assert_eq!(seen, "apples 3\n/manual:\nnew\n\n/shop:\nprices\n0\n0");
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn changes_outlive_kill_and_delete() {
    let (sandbox, image, bundle) = layered();
    let before = image.fingerprint();
    let id = start(&sandbox, &image, &bundle, "kept");
    let changes = "echo pears >> /shop/prices; echo mine > /shop/mine; rm /manual/new; mkdir -p /deep/er; mv /etc/group /deep/er/; chmod 600 /etc/passwd; ln /shop/mine /shop/also";
    inside(&sandbox, &id, changes);
    let look = "cat /shop/prices /shop/mine; ls /manual; ls /etc /deep/er; stat -c '%a %h' /etc/passwd /shop/also";
    let seen = inside(&sandbox, &id, look);
    assert_eq!(seen, "apples 3\npears\nmine\n/deep/er:\ngroup\n\n/etc:\npasswd\n600 1\n644 2");
    for _ in 0..2 {
        sandbox.remove(&id);
        sandbox.assert_nothing_left();
        start(&sandbox, &image, &bundle, "kept");
        assert_eq!(inside(&sandbox, &id, look), seen);
    }
    sandbox.rrun(&["delete", "--force", &id]).ok();
    assert_eq!(image.fingerprint(), before, "no layer was written");
}

#[test]
fn two_containers_of_one_image_do_not_see_each_other() {
    let (sandbox, image, bundle) = layered();
    let red = start(&sandbox, &image, &bundle, "red");
    let blue = start(&sandbox, &image, &bundle, "blue");
    inside(&sandbox, &red, "echo red > /shop/prices; rm -r /manual; echo > /red");
    assert_eq!(
        inside(&sandbox, &blue, "cat /shop/prices; ls /manual; test ! -e /red"),
        "apples 3\nnew"
    );
    inside(&sandbox, &blue, "echo blue > /shop/prices");
    assert_eq!(inside(&sandbox, &red, "cat /shop/prices"), "red");
    sandbox.remove(&red);
    assert_eq!(inside(&sandbox, &blue, "cat /shop/prices"), "blue");
    sandbox.remove(&blue);
    sandbox.assert_nothing_left();
}

#[test]
fn purge_removes_the_writable_layer() {
    let (sandbox, image, bundle) = layered();
    let id = start(&sandbox, &image, &bundle, "purged");
    // A directory that the caller itself may not search, of a user that is not the caller.
    inside(&sandbox, &id, "mkdir -p /mine/deep; echo x > /mine/deep/er; chmod 0 /mine");
    sandbox.rrun(&["kill", &id, "KILL"]).ok();
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["delete", "--purge", &id]).ok();
    let kept = Command::new("find").arg(sandbox.data()).args(["-name", &id]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
    start(&sandbox, &image, &bundle, "purged");
    assert_eq!(inside(&sandbox, &id, "test ! -e /mine && echo gone"), "gone");
    sandbox.rrun(&["delete", "--force", "--purge", &id]).ok();
    sandbox.assert_nothing_left();
}

#[test]
fn purge_works_after_delete() {
    let (sandbox, image, bundle) = layered();
    let id = start(&sandbox, &image, &bundle, "later");
    inside(&sandbox, &id, "echo x > /new");
    sandbox.remove(&id);
    sandbox.rrun(&["delete", "--force", "--purge", &id]).ok();
    start(&sandbox, &image, &bundle, "later");
    assert_eq!(inside(&sandbox, &id, "test ! -e /new && echo gone"), "gone");
    sandbox.rrun(&["delete", "--force", "--purge", &id]).ok();
}

#[test]
fn the_writable_layer_can_be_named() {
    let (sandbox, image, bundle) = layered();
    let (upper, work) = (sandbox.directory("upper"), sandbox.directory("work"));
    let id = sandbox.id("named");
    bundle.edit(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo mine > /new; rm /shop/prices"]);
    });
    let args = [
        "run",
        "--bundle",
        bundle.as_str(),
        "--lowerdir",
        &image.lowerdir(),
        "--upperdir",
        upper.to_str().unwrap(),
        "--workdir",
        work.to_str().unwrap(),
        &id,
    ];
    sandbox.rrun(&args).ok();
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "mine\n");
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let whiteout = fs::symlink_metadata(upper.join("shop/prices")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0, "{whiteout:?}");
    sandbox.assert_nothing_left();
}

#[test]
fn annotations_say_the_same() {
    let (sandbox, image, bundle) = layered();
    for layer in ["base", "middle", "top"] {
        fs::rename(image.layer(layer), bundle.path().join(layer)).unwrap();
    }
    fs::create_dir_all(bundle.path().join("upper")).unwrap();
    fs::create_dir_all(bundle.path().join("work")).unwrap();
    bundle.edit(|config| {
        config["annotations"] = json!({
            "dev.rrun.lowerdir": "top:middle:base", "dev.rrun.upperdir": "upper", "dev.rrun.workdir": "work",
        });
    });
    assert_eq!(sandbox.prints(&bundle, "cat /shop/prices; echo mine > /new"), "apples 3");
    assert_eq!(fs::read_to_string(bundle.path().join("upper/new")).unwrap(), "mine\n");
}

#[test]
fn a_read_only_root_writes_nothing() {
    let (sandbox, image, bundle) = layered();
    bundle.edit(|config| {
        config["root"]["readonly"] = true.into();
        config["process"]["args"] = json!(["sh", "-c", "touch /new 2>&1; cat /shop/prices"]);
    });
    let outcome = sandbox
        .rrun(&[
            "run",
            "--bundle",
            bundle.as_str(),
            "--lowerdir",
            &image.lowerdir(),
            &sandbox.id("ro"),
        ])
        .ok();
    assert!(
        outcome.stdout.contains("Read-only file system") && outcome.stdout.ends_with("apples 3\n"),
        "{outcome}"
    );
}

#[test]
fn the_server_is_seen_from_neither_side() {
    let (sandbox, image, bundle) = layered();
    let id = start(&sandbox, &image, &bundle, "unseen");
    assert_eq!(leftovers::mounts(sandbox.path()), [""; 0], "the host has no mount");
    // sleep and the shell, which looks for the names before it starts ls.
    assert_eq!(inside(&sandbox, &id, "ls -d /proc/[0-9]*"), "/proc/1\n/proc/2");
    assert_eq!(inside(&sandbox, &id, "ls /proc/1/fd"), "0\n1\n2");
    assert_eq!(inside(&sandbox, &id, "cat /proc/1/cmdline"), "sleep\x001000\0");
    sandbox.remove(&id);
    assert_eq!(leftovers::living_children(), [""; 0], "the server is gone with the container");
}

#[test]
fn a_container_whose_server_died_can_be_deleted() {
    let (sandbox, image, bundle) = layered();
    let id = start(&sandbox, &image, &bundle, "orphan");
    let init = sandbox.state(&id)["pid"].to_string();
    let children = leftovers::living_children();
    let servers: Vec<_> =
        children.iter().filter(|child| child.split(' ').next() != Some(&init)).collect();
    assert_eq!(servers.len(), 1, "one server: {children:?}");
    let server = servers[0].split(' ').next().unwrap().parse().unwrap();
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    sandbox.rrun(&["delete", "--force", &id]).ok();
    sandbox.assert_nothing_left();
    start(&sandbox, &image, &bundle, "orphan");
    assert_eq!(inside(&sandbox, &id, "cat /shop/prices"), "apples 3");
    sandbox.remove(&id);
}

#[test]
fn many_layers_are_one_tree() {
    let (sandbox, image, bundle) = layered();
    let mut layers = Vec::new();
    for number in 0..100 {
        image.write(&format!("layer{number}/many/{number}"), &format!("{number}\n"));
        image.write(&format!("layer{number}/many/same"), &format!("{number}\n"));
        layers.insert(0, image.layer(&format!("layer{number}")).display().to_string());
    }
    layers.push(image.lowerdir());
    let id = sandbox.id("many");
    bundle.edit(|config| {
        config["process"]["args"] = json!(["sh", "-c", "ls /many | wc -l; cat /many/same /many/0"]);
    });
    let outcome = sandbox
        .rrun(&["run", "--bundle", bundle.as_str(), "--lowerdir", &layers.join(":"), &id])
        .ok();
    assert_eq!(outcome.stdout, "101\n99\n0\n");
}

#[test]
fn a_colon_in_a_layer_s_path_is_escaped() {
    let (sandbox, image, bundle) = layered();
    image.write("with:colon\\and backslash/file", "found\n");
    let lowerdir =
        format!("{}/with\\:colon\\\\and backslash:{}", image.path.display(), image.lowerdir());
    bundle.edit(|config| config["process"]["args"] = json!(["cat", "/file"]));
    let outcome = sandbox
        .rrun(&["run", "--bundle", bundle.as_str(), "--lowerdir", &lowerdir, &sandbox.id("colon")])
        .ok();
    assert_eq!(outcome.stdout, "found\n");
}

#[test]
fn many_containers_write_at_once() {
    let (sandbox, image, bundle) = layered();
    let before = image.fingerprint();
    let ids: Vec<_> = (0..8)
        .map(|number| start(&sandbox, &image, &bundle, &format!("at-once{number}")))
        .collect();
    let script = "for n in $(seq 100); do echo $n > /shop/$n; mv /shop/$n /manual/$n; done; ls /manual | wc -l";
    let running: Vec<_> =
        ids.iter().map(|id| sandbox.spawn(&["exec", id, "sh", "-c", script])).collect();
    for exec in running {
        assert_eq!(exec.wait().ok().line(), "101");
    }
    for id in &ids {
        sandbox.remove(id);
    }
    assert_eq!(image.fingerprint(), before);
    sandbox.assert_nothing_left();
}

/// `rrun overlay` in namespaces where the caller may mount, then `script` with `$AT` the mount.
fn by_hand(sandbox: &Sandbox, flags: &str, options: &str, script: &str) -> Outcome {
    let mount = sandbox.directory("mount");
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    let background = if flags.contains("-f") { "&" } else { "" };
    let wait = "n=0; until grep -q \" $AT fuse\" /proc/self/mounts; do sleep 0.01; n=$((n+1)); [ $n -lt 1000 ] || exit 99; done";
    let all = format!(
        "set -e; \"$RRUN\" overlay {flags} -o \"$OPTIONS\" \"$AT\" {background}\n{wait}\n{script}\numount \"$AT\"; wait"
    );
    command
        .args(["sh", "-c", &all])
        .env("RRUN", rrun_binary())
        .env("AT", mount)
        .env("OPTIONS", options);
    outcome::spawn(&mut command).wait()
}

#[test]
fn overlay_mounts_by_hand() {
    for flags in ["", "-f"] {
        let (sandbox, image, _bundle) = layered();
        let (upper, work) = (sandbox.directory("upper"), sandbox.directory("work"));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            image.lowerdir(),
            upper.display(),
            work.display()
        );
        let script = "cat $AT/shop/prices; ls $AT/manual; echo mine > $AT/new; rm $AT/shop/prices";
        let outcome = by_hand(&sandbox, flags, &options, script).ok();
        assert_eq!(outcome.stdout, "apples 3\nnew\n");
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "mine\n");
        let deadline = std::time::Instant::now() + PATIENCE;
        while !leftovers::living_children().is_empty() {
            assert!(std::time::Instant::now() < deadline, "the server ends after umount");
        }
    }
}

#[test]
fn overlay_without_an_upper_is_read_only() {
    let (sandbox, image, _bundle) = layered();
    let script = "cat $AT/shop/prices; touch $AT/new 2>&1 || true";
    let outcome = by_hand(&sandbox, "", &format!("lowerdir={}", image.lowerdir()), script).ok();
    assert!(
        outcome.stdout.starts_with("apples 3\n")
            && outcome.stdout.contains("Read-only file system"),
        "{outcome}"
    );
}

#[test]
fn overlay_refuses_options_it_does_not_know() {
    let (sandbox, image, _bundle) = layered();
    let options = format!("lowerdir={},frobnicate=1", image.lowerdir());
    by_hand(&sandbox, "", &options, "true").complains_of(&["frobnicate"]);
}
