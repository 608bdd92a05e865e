//! The systemd driver, with a systemd: that of this machine, or one in namespaces of its own
//! (`scripts/in-systemd`).

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::common::{Outcome, Sandbox, is_root, needs, outcome, rrun_binary};

/// Runs `script` where systemd is: as root on the machine's own instance, as `user` on hers. `$RRUN` is
/// the command with its flags, `$BUNDLE` a bundle, `$SYSTEMCTL` asks the instance.
fn with_systemd(sandbox: &Sandbox, user: Option<&str>, script: &str) -> Outcome {
    let place = sandbox.path().to_str().unwrap();
    let binary = sandbox.join("rrun");
    fs::copy(rrun_binary(), &binary).unwrap();
    let systemctl = if user.is_some() { "systemctl --user" } else { "systemctl" };
    let script = format!(
        "set -eu; RRUN='{place}/rrun --root {place}/run --systemd-cgroup'; BUNDLE={place}/bundle0; \
         SYSTEMCTL='{systemctl}'; {script}"
    );
    let mut command = if Path::new("/run/systemd/system").exists() && user.is_none() == is_root() {
        Command::new("sh")
    } else {
        let helper = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/in-systemd");
        let mut command = Command::new(helper);
        command.args(user.iter().flat_map(|user| ["--user", *user]));
        command.args(["--bind", place, "sh"]);
        command
    };
    command.args(["-c", &script]);
    let outcome = outcome::spawn(&mut command).wait();
    let is_there = outcome.code != 125;
    let why = outcome.stderr.clone();
    needs(is_there, &why, "apt-get install systemd dbus dbus-user-session libpam-systemd");
    outcome
}

/// What `systemctl show` and others print, by key.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key} in {text}"))
}

const LIFE: &str = "\
    $RRUN create --bundle $BUNDLE web </dev/null >/dev/null 2>&1; $RRUN start web; \
    $SYSTEMCTL show pod-web.scope -p ActiveState,Slice,Delegate,DevicePolicy,TimeoutStopUSec; \
    echo Init=$(grep ^0:: /proc/$($RRUN state web | sed -n 's/.*\"pid\": //p' | tr -d ,)/cgroup); \
    echo Inside=$($RRUN exec web grep ^0:: /proc/self/cgroup); \
    echo Processes=$($RRUN ps --format json web); \
    echo '{\"devices\": [{\"allow\": true}]}' | $RRUN update -r - web; \
    echo Devices=$($SYSTEMCTL show pod-web.scope -p DevicePolicy --value); \
    echo Stats=$($RRUN events --stats web | grep -c '\"type\":\"stats\"'); \
    $RRUN pause web; echo Paused=$($RRUN state web | grep -c paused); $RRUN resume web; \
    $RRUN delete --force web; \
    echo Left=$($SYSTEMCTL show pod-web.scope -p LoadState --value) \
        $(find /sys/fs/cgroup -name '*web*' | wc -l)";

fn lives(user: Option<&str>, slice: &str) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "cgroup" }));
        config["linux"]["cgroupsPath"] = json!(":pod:web");
        config["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        config["annotations"] = json!({ "org.systemd.property.TimeoutStopSec": "uint64 7" });
    });
    if let Some(user) = user {
        let known = nix::unistd::User::from_name(user).unwrap().is_some();
        needs(known || user.is_empty(), &format!("the user {user}"), "scripts/test makes him");
        let mut command = Command::new("chown");
        outcome::spawn(command.args(["-R", user]).arg(sandbox.path())).wait().ok();
    }
    let seen = with_systemd(&sandbox, user, LIFE).ok().stdout;
    for (key, expected) in [
        ("ActiveState", "active"),
        ("Slice", slice),
        ("Delegate", "yes"),
        ("DevicePolicy", "strict"),
        ("TimeoutStopUSec", "7s"),
        ("Inside", "0::/"),
        ("Devices", "auto"),
        ("Stats", "1"),
        ("Paused", "1"),
        ("Left", "not-found 0"),
    ] {
        assert_eq!(value(&seen, key), expected, "{seen}");
    }
    assert!(value(&seen, "Init").ends_with(&format!("/{slice}/pod-web.scope")), "{seen}");
    assert_eq!(value(&seen, "Processes").matches(',').count(), 0, "{seen}");
}

#[test]
fn a_container_is_a_scope_of_the_machines_systemd() {
    // An ordinary user has no machine's systemd; root's run shows it.
    if is_root() {
        lives(None, "system.slice");
    }
}

#[test]
fn a_container_is_a_scope_of_the_users_systemd() {
    // Root becomes somebody; who is somebody needs the systemd of his own, if there is one.
    if is_root() {
        lives(Some("rrun-test"), "user.slice");
    } else if Path::new("/run/systemd/system").exists() {
        lives(Some(""), "user.slice");
    }
}

#[test]
fn a_path_that_names_no_scope_is_refused_and_so_is_a_machine_without_systemd() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!("/a/b"));
    let run = |id: &str| {
        let mut command =
            sandbox.command(&["--systemd-cgroup", "run", "--bundle", bundle.as_str(), id]);
        command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere");
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere");
        outcome::spawn(&mut command).wait()
    };
    let id = sandbox.id("scope");
    run(&id).complains_of(&["/linux/cgroupsPath: ", "slice:prefix:name"]);
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!("a.slice:b:c"));
    run(&id).complains_of(&["let systemd start b-c.scope", "bus", "--cgroup-manager cgroupfs"]);
    sandbox.assert_nothing_left();
}
