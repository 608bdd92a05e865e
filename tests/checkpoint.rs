//! `checkpoint` and `restore`, with a stand-in for CRIU that speaks its RPC: what CRIU does with the
//! request is not ours to test, and it does not run on every kernel.
//!
//! The stand-in is a test of this file that a script named `criu` runs. It understands messages by
//! the numbers in CRIU's `rpc.proto` alone, and knows nothing of how rrun writes them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{Pid, getppid};

use crate::common::outcome::{self, Outcome};
use crate::common::{Bundle, Sandbox, eventually, is_root, needs};

/// `criu_req_type`
const DUMP: u64 = 1;
const RESTORE: u64 = 2;
const PRE_DUMP: u64 = 4;
const NOTIFY: u64 = 6;

/// A field's value, as it is on the wire.
#[derive(Debug, Clone, PartialEq)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message, by number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (field, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(field.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        all.push((tag >> 3, field));
    }
    all
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// A message of numbers and texts; negative numbers are not needed.
fn message(parts: &[(u8, Field)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let write = |bytes: &mut Vec<u8>, mut number: u64| {
        while number > 0x7f {
            bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
    };
    for (number, field) in parts {
        match field {
            Field::Number(value) => {
                bytes.push(number << 3);
                write(&mut bytes, *value);
            }
            Field::Bytes(value) => {
                bytes.push(number << 3 | 2);
                write(&mut bytes, value.len() as u64);
                bytes.extend(value);
            }
        }
    }
    bytes
}

/// The stand-in's side of the socket.
struct Socket(i32);

impl Socket {
    fn receive(&self) -> Vec<(u64, Field)> {
        let mut bytes = vec![0; 1 << 16];
        let length = recv(self.0, &mut bytes, MsgFlags::empty()).unwrap();
        fields(&bytes[..length])
    }

    fn send(&self, parts: &[(u8, Field)]) {
        send(self.0, &message(parts), MsgFlags::empty()).unwrap();
    }

    /// Tells of a turn, and waits for the answer.
    fn notify(&self, script: &str, pid: u64) {
        let notice = message(&[(1, Field::Bytes(script.into())), (2, Field::Number(pid))]);
        self.send(&[(1, Field::Number(NOTIFY)), (2, Field::Number(1)), (5, Field::Bytes(notice))]);
        let answer = self.receive();
        assert_eq!(answer, [(1, Field::Number(NOTIFY)), (3, Field::Number(1))], "{script}");
    }
}

/// Runs only as `criu`: what it is to do is in its environment.
#[test]
fn stand_in() {
    let Ok(socket) = std::env::var("STAND_IN_SOCKET") else { return };
    let place = PathBuf::from(std::env::var("STAND_IN_PLACE").unwrap());
    let socket = Socket(socket.parse().unwrap());
    let request = socket.receive();
    let number = |all: &[(u64, Field)], wanted| {
        all.iter().find_map(|(number, field)| match field {
            Field::Number(value) if *number == wanted => Some(*value),
            _ => None,
        })
    };
    let kind = number(&request, 1).unwrap();
    let Some((_, Field::Bytes(options))) = request.iter().find(|(number, _)| *number == 2) else {
        panic!("no options");
    };
    let options = fields(options);
    fs::write(place.join("request"), described(kind, &options)).unwrap();
    // The directories are descriptors of who asks.
    let work = number(&options, 17).or_else(|| number(&options, 1)).unwrap();
    let work = PathBuf::from(format!("/proc/{}/fd/{work}", getppid()));
    assert!(work.is_dir(), "{}", work.display());
    if place.join("refuse").exists() {
        let log = "(00.1) fine\n(00.2) Error (criu/x.c:1): no such luck\n";
        fs::write(work.join("dump.log"), log).unwrap();
        let refused = [(1, kind), (2, 0), (7, 52)];
        socket.send(&refused.map(|(number, value)| (number, Field::Number(value))));
        return;
    }
    let mut answer = vec![(1, Field::Number(kind)), (2, Field::Number(1))];
    if kind == RESTORE {
        let pid = restore(&socket, &place);
        answer.push((4, Field::Bytes(message(&[(1, Field::Number(pid))]))));
    } else {
        socket.notify("network-lock", 0);
        socket.notify("status-ready", 0);
        if kind == DUMP && number(&options, 3) != Some(1) {
            let pid = i32::try_from(number(&options, 2).unwrap()).unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    }
    socket.send(&answer);
}

/// Makes a process that ends with code 7, whoever it belongs to then, and tells of it.
#[expect(
    clippy::zombie_processes,
    reason = "it outlives this process, and is somebody else's then"
)]
fn restore(socket: &Socket, place: &Path) -> u64 {
    let program = "cat /proc/self/cgroup >\"$0/cgroup\"; sleep 1; exit 7";
    let child = Command::new("sh").args(["-c", program]).arg(place).spawn().unwrap();
    let pid = u64::from(child.id());
    socket.notify("setup-namespaces", pid);
    socket.notify("post-restore", pid);
    pid
}

/// One line for each field: its number, and its value or the fields in it.
fn described(kind: u64, options: &[(u64, Field)]) -> String {
    let mut text = format!("type {kind}\n");
    for (number, field) in options {
        match field {
            Field::Number(value) => writeln!(text, "{number} {value}").unwrap(),
            // Those that are messages of two fields: mounts, descriptors, cgroups.
            Field::Bytes(bytes) if [11, 23, 25, 27, 39].contains(number) => {
                let parts = fields(bytes);
                let parts = parts.iter().map(|(_, field)| match field {
                    Field::Number(value) => value.to_string(),
                    Field::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
                });
                writeln!(text, "{number} {}", parts.collect::<Vec<_>>().join("=")).unwrap();
            }
            Field::Bytes(bytes) => {
                writeln!(text, "{number} {}", String::from_utf8_lossy(bytes)).unwrap();
            }
        }
    }
    text
}

/// A place with a `criu` in it, and a container to save.
struct Stage {
    sandbox: Sandbox,
    place: PathBuf,
    bundle: Bundle,
}

impl Stage {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let place = sandbox.directory("stand-in");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = swrk ] || exit 9\nexport STAND_IN_SOCKET=\"$2\" \
             STAND_IN_PLACE='{}'\nexec '{}' --exact checkpoint::stand_in --nocapture\n",
            place.display(),
            std::env::current_exe().unwrap().display()
        );
        fs::write(place.join("criu"), script).unwrap();
        fs::set_permissions(place.join("criu"), fs::Permissions::from_mode(0o755)).unwrap();
        let bundle = sandbox.bundle(&["sleep", "1000"]);
        fs::create_dir(sandbox.join("data-of-host")).unwrap();
        let source = sandbox.join("data-of-host");
        bundle.mount("/data", "bind", source.to_str().unwrap(), &["bind"]);
        Self { sandbox, place, bundle }
    }

    fn path(&self) -> String {
        format!("{}:{}", self.place.display(), std::env::var("PATH").unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        command.env("PATH", self.path());
        command
    }

    fn rrun(&self, args: &[&str]) -> Outcome {
        outcome::spawn(&mut self.command(args)).wait()
    }

    /// What CRIU was asked for: the kind, and the values of each field.
    fn request(&self) -> (u64, HashMap<u32, Vec<String>>) {
        let text = fs::read_to_string(self.place.join("request")).unwrap();
        let (kind, rest) = text.split_once('\n').unwrap();
        let mut all: HashMap<u32, Vec<String>> = HashMap::new();
        for line in rest.lines() {
            let (number, value) = line.split_once(' ').unwrap();
            all.entry(number.parse().unwrap()).or_default().push(value.to_owned());
        }
        (kind.strip_prefix("type ").unwrap().parse().unwrap(), all)
    }

    fn images(&self) -> String {
        self.sandbox.join("images").to_str().unwrap().to_owned()
    }
}

