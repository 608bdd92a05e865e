//! An agent that answers for system calls of a container.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Bundle, Sandbox, descriptor, sys};

/// How long an agent may take to be told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts an agent at `path`: `mkdir` fails with `ENOSPC`, all else goes on. What it is told of each
/// process comes out of what is returned.
fn agent(path: &Path) -> Receiver<Value> {
    let listening = UnixListener::bind(path).unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listening.incoming() {
            let (text, calls) = descriptor::receive(&stream.unwrap());
            tell.send(serde_json::from_str(&text).unwrap()).unwrap();
            std::thread::spawn(move || {
                let makes = |number| [libc::SYS_mkdir, libc::SYS_mkdirat].contains(&number);
                let answer = |number| makes(number).then_some(libc::ENOSPC);
                while sys::answer_call(&calls, answer) {}
            });
        }
    });
    told
}

/// A bundle whose calls `names` are asked about at `path`.
fn asking(sandbox: &Sandbox, path: &Path, names: &[&str], no_new_privileges: bool) -> Bundle {
    let bundle = sandbox.bundle(&["sh", "-c", "mkdir /new 2>&1"]);
    bundle.edit(|config| {
        config["process"]["noNewPrivileges"] = no_new_privileges.into();
        config["annotations"] = json!({"color": "red"});
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "opaque",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    bundle
}

#[test]
fn an_agent_answers_for_the_program() {
    for no_new_privileges in [true, false] {
        let sandbox = Sandbox::new();
        let path = sandbox.join("agent");
        let told = agent(&path);
        // Some of these the process has to make itself before it is the program.
        let names = ["mkdir", "mkdirat", "execve", "openat", "open", "read", "close", "fcntl"];
        let bundle = asking(&sandbox, &path, &names, no_new_privileges);
        let outcome = sandbox.run(&bundle).exits(1);
        assert!(outcome.stdout.contains("No space left on device"), "{outcome}");
        let state = told.recv().unwrap();
        assert_eq!(state["ociVersion"], "1.0.2");
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "opaque");
        assert_eq!(state["state"]["pid"], state["pid"]);
        assert_eq!(state["state"]["status"], "creating");
        assert_eq!(state["state"]["bundle"], bundle.as_str());
        assert_eq!(state["state"]["annotations"]["color"], "red");
        assert_eq!(sandbox.rrun(&["list", "--quiet"]).ok().stdout, "");
    }
}

#[test]
fn an_agent_answers_after_start_and_for_exec() {
    let sandbox = Sandbox::new();
    let path = sandbox.join("agent");
    let told = agent(&path);
    let bundle = asking(&sandbox, &path, &["mkdir", "mkdirat"], true);
    bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = sandbox.id("asking");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    let init = sandbox.state(&id)["pid"].clone();
    let state = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((&state["pid"], &state["state"]["id"]), (&init, &json!(id)));
    assert_eq!(state["state"]["status"], "creating");
    sandbox.rrun(&["start", &id]).ok();
    let outcome = sandbox.rrun(&["exec", &id, "sh", "-c", "mkdir /new 2>&1"]).exits(1);
    assert!(outcome.stdout.contains("No space left on device"), "{outcome}");
    let state = told.recv().unwrap();
    assert_eq!((&state["state"]["pid"], &state["state"]["status"]), (&init, &json!("running")));
    assert_ne!(state["pid"], init);
    sandbox.remove(&id);
}

#[test]
fn without_its_agent_nothing_runs() {
    let sandbox = Sandbox::new();
    let path = sandbox.join("nobody");
    let bundle = asking(&sandbox, &path, &["mkdir"], true);
    let complaint = ["/linux/seccomp/listenerPath", "nobody", "No such file"];
    sandbox.run(&bundle).complains_of(&complaint);
    assert_eq!(sandbox.rrun(&["list", "--quiet"]).ok().stdout, "");
    let id = sandbox.id("nobody");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).complains_of(&complaint);
    assert_eq!(sandbox.rrun(&["list", "--quiet"]).ok().stdout, "");
}

/// With its filter in force the first process could wait for ever, or end when nobody looks.
#[test]
fn what_waiting_for_start_takes_must_be_allowed() {
    let sandbox = Sandbox::new();
    let path = sandbox.join("agent");
    let _told = agent(&path);
    let bundle = asking(&sandbox, &path, &["mkdir"], true);
    for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"] {
        bundle.edit(|config| {
            config["linux"]["seccomp"]["syscalls"] = json!([
                {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"},
                {"names": ["accept4"], "action": action},
            ]);
        });
        let id = sandbox.id("denied");
        let create = sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]);
        create.complains_of(&["/linux/seccomp: the profile must allow", "accept4"]);
        assert_eq!(sandbox.rrun(&["list", "--quiet"]).ok().stdout, "");
        sandbox.run(&bundle).exits(1);
    }
}

/// They run inside, for the container's sake.
#[test]
fn start_hooks_do_not_evade_the_filter() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| {
        let denied = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"});
        config["linux"]["seccomp"] =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]});
        config["hooks"]["startContainer"] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "mkdir /new"]}]);
    });
    sandbox.run(&bundle).complains_of(&["startContainer", "Operation not permitted"]);
}

#[test]
fn unknown_calls_are_refused_on_demand() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let annotate = |value: &str| {
        bundle.edit(|config| {
            config["annotations"]["run.oci.seccomp_fail_unknown_syscall"] = value.into();
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
                [{"names": ["mkdir", "nonsense"], "action": "SCMP_ACT_ERRNO"}]});
        });
    };
    annotate("1");
    let complaint = ["/linux/seccomp/syscalls/0/names/1", "\"nonsense\""];
    sandbox.run(&bundle).complains_of(&complaint);
    annotate("0");
    sandbox.run(&bundle).ok();
}

#[test]
fn a_path_that_nobody_needs_is_ignored() {
    let sandbox = Sandbox::new();
    let bundle = asking(&sandbox, Path::new("/nowhere"), &["mkdir"], true);
    bundle.edit(|config| {
        config["linux"]["seccomp"]["syscalls"] = json!([]);
        config["linux"]["seccomp"]["flags"] = json!([]);
    });
    sandbox.run(&bundle).ok();
}
