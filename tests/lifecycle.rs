//! What may happen to a container, in which order, and what is on disk meanwhile.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Bundle, Sandbox, eventually, is_root, leftovers, outcome};

/// A program that says `ready`, and ends with 7 when told to terminate.
const POLITE: &str = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done";

#[test]
fn a_container_is_created_then_running_then_stopped_then_gone() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let id = sandbox.id("life");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    assert_eq!(sandbox.state(&id)["status"], "created");
    sandbox.rrun(&["start", &id]).ok();
    assert_eq!(sandbox.state(&id)["status"], "running");
    sandbox.rrun(&["kill", &id, "KILL"]).ok();
    sandbox.wait_until_stopped(&id);
    assert_eq!(sandbox.state(&id)["pid"], 0);
    sandbox.rrun(&["delete", &id]).ok();
    sandbox.rrun(&["state", &id]).complains_of(&["does not exist"]);
    sandbox.assert_nothing_left();
}

#[test]
fn state_has_what_engines_read() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    bundle.edit(|config| config["annotations"] = json!({ "org.example.colour": "red" }));
    let id = sandbox.start(&bundle, "fields");
    let state = sandbox.state(&id);
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
    assert_eq!(state["id"], id.as_str());
    assert_eq!(state["bundle"], bundle.as_str());
    assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
    assert_eq!(state["annotations"]["org.example.colour"], "red");
    assert!(state["owner"].is_string(), "{state}");
    let created = state["created"].as_str().unwrap();
    assert!(created.contains('T') && created.ends_with('Z') && created.contains('.'), "{created}");
    let pid = state["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sleep\n");
    sandbox.remove(&id);
}

#[test]
fn nothing_of_the_program_runs_before_start() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", "echo started > /trace"]);
    let id = sandbox.id("waits");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!bundle.inside("/trace").exists());
    sandbox.rrun(&["start", &id]).ok();
    sandbox.wait_until_stopped(&id);
    assert_eq!(bundle.read("/trace"), "started\n");
    sandbox.rrun(&["delete", &id]).ok();
}

#[test]
fn the_pid_file_is_there_when_create_returns() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let (id, file) = (sandbox.id("pid"), sandbox.join("pid"));
    sandbox
        .rrun(&["create", "--bundle", bundle.as_str(), "--pid-file", file.to_str().unwrap(), &id])
        .ok();
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text, sandbox.state(&id)["pid"].to_string(), "decimal digits and nothing else");
    sandbox.rrun(&["delete", "--force", &id]).ok();
}

#[test]
fn the_bundle_is_the_working_directory_unless_named() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let mut command = sandbox.command(&["run", &sandbox.id("here")]);
    outcome::spawn(command.current_dir(bundle.path())).wait().ok();
    sandbox.assert_nothing_left();
}

#[test]
fn signals_have_names_and_numbers() {
    for signal in ["TERM", "SIGTERM", "15", "term"] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["sh", "-c", POLITE]);
        let id = sandbox.id("signal");
        let created = sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
        sandbox.rrun(&["start", &id]).ok();
        eventually("the program is ready", || created.stdout_now() == "ready\n");
        sandbox.rrun(&["kill", &id, "no-such-signal"]).exits(1).complains_of(&["no-such-signal"]);
        sandbox.rrun(&["kill", &id, signal]).ok();
        sandbox.wait_until_stopped(&id);
        sandbox.rrun(&["delete", &id]).ok();
    }
}

#[test]
fn kill_means_terminate_unless_told() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", POLITE]);
    let id = sandbox.id("term");
    let created = sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    sandbox.rrun(&["start", &id]).ok();
    eventually("the program is ready", || created.stdout_now() == "ready\n");
    sandbox.rrun(&["kill", &id]).ok();
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["delete", &id]).ok();
}

/// The first process of a process namespace gets only signals that it handles, also before it has become
/// a program.
#[test]
fn what_waits_for_its_start_ends_by_a_signal() {
    for signal in ["TERM", "INT", "HUP"] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["true"]);
        let id = sandbox.id("waits");
        sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
        sandbox.rrun(&["kill", &id, signal]).ok();
        sandbox.wait_until_stopped(&id);
        sandbox.rrun(&["start", &id]).exits(1);
        sandbox.rrun(&["delete", &id]).ok();
        sandbox.assert_nothing_left();
    }
}

