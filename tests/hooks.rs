//! What happens when hooks fail, what they are given, and what comes after them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Bundle, Sandbox};

/// A hook that runs a script outside.
fn script(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

/// A bundle with poststop hooks of which the first fails and the second leaves a trace.
fn bundle_with_poststop(sandbox: &Sandbox) -> (Bundle, PathBuf) {
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let trace = sandbox.join("poststop");
    let hooks = [script("exit 3"), script(&format!("cat > {}", trace.display()))];
    bundle.edit(|config| config["hooks"] = json!({ "poststop": hooks }));
    (bundle, trace)
}

#[track_caller]
fn assert_stopped_in(trace: &Path) {
    let state: Value = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
    assert_eq!(state["status"], "stopped", "{state}");
    assert_eq!(state["pid"], Value::Null, "{state}");
}

#[test]
fn every_poststop_hook_runs_and_a_failing_one_is_a_warning() {
    let sandbox = Sandbox::new();
    let (bundle, trace) = bundle_with_poststop(&sandbox);
    let id = sandbox.start(&bundle, "poststop");
    let outcome = sandbox.rrun(&["delete", "--force", &id]).ok();
    let warning = "rrun: warning: poststop hook failed with exit code 3: hook #0, /bin/sh\n";
    assert_eq!(outcome.stderr, warning);
    assert_stopped_in(&trace);
    sandbox.assert_nothing_left();
}

/// runtime-spec 1.3, "Lifecycle", 9: an error, and the container is destroyed.
#[test]
fn a_failing_poststart_hook_fails_the_start_and_destroys_the_container() {
    for verb in ["start", "run"] {
        let sandbox = Sandbox::new();
        let (bundle, trace) = bundle_with_poststop(&sandbox);
        bundle.edit(|config| config["hooks"]["poststart"] = json!([script("echo no >&2; exit 1")]));
        let id = sandbox.id("poststart");
        let outcome = if verb == "start" {
            sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
            sandbox.rrun(&["start", &id]).exits(1)
        } else {
            sandbox.rrun(&["run", "--bundle", bundle.as_str(), "--detach", &id]).exits(1)
        };
        let complaint = "error running poststart hook #0: /bin/sh: exit code 1: no";
        assert!(outcome.stderr.contains(complaint), "{outcome}");
        sandbox.rrun(&["state", &id]).complains_of(&["does not exist"]);
        assert_stopped_in(&trace);
        sandbox.assert_nothing_left();
    }
}

/// runtime-spec 1.3, "Lifecycle", 7: the same before the program.
#[test]
fn a_failing_start_container_hook_destroys_the_container() {
    let sandbox = Sandbox::new();
    let (bundle, trace) = bundle_with_poststop(&sandbox);
    bundle.edit(|config| config["hooks"]["startContainer"] = json!([{ "path": "/bin/false" }]));
    let id = sandbox.id("start");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    let outcome = sandbox.rrun(&["start", &id]).exits(1);
    assert!(
        outcome.stderr.contains("error running startContainer hook #0: /bin/false: exit code 1")
    );
    sandbox.rrun(&["state", &id]).complains_of(&["does not exist"]);
    assert_stopped_in(&trace);
    sandbox.assert_nothing_left();
}

/// runtime-spec 1.3, "Lifecycle", 3 to 5: what was begun is undone, up to the poststop hooks.
#[test]
fn after_a_creation_that_fails_the_poststop_hooks_run() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let sandbox = Sandbox::new();
        let (bundle, trace) = bundle_with_poststop(&sandbox);
        let hooks = [script("exit 0"), script("echo because >&2; exit 1")];
        bundle.edit(|config| config["hooks"][kind] = json!(hooks));
        let id = sandbox.id("create");
        let outcome = sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).exits(1);
        let complaint = format!("error running {kind} hook #1: /bin/sh: exit code 1: because");
        assert!(outcome.stderr.contains(&complaint), "{outcome}");
        assert_stopped_in(&trace);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn bad_input_runs_no_hook_at_all() {
    let sandbox = Sandbox::new();
    let (bundle, trace) = bundle_with_poststop(&sandbox);
    bundle.edit(|config| config["process"]["cwd"] = "relative".into());
    sandbox.run(&bundle).complains_of(&["/process/cwd"]);
    assert!(!trace.exists());
}

#[test]
fn a_start_container_hook_inherits_the_programs_environment() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let hook = json!({
        "path": "/bin/sh",
        "args": ["sh", "-c", "test \"$ONE $HOME\" = 'two /root' && test -z \"$OUTSIDE\""],
    });
    bundle.edit(|config| {
        config["process"]["env"] = json!(["PATH=/bin", "ONE=two"]);
        config["hooks"] = json!({ "startContainer": [hook] });
    });
    let mut run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("inherit")]);
    crate::common::outcome::spawn(run.env("OUTSIDE", "1")).wait().ok();
}

#[test]
fn a_hook_outside_inherits_the_runtimes_environment_unless_it_has_one() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let run = |hook: &str, env: Option<Value>| {
        let mut hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", hook] });
        if let Some(env) = env {
            hook["env"] = env;
        }
        bundle.edit(|config| config["hooks"] = json!({ "createRuntime": [hook] }));
        let mut run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("env")]);
        crate::common::outcome::spawn(run.env("OUTSIDE", "1")).wait()
    };
    run("test \"$OUTSIDE\" = 1", None).ok();
    run("test -z \"$OUTSIDE\"", Some(json!([]))).ok();
    run("test \"$OUTSIDE\" = 1", Some(json!(["OTHER=1"]))).exits(1);
}

/// Those inside too, which could not open the files themselves.
#[test]
fn the_output_of_all_hooks_goes_where_annotations_say() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let (output, errors) = (sandbox.join("output"), sandbox.join("errors"));
    bundle.edit(|config| {
        config["annotations"] = json!({
            "run.oci.hooks.stdout": output.to_str().unwrap(),
            "run.oci.hooks.stderr": errors.to_str().unwrap(),
        });
        config["hooks"] = json!({});
        for kind in ["createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        {
            let said = format!("echo {kind}; echo complaint of {kind} >&2");
            config["hooks"][kind] = json!([script(&said)]);
        }
    });
    sandbox.run(&bundle).ok();
    let kinds = "createRuntime createContainer startContainer poststart poststop";
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!(read(&output).split_whitespace().collect::<Vec<_>>().join(" "), kinds);
    assert_eq!(read(&errors).matches("complaint of ").count(), 5, "{}", read(&errors));
}

/// As with runc, where libraries are to be made known there.
#[test]
fn a_create_container_hook_runs_in_the_root_directory() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let hook = script("test -f ./etc/passwd && echo made > ./made");
    bundle.edit(|config| config["hooks"] = json!({ "createContainer": [hook] }));
    sandbox.run(&bundle).ok();
    assert_eq!(bundle.read("/made"), "made\n");
}
