//! Programs inside that try to get hold of what is the host's: descriptors, directories, the
//! runtime's own file, identities. docs/security.md says which rule each test stands for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use crate::common::{Bundle, OVERWRITE_PROGRAMS, Outcome, Sandbox, is_root, outcome, rrun_binary};

fn plain() -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    (sandbox, bundle)
}

/// Runs `command` with many descriptors open: directories and files of the host, sockets, pipes.
fn with_descriptors(sandbox: &Sandbox, command: &Command) -> Outcome {
    let script = "exec 3<. 4<. 5<\"$SECRET\" 6<>\"$SECRET\" 7</ 8</proc/self/ns/mnt 9</dev/null; \
        exec \"$@\" 2>&1 | cat";
    fs::write(sandbox.join("secret"), "secret\n").unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "bash"]).env("SECRET", sandbox.join("secret"));
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell.current_dir("/etc");
    outcome::spawn(&mut shell).wait()
}

/// What `ls /proc/self/fd` prints where nothing is open but the three streams: those, and the directory
/// that it lists.
const STREAMS: &str = "0\n1\n2\n3";

/// CVE-2016-9962, CVE-2024-21626: the allow-list of what a program finds open is empty, however the
/// container is made and entered, with everything that leaves a descriptor on the way.
#[test]
fn programs_find_nothing_open_but_their_streams() {
    let (sandbox, bundle) = plain();
    let shared = sandbox.directory("shared");
    bundle.mount("/shared", "bind", "/proc/self/fd/3", &["bind"]);
    bundle.mount("/link", "bind", shared.to_str().unwrap(), &["bind", "copy-symlink"]);
    bundle.mount("/scratch", "tmpfs", "tmpfs", &["tmpcopyup", "ro"]);
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
    if is_root() {
        let range = json!([{ "containerID": 0, "hostID": 0, "size": 10 }]);
        bundle.edit(|config| {
            config["mounts"].as_array_mut().unwrap().push(json!({
                "destination": "/mapped", "type": "bind", "source": shared, "options": ["bind"],
                "uidMappings": range, "gidMappings": range,
            }));
        });
    }
    bundle.edit(|config| config["process"]["args"] = json!(["ls", "/proc/self/fd"]));
    let run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("run")]);
    assert_eq!(with_descriptors(&sandbox, &run).ok().line(), STREAMS);
    crate::common::needs_fuse();
    let layers = format!("--lowerdir={}", bundle.rootfs().display());
    let layered =
        sandbox.command(&["run", &layers, "--bundle", bundle.as_str(), &sandbox.id("layered")]);
    assert_eq!(with_descriptors(&sandbox, &layered).ok().line(), STREAMS);
    bundle.edit(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/shared");
    });
    let id = sandbox.start(&bundle, "exec");
    let exec = sandbox.command(&["exec", &id, "ls", "/proc/self/fd"]);
    assert_eq!(with_descriptors(&sandbox, &exec).ok().line(), STREAMS);
    let pid = &sandbox.state(&id)["pid"];
    let init = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut open: Vec<_> = init.map(|fd| fd.unwrap().file_name().into_string().unwrap()).collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"], "what init became");
    sandbox.remove(&id);
}

/// While a container waits for its start, init holds the two ends it waits on and nothing else.
#[test]
fn init_holds_what_it_waits_on_and_no_more() {
    let (sandbox, bundle) = plain();
    let id = sandbox.id("created");
    let create = sandbox.command(&["create", "--bundle", bundle.as_str(), &id]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<. 9</; exec \"$@\"", "sh"]).arg(create.get_program());
    outcome::spawn(shell.args(create.get_args()).stdin(Stdio::null())).wait().ok();
    let fds = fs::read_dir(format!("/proc/{}/fd", sandbox.state(&id)["pid"])).unwrap();
    let mut others = Vec::new();
    for fd in fds.map(Result::unwrap) {
        let number: i32 = fd.file_name().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(fd.path()).unwrap();
        if number > 2 && !target.to_str().unwrap().starts_with("socket:") {
            others.push(target);
        }
    }
    assert_eq!(others, [""; 0].map(std::path::PathBuf::from));
    sandbox.rrun(&["delete", "--force", &id]).ok();
}

