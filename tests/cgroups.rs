//! Control groups as machines have them: version 2 alone, version 1, both, none, and without the
//! right to make any.

use std::process::Command;

use serde_json::json;

use crate::common::{Bundle, Outcome, Sandbox, is_root, outcome, rrun_binary};

/// Only version 2, as on a machine without systemd; an ordinary user covers the others instead of
/// unmounting them.
const VERSION_2: &str =
    "umount -R /sys/fs/cgroup 2>/dev/null || true; mount -t cgroup2 none /sys/fs/cgroup";
/// Only version 1, as far as this machine has it.
const VERSION_1: &str = "umount /sys/fs/cgroup/unified 2>/dev/null || true";
/// None that anybody could see.
const NONE: &str =
    "umount -R /sys/fs/cgroup 2>/dev/null || true; mount -t tmpfs none /sys/fs/cgroup";
/// Whatever this machine has.
const AS_IT_IS: &str = "true";

/// Runs `script` after `view` where the caller may mount; `$RRUN` is the command with its flags,
/// `$BUNDLE` and `$ID` are what they say.
fn with_cgroups(sandbox: &Sandbox, bundle: &Bundle, view: &str, script: &str) -> Outcome {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-root-user", "--map-auto", "--cgroup"]);
    }
    let rrun = format!("{} --root {}", rrun_binary().display(), sandbox.root().display());
    command.args(["sh", "-euc", &format!("{view}; {script}")]).env("RRUN", rrun);
    command.env("BUNDLE", bundle.path()).env("ID", sandbox.id("cgroups"));
    outcome::spawn(&mut command).wait()
}

#[test]
fn a_container_lives_and_ends_in_every_situation() {
    for view in [AS_IT_IS, VERSION_2, VERSION_1, NONE] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["sleep", "1000"]);
        let script = "$RRUN create --bundle $BUNDLE $ID < /dev/null > /dev/null 2>&1; $RRUN start $ID; \
            $RRUN exec $ID sh -c 'exit 3' || test $? = 3; $RRUN ps --format json $ID; \
            $RRUN kill --all $ID KILL; $RRUN delete --force $ID";
        let processes = with_cgroups(&sandbox, &bundle, view, script).ok().stdout;
        assert_eq!(processes.matches(',').count(), 0, "{view}: one process, not {processes}");
        sandbox.assert_nothing_left();
    }
}

#[test]
fn the_programs_exit_code_comes_out_in_every_situation() {
    for view in [AS_IT_IS, VERSION_2, VERSION_1, NONE] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["sh", "-c", "exit 7"]);
        with_cgroups(&sandbox, &bundle, view, "$RRUN run --bundle $BUNDLE $ID").exits(7);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_limit_that_cannot_be_set_is_an_error_with_the_cure() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| config["linux"]["resources"] = json!({ "pids": { "limit": 20 } }));
    let run = "$RRUN run --bundle $BUNDLE $ID";
    let outcome = with_cgroups(&sandbox, &bundle, NONE, run);
    outcome.complains_of(&["/linux/resources/pids/limit", "pids controller"]);
    sandbox.assert_nothing_left();
}

/// Version 2 could be delegated, so an ordinary user is told how; version 1 could not.
#[test]
fn who_may_make_no_cgroup_is_told_how_to_get_one() {
    if is_root() {
        return;
    }
    for (view, told) in [(VERSION_2, true), (NONE, false)] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["true"]);
        let script = "$RRUN run --bundle $BUNDLE $ID";
        let outcome = with_cgroups(&sandbox, &bundle, view, script).ok();
        let cure = "systemd-run --user --scope -p Delegate=yes";
        assert_eq!(outcome.stderr.contains(cure), told, "{view}: {outcome}");
        sandbox.assert_nothing_left();
    }
}

/// Where root may make cgroups, the rules that every default configuration carries hold: a device
/// that nobody allowed cannot be opened, the usual ones can.
#[test]
fn device_rules_hold_where_cgroups_can_be_used() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        config["linux"]["devices"] =
            json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]);
    });
    let script =
        "head -c 1 /dev/zero > /dev/null && echo zero; head -c 1 /dev/kmsg 2>&1 > /dev/null; true";
    let seen = sandbox.prints(&bundle, script);
    assert!(seen.starts_with("zero"), "{seen}");
    if is_root() {
        assert!(seen.contains("Operation not permitted"), "{seen}");
    }
}
