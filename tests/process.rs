//! The process that config.json asks for, seen from inside.

use serde_json::{Value, json};

use crate::common::{Bundle, Sandbox, is_root, outcome};

/// A sandbox and a bundle whose `process` was changed.
fn with(change: impl FnOnce(&mut Value)) -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| change(&mut config["process"]));
    (sandbox, bundle)
}

/// What the program reads in a line of its `/proc/self/status`.
fn status(sandbox: &Sandbox, bundle: &Bundle, field: &str) -> String {
    sandbox.prints(bundle, &format!("grep ^{field}: /proc/self/status | cut -f2"))
}

#[test]
fn capabilities_have_five_sets() {
    let (sandbox, bundle) = with(|process| {
        // CAP_CHOWN 0, CAP_KILL 5, CAP_SETUID 7, CAP_NET_BIND_SERVICE 10
        process["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_BIND_SERVICE"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
            "inheritable": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "ambient": ["CAP_NET_BIND_SERVICE"],
        });
        // As an ordinary user, whose exec keeps what is ambient alone.
        process["user"] = json!({ "uid": 7, "gid": 8 });
        process["noNewPrivileges"] = true.into();
    });
    let sets = sandbox.prints(&bundle, "grep ^Cap /proc/self/status | cut -f2");
    let expected = [
        "0000000000000420",
        "0000000000000400",
        "0000000000000400",
        "00000000000004a1",
        "0000000000000400",
    ];
    assert_eq!(
        sets.lines().collect::<Vec<_>>(),
        expected,
        "inheritable permitted effective bounding ambient"
    );
}

#[test]
fn root_has_what_is_permitted_and_nothing_to_inherit() {
    let (sandbox, bundle) = with(|_| ());
    let sets = sandbox.prints(&bundle, "grep ^Cap /proc/self/status | cut -f2");
    let own = "0000000020000420";
    assert_eq!(
        sets.lines().collect::<Vec<_>>(),
        ["0000000000000000", own, own, own, "0000000000000000"]
    );
}

#[test]
fn without_capabilities_there_are_none() {
    let (sandbox, bundle) = with(|process| {
        process["capabilities"] = json!({});
    });
    let sets = sandbox.prints(&bundle, "grep ^Cap /proc/self/status | cut -f2");
    assert_eq!(sets.lines().collect::<Vec<_>>(), ["0000000000000000"; 5]);
}