/// A privileged program inside looks at every process that appears, all the time: the ones that enter
/// show it nothing of the host's before they are programs of the container.
#[test]
fn who_enters_shows_nothing_of_the_host() {
    let (sandbox, bundle) = plain();
    let watch = "touch /seen; while :; do for at in /proc/[0-9]*; do \
        case $at in /proc/1|/proc/$$) continue;; esac; \
        for link in $at/exe $at/cwd $at/root $at/fd/*; do readlink $link; done; done; \
        done >> /seen 2>/dev/null";
    bundle.edit(|config| {
        for set in ["bounding", "permitted", "effective"] {
            let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
            set.extend(["CAP_SYS_PTRACE".into(), "CAP_DAC_OVERRIDE".into()]);
        }
        config["process"]["args"] = json!(["sh", "-c", watch]);
    });
    let id = sandbox.start(&bundle, "watched");
    let tmpfs = json!([{ "destination": "/etc/added", "type": "tmpfs" }]).to_string();
    fs::write(sandbox.join("mounts.json"), tmpfs).unwrap();
    let list = sandbox.join("mounts.json");
    for _ in 0..30 {
        sandbox.rrun(&["exec", &id, "true"]).ok();
        sandbox.rrun(&["mounts", "add", &id, list.to_str().unwrap()]).ok();
        sandbox.rrun(&["mounts", "remove", &id, list.to_str().unwrap()]).ok();
    }
    let seen = fs::read_to_string(bundle.inside("/seen")).unwrap();
    let state = sandbox.root();
    let is_the_host_s = |line: &&str| {
        line.ends_with("/rrun") || line.contains(state.to_str().unwrap()) || line.contains("memfd")
    };
    let shown: Vec<_> = seen.lines().filter(is_the_host_s).collect();
    assert_eq!(shown, [""; 0]);
    assert_eq!(sandbox.state(&id)["status"], "running");
    sandbox.remove(&id);
}

/// Fails the test unless all that was printed is one complaint of the runtime's.
#[track_caller]
fn refused(outcome: &Outcome) {
    let is_complaint =
        outcome.stdout.starts_with("rrun: ") && outcome.stdout.contains("/proc/self/fd/");
    assert!(is_complaint && outcome.stdout.lines().count() == 1, "{outcome}");
}

/// CVE-2024-21626: a working directory that leads through a descriptor of the host's.
#[test]
fn a_working_directory_outside_is_refused() {
    let (sandbox, bundle) = plain();
    let set = |cwd: &str| {
        bundle.edit(|config| {
            config["process"]["cwd"] = cwd.into();
            config["process"]["args"] = json!(["cat", "../../../../../../../etc/hostname"]);
        });
    };
    for fd in 3..12 {
        set(&format!("/proc/self/fd/{fd}"));
        let run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("cwd")]);
        let outcome = with_descriptors(&sandbox, &run);
        refused(&outcome);
    }
    set("/proc/self/fd/4");
    let preserved = sandbox.id("preserved");
    let run = ["run", "--preserve-fds", "5", "--bundle", bundle.as_str(), &preserved];
    let outcome = with_descriptors(&sandbox, &sandbox.command(&run));
    refused(&outcome);
    set("/");
    bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = sandbox.start(&bundle, "exec");
    for (fd, flags) in [(4, "--preserve-fds=5"), (7, "--preserve-fds=5"), (4, "--preserve-fds=0")] {
        let cwd = format!("/proc/self/fd/{fd}");
        let exec = sandbox.command(&["exec", flags, "--cwd", &cwd, &id, "cat", "../etc/hostname"]);
        let outcome = with_descriptors(&sandbox, &exec);
        refused(&outcome);
    }
    sandbox.remove(&id);
}

