//! `exec`: one more process in a container that runs.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::common::terminal::{ConsoleSocket, Terminal};
use crate::common::{
    OVERWRITE_PROGRAMS, Outcome, Sandbox, descriptor, is_root, outcome, rrun_binary,
};

/// A container that sleeps, and its id.
fn sleeping() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    fs::write(bundle.inside("/etc/not-executable"), "no").unwrap();
    let id = sandbox.start(&bundle, "exec");
    (sandbox, id)
}

/// `exec` with `flags` and the shell `script`.
fn shell(sandbox: &Sandbox, flags: &[&str], id: &str, script: &str) -> Outcome {
    sandbox.rrun(&[&["exec"], flags, &[id, "sh", "-c", script]].concat())
}

#[test]
fn the_exit_code_is_the_process_s() {
    let (sandbox, id) = sleeping();
    shell(&sandbox, &[], &id, "exit 0").exits(0);
    shell(&sandbox, &[], &id, "exit 42").exits(42);
    shell(&sandbox, &[], &id, "kill -9 $$").exits(137);
    shell(&sandbox, &[], &id, "kill -TERM $$").exits(143);
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn the_three_streams_pass_through() {
    let (sandbox, id) = sleeping();
    let mut command = sandbox.command(&["exec", &id, "sh", "-c", "cat; echo complaint >&2"]);
    let mut exec = outcome::spawn(command.stdin(Stdio::piped()));
    exec.child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let outcome = exec.wait().ok();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("through\n", "complaint\n"));
}

#[test]
fn it_is_in_every_namespace_of_the_container() {
    let (sandbox, id) = sleeping();
    let script = "for kind in cgroup ipc mnt net pid user uts; do for id in self 1; do readlink /proc/$id/ns/$kind; done; done";
    let outcome = shell(&sandbox, &[], &id, script).ok();
    let links: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(links.len(), 14, "{outcome}");
    assert!(links.chunks(2).all(|pair| pair[0] == pair[1]), "{outcome}");
}

#[test]
fn it_is_in_the_cgroups_of_the_container() {
    let (sandbox, id) = sleeping();
    let outcome =
        shell(&sandbox, &[], &id, "diff /proc/self/cgroup /proc/1/cgroup && echo same").ok();
    assert_eq!(outcome.stdout, "same\n");
}

#[test]
fn directory_environment_and_user_can_be_given() {
    let (sandbox, id) = sleeping();
    let printed =
        |flags: &[&str], script| shell(&sandbox, flags, &id, script).ok().line().to_owned();
    assert_eq!(printed(&["--cwd", "/etc"], "pwd"), "/etc");
    assert_eq!(printed(&["--env", "A=1", "-e", "B=2 3"], "echo $A $B $TERM"), "1 2 3 xterm");
    assert_eq!(printed(&["--user", "7:8"], "id -u; id -g"), "7\n8");
    assert_eq!(printed(&["-u", "7"], "id -u; id -g"), "7\n0");
    assert_eq!(
        printed(&["--user", "7:8", "--additional-gids", "9", "-g", "10"], "id -G"),
        "8 9 10"
    );
}

#[test]
fn a_user_is_a_number_and_never_a_guess() {
    let (sandbox, id) = sleeping();
    for user in ["ada", "-1", "7:", ":7", "7:8:9", "0x0", "4294967296", "", " 7"] {
        let outcome = sandbox.rrun(&["exec", &format!("--user={user}"), &id, "id"]);
        assert_ne!(outcome.code, 0, "{outcome}");
        assert_eq!(outcome.stdout, "", "{outcome}");
    }
}

#[test]
fn capabilities_are_the_container_s_and_those_added() {
    let (sandbox, id) = sleeping();
    // CAP_AUDIT_WRITE 29, CAP_KILL 5, CAP_NET_BIND_SERVICE 10, CAP_CHOWN 0
    let sets = "grep -E 'Cap(Inh|Prm|Eff|Bnd)' /proc/self/status | cut -f2";
    let own =
        ["0000000000000000", "0000000020000420", "0000000020000420", "0000000020000420"].join("\n");
    assert_eq!(shell(&sandbox, &[], &id, sets).ok().line(), own);
    let more = shell(&sandbox, &["--cap", "CAP_CHOWN"], &id, sets).ok();
    assert!(more.stdout.lines().skip(1).all(|set| set == "0000000020000421"), "{more}");
    assert_eq!(more.stdout.lines().next(), Some("0000000000000000"), "nothing becomes inheritable");
}

#[test]
fn a_process_file_says_it_all() {
    let (sandbox, id) = sleeping();
    let file = sandbox.join("process.json");
    let process = json!({
        "user": { "uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o27 },
        "args": ["sh", "-c", "id -u; id -G; pwd; umask; echo $COLOUR; grep NoNewPrivs /proc/self/status | cut -f2; ulimit -n; exit 3"],
        "env": ["PATH=/bin", "COLOUR=red"],
        "cwd": "/tmp",
        "noNewPrivileges": true,
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }],
    });
    fs::write(&file, process.to_string()).unwrap();
    let outcome = sandbox.rrun(&["exec", "--process", file.to_str().unwrap(), &id]).exits(3);
    assert_eq!(outcome.stdout, "7\n8 9\n/tmp\n0027\nred\n1\n77\n");
}

