//! Mounts that come and go while a container runs: `rrun mounts add` and `rrun mounts remove`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{Bundle, Outcome, Sandbox, is_root, leftovers};

fn running() -> (Sandbox, Bundle, String) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let id = sandbox.start(&bundle, "live");
    (sandbox, bundle, id)
}

/// A file that holds `mounts`.
fn list(sandbox: &Sandbox, mounts: &Value) -> PathBuf {
    let file = sandbox.join("mounts.json");
    fs::write(&file, mounts.to_string()).unwrap();
    file
}

fn change(sandbox: &Sandbox, action: &str, id: &str, mounts: &Value) -> Outcome {
    sandbox.rrun(&["mounts", action, id, list(sandbox, mounts).to_str().unwrap()])
}

fn seen(sandbox: &Sandbox, id: &str, script: &str) -> String {
    sandbox.rrun(&["exec", id, "sh", "-c", script]).ok().line().to_owned()
}

const TABLE: &str = "cut -d' ' -f5,6 /proc/self/mountinfo | grep /new; true";

#[test]
fn mounts_are_added_and_removed() {
    let (sandbox, _bundle, id) = running();
    let shared = sandbox.directory("shared");
    fs::write(shared.join("file"), "host\n").unwrap();
    let mounts = json!([
        { "destination": "/new/dir", "type": "bind", "source": shared, "options": ["bind", "ro", "noexec"] },
        { "destination": "/new/file", "type": "bind", "source": shared.join("file"), "options": ["bind"] },
        { "destination": "/new/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=700"] },
        { "destination": "/new/scratch/proc", "type": "proc", "source": "proc" },
    ]);
    change(&sandbox, "add", &id, &mounts).ok();
    let script = "cat /new/dir/file /new/file; stat -c %a /new/scratch; touch /new/dir/x 2>&1; \
        cat /new/scratch/proc/1/cmdline | tr '\\0' ' '; ls /proc/1/fd";
    let expected = "host\nhost\n700\ntouch: /new/dir/x: Read-only file system\nsleep 1000 0\n1\n2";
    assert_eq!(seen(&sandbox, &id, script), expected);
    assert_eq!(seen(&sandbox, &id, TABLE).lines().count(), 4);
    assert!(seen(&sandbox, &id, TABLE).contains("/new/dir ro,noexec"));
    assert_eq!(leftovers::mounts(sandbox.path()), [""; 0], "the host sees none of them");
    change(&sandbox, "remove", &id, &mounts).ok();
    assert_eq!(seen(&sandbox, &id, TABLE), "");
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn either_all_are_added_or_none() {
    let (sandbox, _bundle, id) = running();
    let mounts = json!([
        { "destination": "/new/a", "type": "tmpfs", "source": "tmpfs" },
        { "destination": "/new/a/b", "type": "tmpfs", "source": "tmpfs" },
        { "destination": "/proc/self", "type": "tmpfs", "source": "tmpfs" },
    ]);
    let parts = ["mounts add", "mount tmpfs on /proc/self", "inside a procfs"];
    change(&sandbox, "add", &id, &mounts).complains_of(&parts);
    assert_eq!(seen(&sandbox, &id, TABLE), "");
    sandbox.remove(&id);
}

#[test]
fn ids_can_be_mapped_in_a_container_that_runs() {
    let (sandbox, _bundle, id) = running();
    let shared = sandbox.directory("shared");
    fs::write(shared.join("file"), "").unwrap();
    let range = json!([{ "containerID": 0, "hostID": 5, "size": 1 }]);
    let mounts = json!([{ "destination": "/new/m", "type": "bind", "source": shared,
        "options": ["bind"], "uidMappings": range, "gidMappings": range }]);
    let outcome = change(&sandbox, "add", &id, &mounts);
    if is_root() {
        outcome.ok();
        assert_eq!(seen(&sandbox, &id, "stat -c %u:%g /new/m/file"), "5:5");
    } else {
        outcome.complains_of(&["/0", "run as root"]);
    }
    sandbox.remove(&id);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (sandbox, _bundle, id) = running();
    for (mounts, parts) in [
        (json!({}), &["invalid type: map"][..]),
        (json!([{ "destination": "/a", "type": "bind" }]), &["/0/source: is missing"]),
        (json!([{ "destination": "/", "type": "tmpfs" }]), &["/0/destination", "stays as it is"]),
        (json!([{ "destination": "/a", "type": "cgroup" }]), &["/0", "only when a container"]),
        (
            json!([{ "destination": "/a", "type": "bind", "source": "/no/where" }]),
            &["/a", "open /no/where", "ENOENT"],
        ),
    ] {
        change(&sandbox, "add", &id, &mounts).complains_of(parts);
    }
    let nothing = json!([{ "destination": "/etc" }]);
    let parts = ["remove /etc", "nothing is mounted there"];
    change(&sandbox, "remove", &id, &nothing).complains_of(&parts);
    sandbox.rrun(&["mounts", "twist", &id, "/dev/null"]).complains_of(&["twist", "add, remove"]);
    sandbox.remove(&id);
    let tmpfs = json!([{ "destination": "/a", "type": "tmpfs" }]);
    change(&sandbox, "add", &id, &tmpfs).complains_of(&["does not exist"]);
}

/// What runs inside may have put links everywhere: what is added stays in the container, and no
/// source is ever looked up there.
#[test]
fn what_runs_cannot_turn_a_mount_elsewhere() {
    let (sandbox, bundle, id) = running();
    let outside = sandbox.directory("outside");
    let shared = sandbox.directory("shared");
    fs::write(shared.join("file"), "the host's\n").unwrap();
    let decoy = bundle.inside(shared.to_str().unwrap());
    fs::create_dir_all(&decoy).unwrap();
    fs::write(decoy.join("file"), "the image's\n").unwrap();
    symlink(&outside, bundle.inside("/link")).unwrap();
    symlink("/proc/self/attr", bundle.inside("/attr")).unwrap();
    let bind = |at: &str| json!([{ "destination": at, "type": "bind", "source": shared, "options": ["bind"] }]);
    change(&sandbox, "add", &id, &bind("/link/made")).ok();
    assert_eq!(leftovers::entries(&outside), [""; 0]);
    assert_eq!(seen(&sandbox, &id, "cat /link/made/file"), "the host's");
    change(&sandbox, "add", &id, &bind("/attr")).complains_of(&["/attr", "inside a procfs"]);
    change(&sandbox, "add", &id, &bind("/proc")).complains_of(&["only a procfs"]);
    sandbox.remove(&id);
}