fn has(all: &HashMap<u32, Vec<String>>, number: u32, value: &str) -> bool {
    all.get(&number).is_some_and(|values| values.iter().any(|one| one == value))
}

#[test]
fn a_saved_container_is_gone() {
    let stage = Stage::new();
    let id = stage.sandbox.start(&stage.bundle, "saved");
    let pid = stage.sandbox.state(&id)["pid"].to_string();
    let images = stage.images();
    stage
        .rrun(&["checkpoint", "--image-path", &images, "--tcp-established", "--file-locks", &id])
        .ok();
    let (kind, options) = stage.request();
    assert_eq!(kind, DUMP);
    let rootfs = stage.bundle.rootfs();
    for (number, value) in [
        (2, pid.as_str()),
        (3, "0"),
        (4, "0"),
        (5, "1"),
        (7, "0"),
        (8, "1"),
        (9, "4"),
        (10, "dump.log"),
        (12, "1"),
        (13, rootfs.to_str().unwrap()),
        (23, "/data=/data"),
        (23, "/dev/null=/dev/null"),
        (23, "/proc/keys=/dev/null"),
        (34, "6"),
        (38, "1073741824"),
        (50, "1"),
        (51, "/etc/criu/rrun.conf"),
    ] {
        assert!(has(&options, number, value), "{number} {value}: {options:?}");
    }
    assert!(Path::new(&images).join("descriptors.json").exists());
    stage.sandbox.rrun(&["state", &id]).exits(1).complains_of(&["does not exist"]);
    stage.sandbox.assert_nothing_left();
}