#[test]
fn detached_it_returns_while_the_process_runs() {
    let (sandbox, id) = sleeping();
    let file = sandbox.join("pid");
    sandbox
        .rrun(&["exec", "--detach", "--pid-file", file.to_str().unwrap(), &id, "sleep", "2000"])
        .ok();
    let pid = fs::read_to_string(file).unwrap();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, "sleep\x002000\0");
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn it_may_have_a_terminal() {
    let (sandbox, id) = sleeping();
    let mut terminal = Terminal::new();
    let script = "tty; stty size; read word; echo \"got $word\"; exit 6";
    let mut exec = terminal.spawn(&sandbox.command(&["exec", "--tty", &id, "sh", "-c", script]));
    terminal.screen.shows("/dev/pts/0");
    terminal.screen.shows("24 80");
    terminal.screen.types("plums\n");
    terminal.screen.shows("got plums");
    assert_eq!(exec.wait().unwrap().code(), Some(6));
}

#[test]
fn the_console_socket_receives_its_terminal() {
    let (sandbox, id) = sleeping();
    let path = sandbox.join("console.sock");
    let socket = ConsoleSocket::bind(&path);
    let flags = ["--tty", "--detach", "--console-socket", path.to_str().unwrap()];
    shell(&sandbox, &flags, &id, "tty; sleep 1000").ok();
    socket.receive().shows("/dev/pts/0");
    sandbox.remove(&id);
}

#[test]
fn engines_find_out_why_it_did_not_start() {
    let (sandbox, id) = sleeping();
    let absent = sandbox.rrun(&["exec", &id, "no-such-program"]).exits(255);
    absent.complains_of(&["no-such-program", "executable file not found in $PATH"]);
    let absent = sandbox.rrun(&["exec", &id, "/no/such/program"]).exits(255);
    absent.complains_of(&["/no/such/program", "no such file or directory"]);
    let refused = sandbox.rrun(&["exec", &id, "/etc/not-executable"]).exits(255);
    refused.complains_of(&["/etc/not-executable", "permission denied"]);
    sandbox.rrun(&["exec", "--cwd", "/no/where", &id, "true"]).complains_of(&["/no/where"]);
}

#[test]
fn a_created_container_takes_it_too() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let id = sandbox.id("created");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    sandbox.rrun(&["exec", &id, "true"]).ok();
    assert_eq!(sandbox.state(&id)["status"], "created");
    sandbox.rrun(&["delete", "--force", &id]).ok();
    sandbox.assert_nothing_left();
}

#[test]
fn no_descriptor_of_the_caller_reaches_it() {
    let (sandbox, id) = sleeping();
    let listed = shell(&sandbox, &[], &id, "ls /proc/self/fd").ok();
    assert_eq!(listed.stdout, "0\n1\n2\n3\n", "3 is the directory that it lists");
}

#[test]
fn preserved_descriptors_reach_it() {
    let (sandbox, id) = sleeping();
    let file = sandbox.join("extra");
    fs::write(&file, "extra\n").unwrap();
    let exec = sandbox.command(&["exec", "--preserve-fds", "1", &id, "cat", "/proc/self/fd/3"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<\"$EXTRA\"; exec \"$@\"", "sh"]).env("EXTRA", &file);
    shell.arg(exec.get_program()).args(exec.get_args()).stdin(Stdio::null());
    assert_eq!(outcome::spawn(&mut shell).wait().ok().stdout, "extra\n");
}

#[test]
fn new_privileges_can_be_ruled_out() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    bundle.edit(|config| config["process"]["noNewPrivileges"] = false.into());
    let id = sandbox.start(&bundle, "privileges");
    for (flags, seen) in [(&[][..], "0"), (&["--no-new-privs"], "1")] {
        let script = "grep NoNewPrivs /proc/self/status | cut -f2";
        assert_eq!(shell(&sandbox, flags, &id, script).ok().line(), seen);
    }
    sandbox.remove(&id);
}

