//! `run`: the program in the foreground, as if it had no container around it.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::terminal::{ConsoleSocket, Terminal};
use crate::common::{Bundle, Outcome, Sandbox, eventually, outcome};

#[test]
fn the_exit_code_is_the_program_s() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 42, 255] {
        sandbox.run(&sandbox.bundle(&["sh", "-c", &format!("exit {code}")])).exits(code);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_signal_becomes_128_and_its_number() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", "echo ready; sleep 1000"]);
    let id = sandbox.id("killed");
    let run = sandbox.spawn(&["run", "--bundle", bundle.as_str(), &id]);
    eventually("the program runs", || run.stdout_so_far() == "ready\n");
    sandbox.rrun(&["kill", &id, "KILL"]).ok();
    run.wait().exits(137);
    sandbox.assert_nothing_left();
}

#[test]
fn the_three_streams_pass_through() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", "cat; echo complaint >&2"]);
    let mut command =
        sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("streams")]);
    let mut run = outcome::spawn(command.stdin(Stdio::piped()));
    let text = "0123456789abcde\n".repeat(1 << 16);
    run.child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let outcome = run.wait().ok();
    assert!(outcome.stdout == text, "{} of {} bytes came back", outcome.stdout.len(), text.len());
    assert_eq!(outcome.stderr, "complaint\n");
}

#[test]
fn signals_are_forwarded() {
    let sandbox = Sandbox::new();
    for (name, signal) in [
        ("TERM", Signal::SIGTERM),
        ("INT", Signal::SIGINT),
        ("USR1", Signal::SIGUSR1),
        ("HUP", Signal::SIGHUP),
    ] {
        let script = format!("trap 'exit 42' {name}; echo ready; while :; do sleep 0.02; done");
        let bundle = sandbox.bundle(&["sh", "-c", &script]);
        let run = sandbox.spawn(&["run", "--bundle", bundle.as_str(), &sandbox.id("signals")]);
        eventually("the program runs", || run.stdout_so_far() == "ready\n");
        kill(Pid::from_raw(run.child.id().try_into().unwrap()), signal).unwrap();
        run.wait().exits(42);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn the_container_goes_with_the_program_unless_kept() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let id = sandbox.id("kept");
    sandbox.rrun(&["run", "--keep", "--bundle", bundle.as_str(), &id]).ok();
    assert_eq!(sandbox.state(&id)["status"], "stopped");
    sandbox.rrun(&["delete", &id]).ok();
    sandbox.rrun(&["run", "--bundle", bundle.as_str(), &id]).ok();
    sandbox.rrun(&["state", &id]).complains_of(&["does not exist"]);
}

#[test]
fn detached_it_returns_while_the_program_runs() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let (id, file) = (sandbox.id("detached"), sandbox.join("pid"));
    sandbox
        .rrun(&[
            "run",
            "--detach",
            "--pid-file",
            file.to_str().unwrap(),
            "--bundle",
            bundle.as_str(),
            &id,
        ])
        .ok();
    assert_eq!(sandbox.state(&id)["status"], "running");
    assert_eq!(fs::read_to_string(file).unwrap(), sandbox.state(&id)["pid"].to_string());
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn no_descriptor_of_the_caller_reaches_the_program() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["ls", "/proc/self/fd"]);
    let run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("descriptors")]);
    let outcome = outcome::spawn(&mut with_descriptors(&run, &sandbox)).wait().ok();
    assert_eq!(outcome.stdout, "0\n1\n2\n3\n", "3 is the directory that it lists");
}

#[test]
fn preserved_descriptors_reach_the_program() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"]);
    let run = sandbox.command(&[
        "run",
        "--preserve-fds",
        "1",
        "--bundle",
        bundle.as_str(),
        &sandbox.id("descriptors"),
    ]);
    let outcome = outcome::spawn(&mut with_descriptors(&run, &sandbox)).wait().ok();
    assert_eq!(outcome.stdout, "extra\n5\n", "0, 1, 2, 3 and the directory listed");
}