#[test]
fn limits_are_set() {
    let (sandbox, bundle) = with(|process| {
        process["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        ]);
    });
    let limits = sandbox.prints(&bundle, "grep -E '^Max (open files|core)' /proc/self/limits");
    let fields: Vec<Vec<_>> =
        limits.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(fields[0][4..6], ["0", "0"], "{limits}");
    assert_eq!(fields[1][3..5], ["77", "99"], "{limits}");
}

#[test]
fn the_mask_of_new_files_is_set() {
    let (sandbox, bundle) = with(|process| process["user"]["umask"] = 0o27.into());
    assert_eq!(sandbox.prints(&bundle, "umask"), "0027");
    let (sandbox, bundle) = with(|_| ());
    assert_eq!(sandbox.prints(&bundle, "umask"), "0022");
}

#[test]
fn user_and_groups_are_set() {
    let (sandbox, bundle) = with(|process| {
        process["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [20, 30] });
    });
    assert_eq!(sandbox.prints(&bundle, "id -u; id -g; id -G; echo $HOME"), "7\n8\n8 20 30\n/home");
}

#[test]
fn nothing_of_the_caller_s_groups_is_kept() {
    let (sandbox, bundle) = with(|_| ());
    assert_eq!(sandbox.prints(&bundle, "id -G"), "0");
}

#[test]
fn new_privileges_can_be_ruled_out() {
    for (asked, seen) in [(true, "1"), (false, "0")] {
        let (sandbox, bundle) = with(|process| process["noNewPrivileges"] = asked.into());
        assert_eq!(status(&sandbox, &bundle, "NoNewPrivs"), seen);
    }
}

#[test]
fn the_score_of_the_oom_killer_is_set() {
    let (sandbox, bundle) = with(|process| process["oomScoreAdj"] = 321.into());
    assert_eq!(sandbox.prints(&bundle, "cat /proc/self/oom_score_adj"), "321");
}

#[test]
fn the_working_directory_is_set_and_made() {
    let (sandbox, bundle) = with(|process| process["cwd"] = "/etc".into());
    assert_eq!(sandbox.prints(&bundle, "pwd; cat passwd | wc -l"), "/etc\n2");
    let (sandbox, bundle) = with(|process| process["cwd"] = "/srv/new".into());
    assert_eq!(sandbox.prints(&bundle, "pwd"), "/srv/new");
}

#[test]
fn the_program_is_found_along_its_own_path() {
    let (sandbox, bundle) = with(|process| {
        process["env"] = json!(["PATH=/elsewhere:/bin", "COLOUR=red"]);
    });
    assert_eq!(sandbox.prints(&bundle, "echo $COLOUR"), "red");
    let (sandbox, bundle) = with(|process| process["env"] = json!(["PATH=/elsewhere"]));
    sandbox.run(&bundle).complains_of(&["executable file not found in $PATH"]);
}

/// A filter that lets everything pass but `mkdir`.
fn filter(action: &str, errno: Option<u32>) -> Value {
    let mut rule = json!({ "names": ["mkdir", "mkdirat"], "action": action });
    if let Some(errno) = errno {
        rule["errnoRet"] = errno.into();
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
        "syscalls": [rule],
    })
}

fn filtered(filter: &Value, privileges: bool) -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| {
        config["linux"]["seccomp"] = filter.clone();
        config["process"]["noNewPrivileges"] = privileges.into();
    });
    (sandbox, bundle)
}

#[test]
fn a_filtered_call_fails_as_asked() {
    for new_privileges_ruled_out in [true, false] {
        for (errno, text) in
            [(None, "Operation not permitted"), (Some(28), "No space left on device")]
        {
            let (sandbox, bundle) =
                filtered(&filter("SCMP_ACT_ERRNO", errno), new_privileges_ruled_out);
            let seen = sandbox.prints(&bundle, "mkdir /new 2>&1; grep ^Seccomp: /proc/self/status");
            assert!(seen.contains(text) && seen.ends_with("\t2"), "{seen}");
        }
    }
}

#[test]
fn a_filtered_call_can_kill() {
    let (sandbox, bundle) = filtered(&filter("SCMP_ACT_KILL_PROCESS", None), true);
    assert_eq!(
        sandbox.prints(&bundle, "mkdir /new; echo $?").lines().last(),
        Some("159"),
        "128 + SIGSYS"
    );
}

#[test]
fn a_filter_looks_at_arguments() {
    // busybox asks for mode 0777 and leaves the rest to the mask.
    for (mode, fails) in [(0o777, true), (0o700, false)] {
        let mut by_mode = filter("SCMP_ACT_ERRNO", Some(28));
        let rule = |name: &str, index: u32| {
            let argument = json!({ "index": index, "value": mode, "op": "SCMP_CMP_EQ" });
            json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "args": [argument] })
        };
        by_mode["syscalls"] = json!([rule("mkdir", 1), rule("mkdirat", 2)]);
        let (sandbox, bundle) = filtered(&by_mode, true);
        let seen = sandbox.prints(&bundle, "mkdir /new 2>/dev/null; echo $?");
        assert_eq!(seen, if fails { "1" } else { "0" }, "mode {mode:o}");
    }
}

#[test]
fn exec_is_filtered_too() {
    let (sandbox, bundle) = filtered(&filter("SCMP_ACT_ERRNO", None), true);
    bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = sandbox.start(&bundle, "filtered");
    let seen = sandbox.rrun(&["exec", &id, "sh", "-c", "mkdir /new 2>&1"]).exits(1);
    assert!(seen.stdout.contains("Operation not permitted"), "{seen}");
    sandbox.remove(&id);
}

