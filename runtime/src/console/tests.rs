use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read as _, Write as _, pipe};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{Pid, getegid, geteuid, isatty, tcgetpgrp};

use super::relay::{RawTerminal, Relay, keep_line_ends};
use super::*;
use crate::sys::filter::tests::in_child;
use crate::sys::process::{Child, pidfd_open};

/// Runs `body` with a devpts of its own, as root of a user namespace of its own, so that anybody may.
fn with_devpts(body: impl FnOnce(&File)) {
    let directory = tempfile::tempdir().unwrap();
    let (uid, gid) = (geteuid(), getegid());
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ] {
            fs::write(Path::new("/proc/self").join(file), text).unwrap();
        }
        let options = Some("newinstance,ptmxmode=0666,mode=0620");
        let path = directory.path();
        mount(Some("devpts"), path, Some("devpts"), MsFlags::empty(), options).unwrap();
        body(&File::open(path).unwrap());
    });
}

/// A shell whose standard files are the terminal.
fn shell(pty: &Pty, script: &str) -> (std::process::Child, Child) {
    let side = || Stdio::from(pty.peer.try_clone().unwrap());
    let spawned = Command::new("sh")
        .args(["-c", script])
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(spawned.id()).unwrap());
    (spawned, Child { pid, pidfd: pidfd_open(pid).unwrap() })
}

#[test]
fn a_terminal_comes_out_of_devpts_alone() {
    with_devpts(|devpts| {
        let pty = open(devpts.as_fd(), Some((132, 43))).unwrap();
        assert!(isatty(&pty.peer).unwrap());
        assert_eq!(terminal::number(&pty.master).unwrap(), 0);
        assert_eq!(terminal::size(&pty.peer).unwrap(), Size { rows: 43, columns: 132 });
        assert_eq!(terminal::number(&open(devpts.as_fd(), None).unwrap().master).unwrap(), 1);
    });
    let fake = tempfile::tempdir().unwrap();
    let directory = File::open(fake.path()).unwrap();
    fs::write(fake.path().join("ptmx"), "").unwrap();
    let error = open(directory.as_fd(), None).unwrap_err().to_string();
    assert!(error.contains("not that of a devpts"), "{error}");
    fs::remove_file(fake.path().join("ptmx")).unwrap();
    std::os::unix::fs::symlink("/dev/ptmx", fake.path().join("ptmx")).unwrap();
    let error = open(directory.as_fd(), None).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Errno::ELOOP), "{error:#}");
}

#[test]
fn a_process_takes_a_terminal_as_its_own() {
    with_devpts(|devpts| {
        let pty = open(devpts.as_fd(), None).unwrap();
        take(&pty.peer).unwrap();
        assert!(isatty(io::stdin()).unwrap() && isatty(io::stderr()).unwrap());
        assert_eq!(tcgetpgrp(io::stdin()).unwrap(), getpid());
        // The name of whatever terminal controls the caller leads here now.
        let controlling = File::open("/dev/tty").unwrap();
        assert_eq!(fstat(&controlling).unwrap().st_rdev, 0x500);
        assert!(isatty(&controlling).unwrap());
        // A master that is closed hangs up, which would end the test before its verdict.
        std::mem::forget(pty);
    });
}

#[test]
fn an_engine_gets_the_master_through_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    for (directory, name) in [(directory.path(), "short"), (&deep, "long")] {
        // A path too long to listen at has a shorter one.
        let opened = File::open(directory).unwrap();
        let short = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
        let listener = UnixListener::bind(short).unwrap();
        let path = directory.join(name);
        let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        let number = terminal::number(&master).unwrap();
        send_master(&path, &OwnedFd::from(master)).unwrap();

        let (engine, _) = listener.accept().unwrap();
        let mut text = [0; 64];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut buffers = [IoSliceMut::new(&mut text)];
        let fd = engine.as_raw_fd();
        let received =
            recvmsg::<()>(fd, &mut buffers, Some(&mut space), MsgFlags::empty()).unwrap();
        let length = received.bytes;
        let Some(ControlMessageOwned::ScmRights(fds)) = received.cmsgs().unwrap().next() else {
            panic!("no descriptor")
        };
        let got = terminal::tests::own(fds[0]);
        assert_eq!(terminal::number(&got).unwrap(), number);
        assert_eq!(text[..length], *format!("/dev/pts/{number}").as_bytes());
    }
    let error = send_master(Path::new("/nowhere"), &OwnedFd::from(pipe().unwrap().1)).unwrap_err();
    assert!(format!("{error:#}").contains("console socket /nowhere"), "{error:#}");
}