#[test]
fn the_stopped_cannot_be_killed_or_started() {
    let sandbox = Sandbox::new();
    let id = sandbox.start(&sandbox.bundle(&["true"]), "stopped");
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["kill", &id, "KILL"]).exits(1).complains_of(&["container not running"]);
    sandbox.rrun(&["kill", "--all", &id, "KILL"]).ok();
    sandbox.rrun(&["start", &id]).exits(1).complains_of(&[&id]);
    sandbox.rrun(&["exec", &id, "true"]).complains_of(&[&id]);
    sandbox.rrun(&["delete", &id]).ok();
}

#[test]
fn the_running_is_neither_deleted_nor_started_again() {
    let sandbox = Sandbox::new();
    let id = sandbox.start(&sandbox.bundle(&["sleep", "1000"]), "running");
    sandbox.rrun(&["delete", &id]).exits(1).complains_of(&[&id]);
    sandbox.rrun(&["start", &id]).exits(1).complains_of(&[&id]);
    assert_eq!(sandbox.state(&id)["status"], "running");
    sandbox.rrun(&["delete", "--force", &id]).ok();
    sandbox.assert_nothing_left();
}

#[test]
fn the_created_may_be_deleted() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let id = sandbox.id("created");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    sandbox.rrun(&["delete", &id]).ok();
    sandbox.assert_nothing_left();
}

#[test]
fn an_id_is_taken_until_deleted() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let id = sandbox.start(&bundle, "taken");
    let before = sandbox.state(&id);
    sandbox
        .rrun(&["create", "--bundle", bundle.as_str(), &id])
        .exits(1)
        .complains_of(&[&id, "exists"]);
    assert_eq!(sandbox.state(&id), before);
    sandbox.remove(&id);
    let id = sandbox.start(&bundle, "taken");
    sandbox.remove(&id);
}

#[test]
fn an_id_is_one_safe_name() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let long = "a".repeat(1025);
    for id in ["", ".", "..", "../up", "a/b", "a b", "a\nb", "a:b", "ü", &long] {
        for verb in [&["create", "--bundle", bundle.as_str(), id][..], &["state", id]] {
            let outcome = sandbox.rrun(verb);
            assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        }
    }
    sandbox.assert_nothing_left();
}

#[test]
fn a_program_killed_from_outside_has_stopped() {
    let sandbox = Sandbox::new();
    let id = sandbox.start(&sandbox.bundle(&["sleep", "1000"]), "outside");
    let pid = Pid::from_raw(sandbox.state(&id)["pid"].as_i64().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    // Nobody has reaped it: a zombie has stopped too.
    eventually("it has stopped", || sandbox.state(&id)["status"] == "stopped");
    sandbox.rrun(&["delete", &id]).ok();
    sandbox.assert_nothing_left();
}

#[test]
fn everything_in_the_container_ends_with_it() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", "sleep 1000 & setsid sleep 1000 & sleep 1000"]);
    let id = sandbox.start(&bundle, "all");
    eventually("three sleep", || {
        sandbox.rrun(&["ps", "-f", "json", &id]).ok().stdout.split(',').count() == 3
    });
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

/// A program that counts in a file of its root.
fn counting(sandbox: &Sandbox) -> (Bundle, String) {
    let script = "while :; do echo >> /count; sleep 0.02; done";
    let bundle = sandbox.bundle(&["sh", "-c", script]);
    let id = sandbox.start(&bundle, "counting");
    eventually("it counts", || bundle.inside("/count").exists());
    (bundle, id)
}

#[test]
fn the_paused_stands_still_until_resumed() {
    let sandbox = Sandbox::new();
    let (bundle, id) = counting(&sandbox);
    sandbox.rrun(&["resume", &id]).complains_of(&["resume", "container not paused"]);
    if !sandbox.pauses(&id) {
        return sandbox.remove(&id);
    }
    assert_eq!(sandbox.state(&id)["status"], "paused");
    let count = bundle.read("/count");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(bundle.read("/count"), count);
    sandbox.rrun(&["pause", &id]).complains_of(&["pause", "container not running"]);
    sandbox.rrun(&["exec", &id, "true"]).complains_of(&["cannot exec in a paused container"]);
    sandbox.rrun(&["delete", &id]).complains_of(&["not stopped", "paused"]);
    sandbox.rrun(&["resume", &id]).ok();
    assert_eq!(sandbox.state(&id)["status"], "running");
    eventually("it counts again", || bundle.read("/count") != count);
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn the_paused_can_be_killed_and_deleted_by_force() {
    for end in ["kill", "delete"] {
        let sandbox = Sandbox::new();
        let (_bundle, id) = counting(&sandbox);
        sandbox.pauses(&id);
        if end == "kill" {
            sandbox.remove(&id);
        } else {
            sandbox.rrun(&["delete", "--force", &id]).ok();
        }
        sandbox.assert_nothing_left();
    }
}

#[test]
fn without_a_pid_namespace_kill_all_reaches_all() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", "sleep 1000 & sleep 1000"]);
    bundle.share_with_host("pid");
    bundle.mount("/proc", "bind", "/proc", &["rbind"]);
    bundle.edit(|config| {
        config["linux"].as_object_mut().unwrap().retain(|key, _| key == "namespaces");
    });
    let id = sandbox.start(&bundle, "hostpid");
    sandbox.rrun(&["kill", "--all", &id, "KILL"]).ok();
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["delete", "--force", &id]).ok();
    sandbox.assert_nothing_left();
}