/// `command`, run with 3 and 9 open on a file that says `extra`.
fn with_descriptors(command: &Command, sandbox: &Sandbox) -> Command {
    let file = sandbox.join("extra");
    fs::write(&file, "extra\n").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<\"$EXTRA\" 9<\"$EXTRA\"; exec \"$@\"", "sh"]).env("EXTRA", &file);
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell
}

/// A bundle whose program has a terminal.
fn with_terminal(sandbox: &Sandbox, script: &str) -> Bundle {
    let bundle = sandbox.bundle(&["sh", "-c", script]);
    bundle.edit(|config| config["process"]["terminal"] = true.into());
    bundle
}

#[test]
fn the_program_has_a_terminal_of_its_own() {
    let sandbox = Sandbox::new();
    let bundle = with_terminal(
        &sandbox,
        "tty; stty size; test -c /dev/console && echo console; read word; echo \"got $word\"; exit 5",
    );
    let mut terminal = Terminal::new();
    let before = terminal.stty(&["-g"]);
    let mut run = terminal.spawn(&sandbox.command(&[
        "run",
        "--bundle",
        bundle.as_str(),
        &sandbox.id("terminal"),
    ]));
    terminal.screen.shows("/dev/pts/0");
    terminal.screen.shows("24 80");
    terminal.screen.shows("console");
    terminal.screen.types("apples\n");
    terminal.screen.shows("got apples");
    assert_eq!(run.wait().unwrap().code(), Some(5));
    assert_eq!(terminal.stty(&["-g"]), before, "the caller's terminal is as it was");
    sandbox.assert_nothing_left();
}

#[test]
fn a_new_size_of_the_window_reaches_the_program() {
    let sandbox = Sandbox::new();
    let bundle = with_terminal(
        &sandbox,
        "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.02; done",
    );
    let terminal = Terminal::new();
    let mut run = terminal.spawn(&sandbox.command(&[
        "run",
        "--bundle",
        bundle.as_str(),
        &sandbox.id("resized"),
    ]));
    terminal.screen.shows("ready");
    terminal.stty(&["rows", "40", "cols", "100"]);
    terminal.screen.shows("40 100");
    assert!(run.wait().unwrap().success());
}

#[test]
fn control_c_reaches_the_program() {
    let sandbox = Sandbox::new();
    let bundle = with_terminal(
        &sandbox,
        "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.02; done",
    );
    let mut terminal = Terminal::new();
    let mut run = terminal.spawn(&sandbox.command(&[
        "run",
        "--bundle",
        bundle.as_str(),
        &sandbox.id("interrupted"),
    ]));
    terminal.screen.shows("ready");
    terminal.screen.types("\u{3}");
    terminal.screen.shows("caught");
    assert_eq!(run.wait().unwrap().code(), Some(9));
}

#[test]
fn all_output_arrives_before_the_end() {
    let sandbox = Sandbox::new();
    let bundle = with_terminal(&sandbox, "seq 20000; echo last");
    let terminal = Terminal::new();
    let mut run = terminal.spawn(&sandbox.command(&[
        "run",
        "--bundle",
        bundle.as_str(),
        &sandbox.id("output"),
    ]));
    assert!(run.wait().unwrap().success());
    terminal.screen.shows("\n20000\r\nlast\r\n");
}