#[test]
fn a_container_may_go_on() {
    let stage = Stage::new();
    let id = stage.sandbox.start(&stage.bundle, "going-on");
    let images = stage.images();
    stage.rrun(&["checkpoint", "--image-path", &images, "--leave-running", &id]).ok();
    assert!(has(&stage.request().1, 3, "1"));
    fs::create_dir_all(stage.sandbox.join("images/earlier")).unwrap();
    let line = ["checkpoint", "--image-path", &images, "--pre-dump", "--parent-path", "earlier"];
    stage.rrun(&[&line[..], &["--manage-cgroups-mode", "strict", &id]].concat()).ok();
    let (kind, options) = stage.request();
    assert_eq!(kind, PRE_DUMP);
    assert!(has(&options, 14, "earlier") && has(&options, 15, "1") && has(&options, 34, "5"));
    assert!(!options.contains_key(&23), "mounts matter to the dump only");
    assert_eq!(stage.sandbox.state(&id)["status"], "running");
    let line = ["checkpoint", "--image-path", &images, "--parent-path", "/tmp", &id];
    let absolute = stage.rrun(&line).exits(1);
    absolute.complains_of(&["--parent-path /tmp: must be relative"]);
    stage.sandbox.remove(&id);
}

#[test]
fn a_page_server_and_a_status_are_passed_on() {
    let stage = Stage::new();
    let id = stage.sandbox.start(&stage.bundle, "lazy");
    let (images, status) = (stage.images(), stage.sandbox.join("status"));
    let line = ["checkpoint", "--image-path", &images, "--leave-running", "--lazy-pages"];
    let rest = ["--page-server", "10.0.0.1:27", "--status-fd", "3", &id];
    let command = stage.command(&[&line[..], &rest[..]].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3>\"$STATUS\"; exec \"$@\"", "sh"]).arg(command.get_program());
    shell.args(command.get_args()).env("STATUS", &status).env("PATH", stage.path());
    outcome::spawn(shell.stdin(Stdio::null())).wait().ok();
    assert_eq!(fs::read(&status).unwrap(), [0]);
    let (_, options) = stage.request();
    assert!(has(&options, 11, "10.0.0.1=27") && has(&options, 48, "1"), "{options:?}");
    let line = ["checkpoint", "--image-path", &images, "--lazy-pages", "--status-fd", "77", &id];
    let closed = stage.rrun(&line).exits(1);
    closed.complains_of(&["--status-fd 77", "EBADF"]);
    stage.sandbox.remove(&id);
}

#[test]
fn a_refusal_is_one_line_that_names_the_log() {
    let stage = Stage::new();
    let id = stage.sandbox.start(&stage.bundle, "refused");
    fs::write(stage.place.join("refuse"), "").unwrap();
    let (images, work) = (stage.images(), stage.sandbox.join("work"));
    let work = work.to_str().unwrap();
    let line = ["checkpoint", "--image-path", &images, "--work-path", work, &id];
    let refused = stage.rrun(&line).exits(1);
    let log = format!("(see {work}/dump.log)");
    let refused = refused.complains_of(&["criu cannot dump", "no such luck", &log]);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert_eq!(stage.sandbox.state(&id)["status"], "running");
    stage.sandbox.remove(&id);
}