#[test]
fn nothing_of_the_output_is_lost_however_slow_the_reader() {
    const LINES: usize = 20_000;
    with_devpts(|devpts| {
        let pty = open(devpts.as_fd(), None).unwrap();
        let (nothing, _keep_open) = pipe().unwrap();
        let (mut shown, output) = pipe().unwrap();
        let script = format!("i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); done; exit 7");
        // The reader is a process: a thread would outlive the fork it is born in.
        let out = tempfile::NamedTempFile::new().unwrap();
        let slow = Command::new("sh")
            .args(["-c", "sleep 0.2; cat > $0"])
            .arg(out.path())
            .stdin(shown.try_clone().unwrap())
            .spawn();
        let foreground = Foreground::begin().unwrap();
        keep_line_ends(&pty.master).unwrap();
        let (_spawned, child) = shell(&pty, &script);
        let Pty { master, peer } = pty;
        drop(peer);
        let mut relay = Relay::new(nothing.as_fd(), output.as_fd(), master).unwrap();
        let ended = foreground.accompany(&child, Some(&mut relay)).unwrap();
        assert_eq!(foreground::exit_code(ended), 7);
        drop(output);
        slow.unwrap().wait().unwrap();
        let expected = (0..LINES).map(|line| format!("{line}\n")).collect::<String>();
        let text = fs::read_to_string(out.path()).unwrap();
        let same = text.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
        assert_eq!((same, text.len()), (expected.len(), expected.len()));
        assert_eq!(shown.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn what_is_typed_arrives() {
    with_devpts(|devpts| {
        let pty = open(devpts.as_fd(), None).unwrap();
        let (input, mut keys) = pipe().unwrap();
        let (mut shown, output) = pipe().unwrap();
        let foreground = Foreground::begin().unwrap();
        let (_spawned, child) = shell(&pty, "stty -echo; read line; echo got $line; exit 3");
        let Pty { master, peer } = pty;
        drop(peer);
        keys.write_all(b"hello\n").unwrap();
        drop(keys); // the end of the input ends neither the program nor its output
        let mut relay = Relay::new(input.as_fd(), output.as_fd(), master).unwrap();
        let ended = foreground.accompany(&child, Some(&mut relay)).unwrap();
        assert_eq!(foreground::exit_code(ended), 3);
        drop(relay);
        drop(output);
        let mut text = String::new();
        shown.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("got hello\n"), "{text:?}");
    });
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_program() {
    with_devpts(|devpts| {
        let pty = open(devpts.as_fd(), None).unwrap();
        let (input, _keep_open) = pipe().unwrap();
        let (shown, output) = pipe().unwrap();
        drop(shown);
        let foreground = Foreground::begin().unwrap();
        let (_spawned, child) = shell(&pty, "head -c 100000 /dev/zero; exit 5");
        let Pty { master, peer } = pty;
        drop(peer);
        let mut relay = Relay::new(input.as_fd(), output.as_fd(), master).unwrap();
        let ended = foreground.accompany(&child, Some(&mut relay)).unwrap();
        assert_eq!(foreground::exit_code(ended), 5);
    });
}

/// A shell that lets all signals in, as a container's program does, and then runs `script`.
fn program(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let before = SigSet::thread_get_mask().unwrap();
    SigSet::empty().thread_set_mask().unwrap();
    #[expect(clippy::zombie_processes, reason = "what is tested reaps it")]
    let spawned = command.spawn().unwrap();
    before.thread_set_mask().unwrap();
    let pid = Pid::from_raw(i32::try_from(spawned.id()).unwrap());
    Child { pid, pidfd: pidfd_open(pid).unwrap() }
}

#[test]
fn signals_go_to_the_program() {
    for (signal, expected) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)]
    {
        in_child(|| {
            let foreground = Foreground::begin().unwrap();
            let child = program("exec sleep 100");
            nix::sys::signal::raise(Signal::SIGURG).unwrap();
            nix::sys::signal::raise(signal).unwrap();
            assert_eq!(foreground.wait(&child, None).unwrap(), expected);
        });
    }
}

#[test]
fn a_program_that_has_ended_long_ago_is_not_waited_for() {
    in_child(|| {
        let foreground = Foreground::begin().unwrap();
        let child = program("exit 9");
        assert!(crate::sys::process::has_ended(child.pidfd.as_fd(), 10_000).unwrap());
        assert_eq!(foreground.wait(&child, None).unwrap(), 9);
    });
}

#[test]
fn a_raw_terminal_is_restored() {
    with_devpts(|devpts| {
        let pty = open(devpts.as_fd(), None).unwrap();
        let settings = || nix::sys::termios::tcgetattr(&pty.peer).unwrap();
        let before = settings();
        let raw = RawTerminal::enter(pty.peer.as_fd()).unwrap().unwrap();
        assert!(!settings().local_flags.contains(nix::sys::termios::LocalFlags::ICANON));
        drop(raw);
        assert_eq!(settings(), before);
    });
    assert!(RawTerminal::enter(pipe().unwrap().0.as_fd()).unwrap().is_none());
}