/// A namespace's number goes to another one when it has ended: what belongs to a stopped container
/// must not be told by such a number.
#[test]
fn deleting_a_container_does_not_touch_strangers() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.share_with_host("pid");
    bundle.edit(|config| {
        config["linux"].as_object_mut().unwrap().retain(|key, _| key == "namespaces");
    });
    let id = sandbox.id("stopped");
    // Until a stranger has the container's number, and not another test.
    let stranger = std::iter::repeat_with(|| {
        sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
        let namespace = fs::read_link(format!("/proc/{}/ns/mnt", sandbox.state(&id)["pid"]));
        sandbox.rrun(&["start", &id]).ok();
        sandbox.wait_until_stopped(&id);
        // The kernel gives the number back in its own time.
        std::thread::sleep(Duration::from_millis(200));
        let pids = strangers();
        sandbox.rrun(&["delete", "--force", &id]).ok();
        (namespace.unwrap(), pids)
    });
    let found = stranger.take(30).find_map(|(namespace, strangers)| {
        let taken = strangers.iter().any(|(_pid, link)| *link == namespace);
        let alive = |pid: &String| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok();
        taken.then(|| strangers.iter().all(|(pid, _link)| alive(pid)))
    });
    assert_eq!(found, Some(true), "all live on; None: nobody got the number");
}

/// Thirty processes in mount namespaces of their own, with those.
fn strangers() -> Vec<(String, PathBuf)> {
    let script =
        "for n in $(seq 30); do unshare --mount sh -c 'echo $$; exec sleep 20' & done; wait";
    let mut command = Command::new(if is_root() { "env" } else { "unshare" });
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let strangers = outcome::spawn(command.args(["sh", "-c", script]));
    eventually("thirty strangers", || strangers.stdout_so_far().lines().count() == 30);
    let pids = strangers.stdout_so_far();
    let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    pids.lines().map(|pid| (pid.to_owned(), link(pid))).collect()
}

/// A hook that appends its `name` and the state on its standard input to the file `trace`.
fn hook(name: &str, trace: &str) -> Value {
    let script = format!("{{ echo {name} $EXTRA; cat; echo; }} >> {trace}");
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin", "EXTRA=e"] }])
}

/// A bundle with all six hooks: outside they write to `outside`, in the container to `/trace`.
fn hooked(sandbox: &Sandbox, outside: &str) -> Bundle {
    let bundle = sandbox.bundle(&["sh", "-c", "echo program >> /trace"]);
    bundle.edit(|config| {
        config["hooks"] = json!({ "startContainer": hook("startContainer", "/trace") });
        for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            config["hooks"][kind] = hook(kind, outside);
        }
    });
    bundle
}

/// The traced names and the states that followed them.
fn traced(text: &str) -> (Vec<String>, Vec<Value>) {
    let (states, names): (Vec<_>, Vec<_>) =
        text.lines().filter(|line| !line.is_empty()).partition(|line| line.starts_with('{'));
    let states = states.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    (names.into_iter().map(str::to_owned).collect(), states)
}

