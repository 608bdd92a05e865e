//! What engines parse: verbs, flags, exit codes, texts.

use std::fs;

use serde_json::Value;

use crate::common::{Sandbox, is_root, outcome};

/// Verbs, and the flags that engines and test suites pass to them.
const VERBS: &[(&str, &[&str])] = &[
    (
        "create",
        &[
            "--bundle",
            "--console-socket",
            "--pid-file",
            "--preserve-fds",
            "--no-pivot",
            "--no-new-keyring",
            "--lowerdir",
            "--upperdir",
            "--workdir",
        ],
    ),
    ("start", &[]),
    ("state", &[]),
    ("kill", &["--all"]),
    ("mounts", &["add", "remove"]),
    ("delete", &["--force", "--purge"]),
    (
        "run",
        &[
            "--bundle",
            "--detach",
            "--keep",
            "--pid-file",
            "--console-socket",
            "--preserve-fds",
            "--no-pivot",
            "--lowerdir",
        ],
    ),
    (
        "exec",
        &[
            "--process",
            "--tty",
            "--user",
            "--cwd",
            "--env",
            "--cap",
            "--detach",
            "--pid-file",
            "--console-socket",
            "--preserve-fds",
        ],
    ),
    ("pause", &[]),
    ("resume", &[]),
    (
        "image",
        &["ls", "load", "save", "import", "inspect", "history", "tag", "rm", "prune", "verify"],
    ),
    ("images", &["--all", "--digests", "--filter", "--format", "--no-trunc", "--quiet"]),
    ("list", &["--format", "--quiet"]),
    ("ps", &["--format"]),
    ("spec", &["--bundle", "--rootless"]),
];

#[test]
fn version_says_name_and_spec() {
    let outcome = Sandbox::new().rrun(&["--version"]).ok();
    assert!(outcome.stdout.starts_with("rrun version "), "{outcome}");
    assert!(outcome.stdout.lines().any(|line| line.starts_with("spec: 1.")), "{outcome}");
    assert!(outcome.stdout.lines().any(|line| line.starts_with("commit: ")), "{outcome}");
}

/// In the form of the log, with the names of runc's steps, and only with the flag.
#[test]
fn what_is_done_is_logged_on_demand() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let log = sandbox.join("log");
    let (id, path) = (sandbox.id("debug"), log.to_str().unwrap());
    let run = ["--debug", "run", "--detach", "--bundle", bundle.as_str(), &id];
    let stderr = sandbox.rrun(&run).ok().stderr;
    let exec = ["--debug", "--log", path, "exec", &id, "true"];
    assert_eq!(sandbox.rrun(&exec).ok().stderr, "");
    let logged = fs::read_to_string(&log).unwrap();
    for (text, last) in
        [(&stderr, "init: closing the pipe"), (&logged, "setns_init: about to exec")]
    {
        for words in ["level=debug", "nsexec container setup", "child process in init()", last] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    assert_eq!(sandbox.rrun(&["exec", &id, "true"]).ok().stderr, "");
    sandbox.remove(&id);
}

#[test]
fn help_has_the_form_of_runc() {
    let sandbox = Sandbox::new();
    let help = sandbox.rrun(&["create", "--help"]).ok().stdout;
    assert!(help.starts_with("NAME:\n   rrun create - Create a container\n"), "{help}");
    sandbox.rrun(&["foo", "-h"]).complains_of(&["No help topic for 'foo'"]);
    sandbox.rrun(&["foo"]).complains_of(&["'foo'"]);
}

#[test]
fn every_verb_explains_its_flags() {
    let sandbox = Sandbox::new();
    for &(verb, flags) in VERBS {
        let help = sandbox.rrun(&[verb, "--help"]).ok();
        for flag in flags {
            assert!(help.stdout.contains(flag), "{flag} in {help}");
        }
        sandbox.rrun(&[verb, "-h"]).ok();
    }
}

#[test]
fn what_is_no_verb_or_flag_is_refused() {
    let sandbox = Sandbox::new();
    for args in [
        &["frobnicate"][..],
        &["list", "--frobnicate"],
        &["--frobnicate", "list"],
        &["state"],
        &["state", "a", "b"],
    ] {
        let outcome = sandbox.rrun(args);
        assert_ne!(outcome.code, 0, "{outcome}");
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{outcome}");
    }
}