/// getenv(3) takes the first of several values, a user means the last.
#[test]
fn the_last_value_of_a_variable_counts() {
    let (sandbox, bundle) = with(|process| {
        process["env"] = json!(["PATH=/bin", "HOME=/", "A=1", "A=2"]);
        process["args"] = json!(["cat", "/proc/self/environ"]);
    });
    assert_eq!(sandbox.run(&bundle).ok().stdout, "PATH=/bin\0HOME=/\0A=2\0");
    let id = sandbox.start(&sandbox.bundle(&["sleep", "1000"]), "env");
    let environment = ["exec", "--env", "TERM=dumb", &id, "cat", "/proc/self/environ"];
    let seen = sandbox.rrun(&environment).ok().stdout;
    let terms: Vec<_> = seen.split('\0').filter(|pair| pair.starts_with("TERM=")).collect();
    assert_eq!(terms, ["TERM=dumb"]);
    sandbox.remove(&id);
}

#[test]
fn a_missing_working_directory_is_made_below_a_read_only_root() {
    let (sandbox, bundle) = with(|process| process["cwd"] = "/new/place".into());
    bundle.edit(|config| config["root"]["readonly"] = true.into());
    assert_eq!(sandbox.prints(&bundle, "pwd; touch file || echo refused"), "/new/place\nrefused");
}

/// What podman asks for with `--group-add keep-groups`.
#[test]
fn the_callers_groups_can_be_kept() {
    let (sandbox, bundle) = with(|_| {});
    bundle.edit(|config| {
        config["process"]["args"] = json!(["grep", "^Groups:", "/proc/self/status"]);
    });
    let run = |sandbox: &Sandbox| {
        let arguments =
            ["run", "--bundle", bundle.as_str(), &sandbox.id("groups")].map(str::to_owned);
        let mut command = sandbox.command(&arguments);
        if is_root() {
            let rrun = command;
            command = std::process::Command::new("setpriv");
            command.args(["--groups", "7001,7002"]).arg(rrun.get_program()).args(rrun.get_args());
        }
        outcome::spawn(&mut command).wait().ok().line().split_whitespace().count() - 1
    };
    assert_eq!(run(&sandbox), 0, "none unless asked for");
    bundle.edit(|config| config["annotations"] = json!({ "run.oci.keep_original_groups": "1" }));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
    let expected = if is_root() { 2 } else { own.split_whitespace().count() };
    assert_eq!(run(&sandbox), expected);
}

/// `sd_listen_fds(3)`: sockets of a service manager go on to the program, before other descriptors.
#[test]
fn activation_sockets_are_handed_on() {
    let (sandbox, bundle) = with(|_| {});
    let script = "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4";
    bundle.edit(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    for name in ["socket", "kept"] {
        std::fs::write(sandbox.join(name), format!("{name}\n")).unwrap();
    }
    let rrun = sandbox.command(&[
        "run",
        "--preserve-fds",
        "1",
        "--bundle",
        bundle.as_str(),
        &sandbox.id("listen"),
    ]);
    let run = |pid: &str| {
        let mut shell = std::process::Command::new("sh");
        let exec = format!("LISTEN_FDS=1 {pid} exec \"$@\" 3<\"$SOCKET\" 4<\"$KEPT\"");
        shell.args(["-c", &exec, "sh"]).arg(rrun.get_program()).args(rrun.get_args());
        shell.env("SOCKET", sandbox.join("socket")).env("KEPT", sandbox.join("kept"));
        outcome::spawn(&mut shell).wait()
    };
    assert_eq!(run("").ok().stdout, "1 1\nsocket\nkept\n");
    assert_eq!(run("LISTEN_PID=$$").ok().stdout, "1 1\nsocket\nkept\n");
    assert!(run("LISTEN_PID=1").stdout.starts_with("\nsocket\n"), "not for this process");
}