#[test]
fn six_hooks_run_in_order_with_the_state_on_standard_input() {
    let sandbox = Sandbox::new();
    let outside = sandbox.join("trace");
    let bundle = hooked(&sandbox, outside.to_str().unwrap());
    let id = sandbox.id("hooks");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    let (names, states) = traced(&fs::read_to_string(&outside).unwrap());
    assert_eq!(names, ["prestart e", "createRuntime e", "createContainer e"]);
    assert!(
        states.iter().all(|state| state["id"] == id.as_str() && state["bundle"] == bundle.as_str()),
        "{states:?}"
    );
    sandbox.rrun(&["start", &id]).ok();
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["delete", &id]).ok();
    let (names, states) = traced(&fs::read_to_string(&outside).unwrap());
    assert_eq!(names[3..], ["poststart e", "poststop e"]);
    assert_eq!(states[4]["status"], "stopped");
    let (names, _states) = traced(&bundle.read("/trace"));
    assert_eq!(names, ["startContainer e", "program"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_failing_hook_fails_create_and_leaves_nothing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["true"]);
        bundle.edit(|config| {
            config["hooks"] = json!({ kind: [{ "path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"] }] });
        });
        let id = sandbox.id("hook");
        sandbox
            .rrun(&["create", "--bundle", bundle.as_str(), &id])
            .complains_of(&[kind, "because"]);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_failing_start_container_hook_fails_start() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", "echo program > /trace"]);
    bundle.edit(|config| config["hooks"] = json!({ "startContainer": [{ "path": "/bin/false" }] }));
    let id = sandbox.id("hook");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    sandbox.rrun(&["start", &id]).complains_of(&["startContainer"]);
    sandbox.rrun(&["delete", "--force", &id]).ok();
    assert!(!bundle.inside("/trace").exists());
    sandbox.assert_nothing_left();
}

#[test]
fn a_hook_has_its_time_and_no_more() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| {
        config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }] });
    });
    let started = Instant::now();
    let id = sandbox.id("slow");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).complains_of(&["createRuntime"]);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    sandbox.assert_nothing_left();
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_container() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| config["hooks"] = json!({ "poststop": [{ "path": "/bin/false" }] }));
    let id = sandbox.start(&bundle, "poststop");
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["delete", &id]).ok();
    sandbox.assert_nothing_left();
}

/// Whenever `create` is killed, what is on disk can be read, and `delete --force` cleans it up.
#[test]
fn a_killed_create_can_be_cleaned_up() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    for delay in 0..40 {
        let id = sandbox.id(&format!("killed{delay}"));
        let mut create = sandbox.spawn(&["create", "--bundle", bundle.as_str(), &id]);
        std::thread::sleep(Duration::from_micros(500 * delay));
        let _ended_already = create.child.kill();
        create.wait();
        sandbox.rrun(&["list", "--format", "json"]).ok();
        sandbox.rrun(&["delete", "--force", &id]).ok();
        // What was killed may take its time to be gone.
        let end = Instant::now() + Duration::from_secs(5);
        while !leftovers::find(sandbox.path(), &sandbox.root()).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        sandbox.assert_nothing_left();
    }
}

/// Where no process namespace of its own ends with the first process, SIGKILL ends the others, also
/// when the first one has gone.
#[test]
fn killing_without_a_pid_namespace_ends_all() {
    for first_is_gone in [false, true] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["sh", "-c", "sleep 1000 & sleep 1000"]);
        bundle.share_with_host("pid");
        bundle.edit(|config| {
            config["linux"].as_object_mut().unwrap().retain(|key, _| key == "namespaces");
        });
        let id = sandbox.start(&bundle, "hostpid");
        let pids = || -> Vec<i64> {
            serde_json::from_str(&sandbox.rrun(&["ps", "-f", "json", &id]).ok().stdout).unwrap()
        };
        eventually("it has two processes", || pids().len() == 2);
        let all = pids();
        if first_is_gone && is_root() {
            let first = sandbox.state(&id)["pid"].as_i64().unwrap().try_into().unwrap();
            kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
            sandbox.wait_until_stopped(&id);
        }
        sandbox.rrun(&["kill", &id, "KILL"]).ok();
        for pid in all {
            eventually("the process has gone", || {
                leftovers::reap();
                !std::path::Path::new(&format!("/proc/{pid}")).exists()
            });
        }
        sandbox.rrun(&["delete", &id]).ok();
        sandbox.assert_nothing_left();
    }
}