#[test]
fn the_absent_container_does_not_exist() {
    let sandbox = Sandbox::new();
    let id = sandbox.id("absent");
    for args in [
        &["state", &id][..],
        &["start", &id],
        &["kill", &id, "9"],
        &["delete", &id],
        &["ps", &id],
        &["exec", &id, "true"],
    ] {
        sandbox.rrun(args).complains_of(&[&id, "does not exist"]);
    }
    for verb in ["state", "start", "delete"] {
        sandbox.rrun(&[verb, &id]).exits(1);
    }
}

#[test]
fn forced_deletion_of_the_absent_is_silent() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.rrun(&["delete", "--force", &sandbox.id("absent")]).ok();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
}

#[test]
fn options_may_follow_the_id() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let id = sandbox.id("late");
    sandbox.rrun(&["create", &id, "--bundle", bundle.as_str(), "--no-new-keyring"]).ok();
    sandbox.rrun(&["kill", &id, "--all", "KILL"]).ok();
    sandbox.rrun(&["delete", &id, "--force"]).ok();
    sandbox.assert_nothing_left();
}

#[test]
fn global_flags_of_the_engines_are_taken() {
    let sandbox = Sandbox::new();
    let log = sandbox.join("log");
    let log = log.to_str().unwrap();
    for flags in [
        &["--debug"][..],
        &["--log", log],
        &["--log", log, "--log-format", "json"],
        &["--log-format=text"],
        &["--rootless", "auto"],
        &["--cgroup-manager", "cgroupfs"],
    ] {
        let mut args = flags.to_vec();
        args.push("list");
        sandbox.rrun(&args).ok();
    }
}

#[test]
fn the_json_log_has_level_message_and_time() {
    let sandbox = Sandbox::new();
    let (log, id) = (sandbox.join("log.json"), sandbox.id("absent"));
    let args = ["--log", log.to_str().unwrap(), "--log-format", "json", "state", &id];
    sandbox.rrun(&args).exits(1);
    let text = fs::read_to_string(log).unwrap();
    let entry: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(entry["level"], "error");
    assert!(entry["msg"].as_str().unwrap().contains("does not exist"), "{entry}");
    let time = entry["time"].as_str().unwrap();
    assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
}

/// From these words docker and podman make the exit codes 126 and 127.
#[test]
fn the_json_log_says_why_a_program_did_not_start() {
    let sandbox = Sandbox::new();
    let log = sandbox.join("log.json");
    let cases = [
        ("no-such-program", "executable file not found"),
        ("/no/such/program", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
    ];
    for (program, cause) in cases {
        let bundle = sandbox.bundle(&[program]);
        let id = sandbox.id("why");
        let flags = ["--log-format=json", "--log", log.to_str().unwrap()];
        let create = ["create", "--bundle", bundle.as_str(), &id];
        sandbox.rrun(&[&flags[..], &create].concat()).exits(1);
        let text = fs::read_to_string(&log).unwrap();
        let entry: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(entry["level"], "error");
        assert!(entry["msg"].as_str().unwrap().contains(cause), "{entry}");
    }
    sandbox.assert_nothing_left();
}

#[test]
fn the_text_log_has_the_message() {
    let sandbox = Sandbox::new();
    let (log, id) = (sandbox.join("log.txt"), sandbox.id("absent"));
    sandbox.rrun(&["--log", log.to_str().unwrap(), "state", &id]).exits(1);
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("does not exist") && text.contains("level=error"), "{text}");
}

#[test]
fn the_written_spec_runs() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    let mut args = vec!["spec", "--bundle", bundle.as_str()];
    args.extend((!is_root()).then_some("--rootless"));
    sandbox.rrun(&args).ok();
    bundle.edit(|config| {
        assert_eq!(config["process"]["terminal"], true);
        assert_eq!(config["process"]["args"], serde_json::json!(["sh"]));
        assert_eq!(config["root"]["readonly"], true);
        config["process"]["terminal"] = false.into();
    });
    assert_eq!(sandbox.prints(&bundle, "echo $$ && id -u"), "1\n0");
}

#[test]
fn spec_does_not_overwrite() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let before = fs::read(bundle.path().join("config.json")).unwrap();
    sandbox.rrun(&["spec", "--bundle", bundle.as_str()]).complains_of(&["config.json exists"]);
    assert_eq!(fs::read(bundle.path().join("config.json")).unwrap(), before);
}