/// The runtime that enters a container must not give it a way to overwrite the runtime's binary
/// (CVE-2019-5736): a program inside opens every foreign executable it sees, and writes to it
/// when it no longer runs.
#[test]
fn the_runtime_s_binary_is_not_written_through_it() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", OVERWRITE_PROGRAMS]);
    fs::write(bundle.inside("/bin/trap"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(bundle.inside("/bin/trap"), Permissions::from_mode(0o755)).unwrap();
    let binary = sandbox.join("rrun");
    fs::copy(rrun_binary(), &binary).unwrap();
    let id = sandbox.start(&bundle, "sealed");
    for program in ["/bin/trap", "true"].repeat(20) {
        let mut command = Command::new(&binary);
        command.arg("--root").arg(sandbox.root()).args(["exec", &id, program]);
        outcome::spawn(&mut command).wait();
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(sandbox.state(&id)["status"], "running", "the attack goes on");
    assert!(fs::read(&binary).unwrap() == fs::read(rrun_binary()).unwrap(), "overwritten");
}

#[test]
fn a_pidfd_is_sent_to_who_listens() {
    let (sandbox, id) = sleeping();
    let path = sandbox.join("pidfd");
    let listening = UnixListener::bind(&path).unwrap();
    let socket = path.to_str().unwrap();
    let file = sandbox.join("pid");
    let flags = ["--detach", "--pidfd-socket", socket, "--pid-file", file.to_str().unwrap()];
    sandbox.rrun(&[&["exec"], &flags[..], &[&id, "sleep", "1000"]].concat()).ok();
    assert_eq!(number_behind(&listening), fs::read_to_string(file).unwrap());

    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let other = sandbox.id("pidfd");
    let create = ["create", "--pidfd-socket", socket, "--bundle", bundle.as_str(), &other];
    sandbox.rrun(&create).ok();
    assert_eq!(number_behind(&listening), sandbox.state(&other)["pid"].to_string());
    drop(listening);
    let exec = ["exec", "--pidfd-socket", socket, &id, "true"];
    sandbox.rrun(&exec).complains_of(&["send a pidfd", "Connection refused"]);
    sandbox.remove(&other);
    sandbox.remove(&id);
}

/// The number of the process whose pidfd comes out of `listening`.
fn number_behind(listening: &UnixListener) -> String {
    let (_text, pidfd) = descriptor::receive(&listening.accept().unwrap().0);
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = fs::read_to_string(path).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:\t")).unwrap().to_owned()
}

#[test]
fn a_paused_container_is_entered_when_it_is_resumed() {
    let (sandbox, id) = sleeping();
    if !sandbox.pauses(&id) {
        return sandbox.remove(&id);
    }
    sandbox.rrun(&["exec", &id, "true"]).complains_of(&["paused container", "--ignore-paused"]);
    let exec = sandbox.spawn(&["exec", "--ignore-paused", &id, "echo", "resumed"]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(exec.stdout_so_far(), "");
    sandbox.rrun(&["resume", &id]).ok();
    assert_eq!(exec.wait().ok().stdout, "resumed\n");
    sandbox.remove(&id);
}

#[test]
fn labels_of_exec_need_their_security_module() {
    let (sandbox, id) = sleeping();
    for (flag, pointer) in
        [("--apparmor", "/process/apparmorProfile"), ("--process-label", "/process/selinuxLabel")]
    {
        let exec = ["exec", flag, "rrun-no-such-label", &id, "true"];
        sandbox.rrun(&exec).complains_of(&[pointer]);
    }
    sandbox.remove(&id);
}

/// As with runc: the runtime may enter a directory that the program's user may not.
#[test]
fn the_working_directory_may_be_one_that_only_the_runtime_may_enter() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let home = bundle.inside("/private");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    bundle.edit(|config| config["process"]["cwd"] = "/private".into());
    let id = sandbox.start(&bundle, "private");
    let exec = ["exec", "--user", "42:42", &id, "sh", "-c", "pwd; ls . || echo refused"];
    assert_eq!(sandbox.rrun(&exec).ok().line(), "/private\nrefused");
    if is_root() {
        std::os::unix::fs::chown(&home, Some(43), Some(43)).unwrap();
    }
    assert_eq!(sandbox.rrun(&exec).ok().line(), "/private\nrefused");
    sandbox.remove(&id);
}

/// As with runc: what the container may inherit already becomes ambient.
#[test]
fn a_capability_that_is_inheritable_becomes_ambient() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL"], "inheritable": ["CAP_CHOWN"], // 0 and 5
        });
    });
    let id = sandbox.start(&bundle, "ambient");
    let exec = [
        "exec",
        "--cap",
        "CAP_CHOWN",
        "--cap",
        "CAP_KILL",
        &id,
        "grep",
        "^Cap",
        "/proc/self/status",
    ];
    let seen = sandbox.rrun(&exec).ok().stdout.replace('\t', " ");
    for line in ["CapInh: 0000000000000001", "CapAmb: 0000000000000001", "CapPrm: 0000000000000021"]
    {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    sandbox.remove(&id);
}

#[test]
fn the_terminal_of_a_process_file_has_its_size() {
    let (sandbox, id) = sleeping();
    let file = sandbox.join("process.json");
    let process = json!({
        "cwd": "/", "user": {}, "args": ["stty", "size"], "env": ["PATH=/bin"],
        "terminal": true, "consoleSize": { "height": 31, "width": 91 },
    });
    fs::write(&file, process.to_string()).unwrap();
    let exec = ["exec", "--process", file.to_str().unwrap(), &id];
    assert_eq!(sandbox.rrun(&exec).ok().line(), "31 91");
    sandbox.remove(&id);
}