#[test]
fn without_criu_the_error_says_how_to_get_it() {
    let stage = Stage::new();
    let id = stage.sandbox.start(&stage.bundle, "without");
    let images = stage.images();
    let mut command = stage.command(&["checkpoint", "--image-path", &images, &id]);
    let missing = outcome::spawn(command.env("PATH", "/nowhere")).wait().exits(1);
    missing.complains_of(&["criu is not installed", "apt-get install criu"]);
    stage.sandbox.remove(&id);
    let gone = stage.rrun(&["checkpoint", "--image-path", &images, &id]).exits(1);
    gone.complains_of(&["does not exist"]);
    stage.rrun(&["checkpoint", "--help"]).ok();
    let help = stage.rrun(&["restore", "--help"]).ok();
    assert!(help.stdout.contains("--lsm-mount-context"), "podman looks for it");
}

#[test]
fn a_container_that_does_not_run_cannot_be_saved() {
    let stage = Stage::new();
    let id = stage.sandbox.id("created");
    stage.rrun(&["create", "--bundle", stage.bundle.as_str(), &id]).ok();
    let refused = stage.rrun(&["checkpoint", "--image-path", &stage.images(), &id]).exits(1);
    refused.complains_of(&["cannot be checkpointed in the created state"]);
    stage.rrun(&["delete", "--force", &id]).ok();
}

/// Images as `checkpoint` leaves them, with pipes for the streams.
fn images(stage: &Stage) -> String {
    let images = stage.images();
    fs::create_dir_all(&images).unwrap();
    let streams = r#"["/dev/null","pipe:[12]","pipe:[13]"]"#;
    fs::write(Path::new(&images).join("descriptors.json"), streams).unwrap();
    images
}

#[test]
fn a_restored_container_is_a_container() {
    let stage = Stage::new();
    if !is_root() {
        restoring_is_refused(&stage);
        return;
    }
    let id = stage.sandbox.id("restored");
    let (images, pid_file) = (images(&stage), stage.sandbox.join("pid"));
    let line = ["restore", "--image-path", &images, "--bundle", stage.bundle.as_str(), "--detach"];
    let rest = ["--pid-file", pid_file.to_str().unwrap(), "--lsm-profile", "apparmor:x", &id];
    stage.rrun(&[&line[..], &rest[..]].concat()).ok();
    let state = stage.sandbox.state(&id);
    assert_eq!(state["status"], "running");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    let (kind, options) = stage.request();
    assert_eq!(kind, RESTORE);
    let data = format!("/data={}", stage.sandbox.join("data-of-host").display());
    for (number, value) in [
        (6, "1"),
        (10, "restore.log"),
        (23, data.as_str()),
        (26, "1"),
        (27, "pipe:[12]=1"),
        (27, "pipe:[13]=2"),
        (53, "apparmor:x"),
    ] {
        assert!(has(&options, number, value), "{number} {value}: {options:?}");
    }
    assert!(options[&13][0].ends_with(&format!("{id}/criu-root")), "{options:?}");
    eventually("its cgroup is written", || stage.place.join("cgroup").exists());
    std::thread::sleep(Duration::from_millis(50));
    let cgroup = fs::read_to_string(stage.place.join("cgroup")).unwrap();
    needs(!cgroup.is_empty(), "a cgroup hierarchy", "mount one");
    assert!(cgroup.contains(&id), "{cgroup}");
    assert!(options[&25].iter().any(|root| root.contains(&id)), "{options:?}");
    assert!(fs::metadata(stage.bundle.inside("data")).unwrap().is_dir(), "the mount point");
    stage.rrun(&["delete", "--force", &id]).ok();
    stage.sandbox.assert_nothing_left();
}

/// To a user without privileges.
fn restoring_is_refused(stage: &Stage) {
    let line = ["restore", "--image-path", &images(stage), "--bundle", stage.bundle.as_str()];
    let refused = stage.rrun(&[&line[..], &["user"]].concat()).exits(1);
    refused.complains_of(&["mount namespace for criu", "EPERM"]);
    stage.sandbox.assert_nothing_left();
}

#[test]
fn in_the_foreground_restore_ends_as_the_program_does() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let line = ["restore", "--image-path", &images(&stage), "--bundle", stage.bundle.as_str()];
    stage.rrun(&[&line[..], &["foreground"]].concat()).exits(7);
    stage.sandbox.assert_nothing_left();
    fs::write(stage.place.join("refuse"), "").unwrap();
    let refused = stage.rrun(&[&line[..], &["foreground"]].concat()).exits(1);
    refused.complains_of(&["criu cannot restore"]);
    stage.sandbox.assert_nothing_left();
}