#[test]
fn rootless_spec_has_a_user_namespace() {
    let sandbox = Sandbox::new();
    let place = sandbox.directory("empty");
    let mut command = sandbox.command(&["spec", "--rootless"]);
    outcome::spawn(command.current_dir(&place)).wait().ok();
    let config: Value =
        serde_json::from_slice(&fs::read(place.join("config.json")).unwrap()).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.iter().any(|namespace| namespace["type"] == "user"), "{config}");
    assert_eq!(config["linux"]["uidMappings"][0]["containerID"], 0);
    assert_eq!(config["linux"]["uidMappings"][0]["hostID"], nix::unistd::geteuid().as_raw());
}

#[test]
fn features_says_what_is_there() {
    let outcome = Sandbox::new().rrun(&["features"]).ok();
    let features: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for key in ["ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "linux", "annotations"] {
        assert!(!features[key].is_null(), "{key} in {features}");
    }
    for (list, item) in [
        ("/hooks", "poststop"),
        ("/mountOptions", "rbind"),
        ("/linux/namespaces", "user"),
        ("/linux/capabilities", "CAP_CHOWN"),
    ] {
        let list = features.pointer(list).unwrap().as_array().unwrap();
        assert!(list.iter().any(|entry| entry == item), "{item} in {features}");
    }
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
}

#[test]
fn the_empty_list_is_an_empty_array() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.rrun(&["list", "--format", "json"]).ok().line(), "[]");
    assert_eq!(sandbox.rrun(&["list", "-q"]).ok().stdout, "");
}

#[test]
fn list_has_a_table_and_json() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let id = sandbox.start(&bundle, "listed");
    let table = sandbox.rrun(&["list"]).ok().stdout;
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!((rows[1][0], rows[1][2], rows[1][3]), (id.as_str(), "running", bundle.as_str()));
    let json: Value =
        serde_json::from_str(&sandbox.rrun(&["list", "-f", "json"]).ok().stdout).unwrap();
    assert_eq!((&json[0]["id"], &json[0]["status"]), (&id.as_str().into(), &"running".into()));
    assert_eq!(sandbox.rrun(&["list", "--quiet"]).ok().line(), id);
    sandbox.remove(&id);
}

#[test]
fn ps_lists_host_pids() {
    let sandbox = Sandbox::new();
    let id = sandbox.start(&sandbox.bundle(&["sleep", "1000"]), "ps");
    let pid = sandbox.state(&id)["pid"].as_i64().unwrap();
    let json: Vec<i64> =
        serde_json::from_str(&sandbox.rrun(&["ps", "--format", "json", &id]).ok().stdout).unwrap();
    assert_eq!(json, [pid]);
    let table = sandbox.rrun(&["ps", &id]).ok().stdout;
    assert!(table.lines().next().unwrap().contains("PID"), "{table}");
    assert!(table.lines().any(|row| row.contains(&pid.to_string())), "{table}");
    sandbox.remove(&id);
}

/// As with crun: one command for all containers that a regular expression fits.
#[test]
fn containers_are_chosen_by_regular_expression() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let ids = ["web1", "web2", "db"].map(|name| sandbox.start(&bundle, name));
    sandbox.rrun(&["kill", "--regex", "^web[0-9]-", "KILL"]).ok();
    sandbox.wait_until_stopped(&ids[0]);
    sandbox.wait_until_stopped(&ids[1]);
    assert_eq!(sandbox.state(&ids[2])["status"], "running");
    sandbox.rrun(&["delete", "--regex", "^web.-"]).ok();
    assert_eq!(sandbox.rrun(&["list", "-q"]).ok().line(), ids[2]);
    sandbox.rrun(&["delete", "--regex", "("]).exits(1).complains_of(&["no regular expression"]);
    sandbox.rrun(&["delete", "--force", "--regex", "b-"]).ok();
    assert_eq!(sandbox.rrun(&["list", "-q"]).ok().stdout, "");
    sandbox.assert_nothing_left();
}

#[test]
fn a_root_that_was_named_must_be_there_to_be_listed() {
    let mut list = std::process::Command::new(crate::common::rrun_binary());
    let list = list.args(["--root", "/no/such/root", "list"]);
    outcome::spawn(list).wait().exits(1).complains_of(&["/no/such/root"]);
}

#[test]
fn a_stopped_container_has_no_processes() {
    let sandbox = Sandbox::new();
    let id = sandbox.start(&sandbox.bundle(&["true"]), "ps");
    sandbox.wait_until_stopped(&id);
    assert_eq!(sandbox.rrun(&["ps", "--format", "json", &id]).ok().line(), "[]");
    assert_eq!(sandbox.rrun(&["ps", &id]).ok().stdout.lines().count(), 1, "the heading");
    sandbox.rrun(&["delete", &id]).ok();
}