#[test]
fn the_console_socket_receives_the_terminal() {
    let sandbox = Sandbox::new();
    let bundle =
        with_terminal(&sandbox, "tty; stty size; read word; echo \"got $word\"; sleep 1000");
    bundle.edit(|config| {
        config["process"]["consoleSize"] = serde_json::json!({ "height": 30, "width": 90 });
    });
    let (id, path) = (sandbox.id("console"), sandbox.join("console.sock"));
    let socket = ConsoleSocket::bind(&path);
    sandbox
        .rrun(&[
            "create",
            "--bundle",
            bundle.as_str(),
            "--console-socket",
            path.to_str().unwrap(),
            &id,
        ])
        .ok();
    let mut screen = socket.receive();
    sandbox.rrun(&["start", &id]).ok();
    screen.shows("/dev/pts/0");
    screen.shows("30 90");
    screen.types("pears\n");
    screen.shows("got pears");
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn a_detached_terminal_needs_a_socket_and_a_socket_a_terminal() {
    let sandbox = Sandbox::new();
    let (id, path) = (sandbox.id("console"), sandbox.join("console.sock"));
    let _socket = ConsoleSocket::bind(&path);
    let bundle = with_terminal(&sandbox, "test -t 0; echo $? > /answer; sleep 1000");
    sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).complains_of(&["console socket"]);
    // In the background people get along without.
    let outcome = sandbox.rrun(&["run", "--detach", "--bundle", bundle.as_str(), &id]).ok();
    assert!(outcome.stderr.contains("warning: /process/terminal"), "{outcome}");
    let answer = "until [ -s /answer ]; do sleep 0.01; done; cat /answer";
    assert_eq!(sandbox.rrun(&["exec", &id, "sh", "-c", answer]).ok().line(), "1");
    sandbox.remove(&id);
    let plain = sandbox.bundle(&["true"]);
    sandbox
        .rrun(&[
            "create",
            "--bundle",
            plain.as_str(),
            "--console-socket",
            path.to_str().unwrap(),
            &id,
        ])
        .complains_of(&["console socket"]);
    sandbox.assert_nothing_left();
}

#[test]
fn the_environment_is_the_config_s_alone() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["env"]);
    let mut command =
        sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("environment")]);
    command.env("_OCI_SYNCPIPE", "3").env("SECRET", "1");
    let outcome = outcome::spawn(&mut command).wait().ok();
    let mut names: Vec<_> =
        outcome.stdout.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "PATH", "TERM"], "{outcome}");
    assert!(outcome.stdout.contains("HOME=/root\n"), "from /etc/passwd: {outcome}");
}

/// Runs `bundle` with `text` on its standard input, which then ends.
fn fed(sandbox: &Sandbox, bundle: &Bundle, text: &str) -> Outcome {
    let mut command = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("fed")]);
    let mut run = outcome::spawn(command.stdin(Stdio::piped()));
    run.child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    run.wait()
}

#[test]
fn a_terminal_s_reader_sees_the_end_of_the_input() {
    let sandbox = Sandbox::new();
    let bundle = with_terminal(&sandbox, "stty -echo; echo ready; cat; echo $?");
    // Nothing is on the standard input of this one.
    assert_eq!(sandbox.run(&bundle).ok().stdout, "ready\n0\n");
    assert_eq!(fed(&sandbox, &bundle, "").ok().stdout, "ready\n0\n");
    let bundle = with_terminal(&sandbox, "exec cat");
    // Each line is shown by the terminal when it is typed and by the program when it is read.
    for (text, shown) in [("text\n", "text\ntext\n"), ("no line", "no lineno line"), ("\n", "\n\n")]
    {
        assert_eq!(fed(&sandbox, &bundle, text).ok().stdout, shown, "{text:?}");
    }
}

#[test]
fn a_shell_with_a_terminal_ends_with_the_input() {
    let sandbox = Sandbox::new();
    let bundle = with_terminal(&sandbox, "exec sh");
    sandbox.run(&bundle).ok();
    let outcome = fed(&sandbox, &bundle, "echo $((40 + 2))\n").ok();
    assert!(outcome.stdout.contains("\n42\n"), "{outcome}");
}

#[test]
fn a_closed_standard_input_is_an_empty_one() {
    let sandbox = Sandbox::new();
    let bundle = with_terminal(&sandbox, "exec cat");
    let run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("closed")]);
    let mut shell = Command::new("sh");
    shell.args(["-c", r#""$0" "$@" <&-"#]).arg(run.get_program()).args(run.get_args());
    shell.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_eq!(outcome::spawn(&mut shell).wait().ok().stdout, "");
}