/// CVE-2019-5736, from the first program on: it is the runtime's own file, which the image names.
#[test]
fn the_runtime_s_binary_is_not_run_nor_written_by_its_own_name() {
    let (sandbox, bundle) = plain();
    let binary = sandbox.join("rrun");
    fs::copy(rrun_binary(), &binary).unwrap();
    let trap = "#!/proc/self/exe\n";
    fs::write(bundle.inside("/bin/trap"), trap).unwrap();
    fs::set_permissions(bundle.inside("/bin/trap"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/proc/self/exe", bundle.inside("/bin/self")).unwrap();
    let shared = sandbox.bundle(&["sh", "-c", OVERWRITE_PROGRAMS]);
    let attacker = sandbox.start(&shared, "attacker");
    let pid = sandbox.state(&attacker)["pid"].clone();
    if is_root() {
        bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
            namespaces.push(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
        });
    }
    for program in ["/bin/trap", "/bin/self", "true"] {
        bundle.edit(|config| config["process"]["args"] = json!([program, "--version"]));
        for _ in 0..10 {
            let mut command = Command::new(&binary);
            let id = sandbox.id("trapped");
            command.arg("--root").arg(sandbox.root()).env("RRUN_DATA", sandbox.data());
            command.args(["run", "--bundle", bundle.as_str(), &id]).stdin(Stdio::null());
            outcome::spawn(&mut command).wait();
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(sandbox.state(&attacker)["status"], "running", "the attack goes on");
    assert!(fs::read(&binary).unwrap() == fs::read(rrun_binary()).unwrap(), "overwritten");
    sandbox.remove(&attacker);
}

/// CVE-2022-29162, CVE-2022-27650: even where the caller has inheritable capabilities.
#[test]
fn nothing_is_inheritable_whatever_the_caller_has() {
    let (sandbox, bundle) = plain();
    let sets = "grep -E 'Cap(Inh|Amb)' /proc/self/status | cut -f2";
    bundle.edit(|config| config["process"]["args"] = json!(["sh", "-c", sets]));
    let inheriting = |arguments: &[&str]| {
        let command = sandbox.command(arguments);
        let mut setpriv = Command::new("setpriv");
        setpriv.args(if is_root() { &["--inh-caps=+chown,+kill"][..] } else { &["--nnp"] });
        setpriv.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        setpriv.env("RRUN_DATA", sandbox.data());
        outcome::spawn(&mut setpriv).wait().ok()
    };
    let none = ["0000000000000000"; 2].join("\n");
    let id = sandbox.id("inherit");
    if is_root() {
        assert_eq!(inheriting(&["run", "--bundle", bundle.as_str(), &id]).line(), none);
    } else {
        assert_eq!(sandbox.run(&bundle).ok().line(), none);
    }
    bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let id = sandbox.start(&bundle, "exec");
    for flags in [&[][..], &["--cap", "CAP_KILL"]] {
        let arguments = [&["exec"][..], flags, &[&id, "sh", "-c", sets]].concat();
        assert_eq!(inheriting(&arguments).line(), none, "{flags:?}");
    }
    sandbox.remove(&id);
}

/// CVE-2026-30892 and the like: `/etc/passwd` belongs to the image. Whatever it is, nothing hangs on
/// it, and it makes nobody another user.
#[test]
fn a_hostile_list_of_users_changes_nobody() {
    let huge = "x:x:0:0::/huge:/bin/sh\n".repeat(100_000);
    for kind in ["pipe", "directory", "zero", "loop", "huge", "nonsense"] {
        let (sandbox, bundle) = plain();
        let list = bundle.inside("/etc/passwd");
        fs::remove_file(&list).unwrap();
        match kind {
            "pipe" => mkfifo(&list, Mode::S_IRWXU).unwrap(),
            "directory" => fs::create_dir(&list).unwrap(),
            "zero" => symlink("/dev/zero", &list).unwrap(),
            "loop" => symlink("passwd", &list).unwrap(),
            "huge" => fs::write(&list, &huge).unwrap(),
            _ => fs::write(&list, b"\xff\xfe:\0:0:\n7:7:7:7:7\n:::::::\nada:x:-7:8::/x\n").unwrap(),
        }
        fs::set_permissions(bundle.inside("/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        bundle.edit(|config| {
            config["process"]["user"] = json!({ "uid": 7, "gid": 8 });
            config["process"]["args"] = json!(["sleep", "1000"]);
        });
        let id = sandbox.start(&bundle, kind);
        for (flags, expected) in [(&[][..], "7\n8\n/\n"), (&["--user", "9:10"], "9\n10\n/\n")] {
            let script = "grep -E '^[UG]id' /proc/self/status | cut -f2; echo $HOME";
            let arguments = [&["exec"][..], flags, &[&id, "sh", "-c", script]].concat();
            assert_eq!(sandbox.rrun(&arguments).ok().stdout, expected, "{kind}");
        }
        let named = sandbox.rrun(&["exec", "--user", "x", &id, "id"]);
        named.complains_of(&["\"x\" is not a user"]);
        sandbox.remove(&id);
    }
}
