//! A Landlock profile in an annotation: what the program may touch, seen from inside.

use serde_json::{Value, json};

use crate::common::{Bundle, Sandbox};

/// A sandbox and a bundle with the profile `profile`.
fn with(profile: &Value, no_new_privileges: bool) -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["annotations"] = json!({"dev.rrun.landlock": profile.to_string()});
        config["process"]["noNewPrivileges"] = no_new_privileges.into();
    });
    (sandbox, bundle)
}

fn files() -> Value {
    json!({
        "mode": "required",
        "paths": {
            "/": ["read"],
            "/bin": ["read", "execute"],
            "/dev": ["read", "writeFile"],
            "/home": ["read", "write"],
            "/etc/passwd": ["read", "write"],
        },
    })
}

#[test]
fn what_no_rule_allows_fails() {
    const SCRIPT: &str = "cat /etc/group >/dev/null; echo $?; \
        echo new 2>/dev/null >/home/file; echo $?; \
        echo new 2>/dev/null >/tmp/file; echo $?; \
        echo more 2>/dev/null >>/etc/passwd; echo $?; \
        rm -f /etc/group 2>/dev/null; echo $?; \
        cp /bin/busybox /home/true && /home/true 2>/dev/null; echo $?; \
        grep ^CapEff /proc/self/status | cut -f2";
    for no_new_privileges in [true, false] {
        let (sandbox, bundle) = with(&files(), no_new_privileges);
        let id = sandbox.start(&bundle, "files");
        let by_exec = sandbox.rrun(&["exec", &id, "sh", "-c", SCRIPT]).ok().line().to_owned();
        sandbox.remove(&id);
        let expected = "0\n0\n1\n0\n1\n126\n0000000020000420";
        assert_eq!(by_exec, expected, "exec");
        assert_eq!(sandbox.prints(&bundle, SCRIPT), expected, "run");
    }
}

#[test]
fn ports_are_closed_but_for_those_listed() {
    let profile = json!({"mode": "required", "tcp": {"bind": [4040], "connect": [4040]}});
    let (sandbox, bundle) = with(&profile, true);
    // nc listens, or connects to itself; a closed port is a refusal of the kernel's own.
    let script = "(nc -l -p 4040 >/tmp/heard & sleep 0.3; echo hello | nc 127.0.0.1 4040; wait; \
        cat /tmp/heard); nc -l -p 4041 2>&1; nc 127.0.0.1 4042 2>&1; true";
    let seen = sandbox.prints(&bundle, script);
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[0], "hello", "{seen}");
    assert_eq!(lines.len(), 3, "{seen}");
    assert!(lines[1..].iter().all(|line| line.ends_with("Permission denied")), "{seen}");
}

#[test]
fn a_scope_holds_signals_in() {
    let profile = json!({"mode": "required", "scopes": ["signal"]});
    let (sandbox, bundle) = with(&profile, true);
    let id = sandbox.start(&bundle, "scope");
    // Another program of the container is under a profile of its own, beside the first one's.
    let kill = "sleep 1000 & kill -0 $! && echo own; kill -0 1 2>&1; kill $!";
    let seen = sandbox.rrun(&["exec", &id, "sh", "-c", kill]).ok();
    assert!(seen.stdout.starts_with("own\n"), "{seen}");
    assert!(seen.stdout.contains("Operation not permitted"), "{seen}");
    sandbox.remove(&id);
}

#[test]
fn a_profile_that_cannot_be_kept_is_refused() {
    for (profile, complaint) in [
        (json!({"paths": {}}), "/annotations/dev.rrun.landlock/mode"),
        (
            json!({"mode": "required", "paths": {"/nowhere": ["read"]}}),
            "/annotations/dev.rrun.landlock/paths: /nowhere: ENOENT",
        ),
    ] {
        let (sandbox, bundle) = with(&profile, true);
        sandbox.run(&bundle).complains_of(&[complaint]);
        sandbox.assert_nothing_left();
    }
}
