//! Images that try to turn the runtime's hand: links at every place, also exchanged while it works.
//! docs/security.md says which rule each test stands for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use crate::common::exchange::Exchange;
use crate::common::terminal::Terminal;
use crate::common::{Bundle, Sandbox, leftovers};

fn plain() -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    (sandbox, bundle)
}

/// Takes all mounts at and below `place` out of the configuration.
fn without_mounts(bundle: &Bundle, place: &str) {
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with(place));
    });
}

/// How often a race is tried: enough to meet each of its moments some times.
const ROUNDS: u32 = 40;

/// Runs the container while `one` and `other` are exchanged; what each run that succeeded printed.
fn race(sandbox: &Sandbox, bundle: &Bundle, one: &str, other: &str, script: &str) -> Vec<String> {
    bundle.edit(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    let mut printed = Vec::new();
    let exchange = Exchange::of(&bundle.inside(one), &bundle.inside(other));
    for _ in 0..ROUNDS {
        let outcome = sandbox.run(bundle);
        if outcome.code == 0 {
            printed.push(outcome.line().to_owned());
        }
    }
    assert!(exchange.end() > u64::from(ROUNDS), "the names were exchanged meanwhile");
    printed
}

/// CVE-2021-30465, CVE-2024-45310: a directory on the way to mount points becomes a link that leads
/// out, and a directory again.
#[test]
fn a_directory_exchanged_with_a_link_leads_nowhere_outside() {
    let (sandbox, bundle) = plain();
    let outside = sandbox.directory("outside");
    fs::create_dir(outside.join("sub")).unwrap();
    for writable in [&outside, &outside.join("sub")] {
        fs::set_permissions(writable, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::create_dir_all(bundle.inside("/way/sub")).unwrap();
    symlink(&outside, bundle.inside("/link")).unwrap();
    bundle.mount("/way/sub/scratch", "tmpfs", "tmpfs", &["rw"]);
    bundle.mount("/way/new/deep/file", "bind", "/etc/passwd", &["bind"]);
    bundle.mount("/way/copied", "bind", "/proc/self", &["bind", "copy-symlink"]);
    bundle.edit(|config| {
        config["linux"]["devices"] = json!([
            { "path": "/way/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 },
        ]);
        config["linux"]["maskedPaths"] = json!(["/way/sub/masked"]);
    });
    fs::write(bundle.inside("/way/sub/masked"), "secret\n").unwrap();
    race(&sandbox, &bundle, "/way", "/link", "true");
    assert_eq!(leftovers::entries(&outside), ["sub"], "made outside");
    assert_eq!(leftovers::entries(&outside.join("sub")), [""; 0], "made outside");
    assert_eq!(leftovers::mounts(sandbox.path()), [""; 0], "mounted outside");
    sandbox.assert_nothing_left();
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2025-54867: the same with `/proc` itself. (Whoever can rename
/// it later on still can; the mount goes with it.)
#[test]
fn proc_is_not_mounted_where_a_link_leads() {
    let (sandbox, bundle) = plain();
    symlink("/tmp", bundle.inside("/elsewhere")).unwrap();
    let printed = race(&sandbox, &bundle, "/proc", "/elsewhere", "stat -f -c %T /tmp");
    for seen in printed {
        assert_ne!(seen, "proc");
    }
    sandbox.assert_nothing_left();
}

/// A link through procfs leads wherever a process is: nothing follows it, for the runtime's own root
/// is still the host's.
#[test]
fn links_through_procfs_are_not_followed() {
    for (target, option) in [("/proc/self/root", "tmpfs"), ("/proc/1/cwd", "bind")] {
        let (sandbox, bundle) = plain();
        let outside = sandbox.directory("outside");
        let lead = Path::new(target).join(outside.strip_prefix("/").unwrap());
        symlink(&lead, bundle.inside("/link")).unwrap();
        bundle.mount("/link/made", option, "/etc", &[]);
        sandbox.run(&bundle).complains_of(&["/link/made"]);
        assert_eq!(leftovers::entries(&outside), [""; 0]);
        sandbox.assert_nothing_left();
    }
}

/// CVE-2026-41579, CVE-2026-47766: whatever the runtime makes in `/dev`, none of it is made outside,
/// also where a part of the way does not exist.
#[test]
fn links_in_dev_lead_nowhere_outside() {
    for name in ["/dev", "/dev/pts", "/dev/null", "/dev/ptmx", "/dev/fd", "/dev/console"] {
        for dangling in ["", "/not/there"] {
            let (sandbox, bundle) = plain();
            without_mounts(&bundle, "/dev");
            let outside = sandbox.directory("outside");
            fs::write(outside.join("kept"), "kept\n").unwrap();
            if name == "/dev" {
                fs::remove_dir(bundle.inside("/dev")).unwrap();
            }
            let target = format!("{}{dangling}", outside.display());
            symlink(target, bundle.inside(name)).unwrap();
            sandbox.run(&bundle);
            assert_eq!(leftovers::entries(&outside), ["kept"], "{name}{dangling}");
            assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept\n");
            sandbox.assert_nothing_left();
        }
    }
}

/// CVE-2025-31133: an image whose `/dev/null` is a link to a file of procfs gets neither that file in
/// place of a mask nor the mask over that file.
#[test]
fn a_null_device_that_is_a_link_is_not_used() {
    let (sandbox, bundle) = plain();
    without_mounts(&bundle, "/dev");
    symlink("/proc/sys/kernel/hostname", bundle.inside("/dev/null")).unwrap();
    fs::write(bundle.inside("/etc/secret"), "secret\n").unwrap();
    bundle.edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let script =
        "cat /etc/secret; stat -c '%F %t:%T' /etc/secret /dev/null; cat /proc/sys/kernel/hostname";
    let null = "character special file 1:3";
    let seen = sandbox.prints(&bundle, script);
    assert_eq!(seen.lines().collect::<Vec<_>>(), [null, null, "rrun"]);
}

/// CVE-2025-52565: the terminal appears as `/dev/console` itself and nowhere else.
#[test]
fn a_console_that_is_a_link_is_not_followed() {
    let (sandbox, bundle) = plain();
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/dev");
        config["process"]["terminal"] = true.into();
    });
    fs::write(bundle.inside("/etc/target"), "untouched\n").unwrap();
    symlink("/etc/target", bundle.inside("/dev/console")).unwrap();
    let script = "cat /etc/target; test -L /dev/console || stat -c %F /dev/console";
    bundle.edit(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    let terminal = Terminal::new();
    let id = sandbox.id("console");
    let mut run = terminal.spawn(&sandbox.command(&["run", "--bundle", bundle.as_str(), &id]));
    terminal.screen.shows("untouched");
    terminal.screen.shows("character special file");
    assert!(run.wait().unwrap().success());
}

/// A `/dev/pts` that is no devpts: neither a file, nor a pipe, nor a link to the host's is opened as
/// a terminal, by create or by exec.
#[test]
fn a_fake_devpts_is_refused() {
    for fake in ["file", "pipe", "link"] {
        let (sandbox, bundle) = plain();
        without_mounts(&bundle, "/dev/pts");
        without_mounts(&bundle, "/dev");
        let ptmx = bundle.inside("/dev/pts/ptmx");
        fs::create_dir(bundle.inside("/dev/pts")).unwrap();
        match fake {
            "file" => fs::write(&ptmx, "").unwrap(),
            "pipe" => mkfifo(&ptmx, Mode::S_IRWXU).unwrap(),
            _ => symlink("/dev/zero", &ptmx).unwrap(),
        }
        bundle.edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
        let id = sandbox.start(&bundle, fake);
        let socket = sandbox.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let socket = socket.to_str().unwrap();
        let exec = ["exec", "--tty", "--detach", "--console-socket", socket, &id, "true"];
        sandbox.rrun(&exec).complains_of(&["/dev/pts", "ptmx"]);
        bundle.edit(|config| config["process"]["terminal"] = true.into());
        let second = sandbox.id("second");
        let create = ["create", "--console-socket", socket, "--bundle", bundle.as_str(), &second];
        sandbox.rrun(&create).complains_of(&["/dev/pts", "ptmx"]);
        sandbox.remove(&id);
        sandbox.assert_nothing_left();
    }
}

/// CVE-2019-16884, CVE-2025-52881: what is mounted inside procfs decides about processes.
#[test]
fn nothing_is_mounted_inside_procfs() {
    for (destination, options) in [
        ("/proc/self/attr", &["bind"][..]),
        ("/proc/sys/kernel", &["bind"]),
        ("/proc/self", &["bind", "dest-nofollow", "src-nofollow"]),
        ("/link/self", &["bind"]),
        ("/proc", &["bind"]),
    ] {
        let (sandbox, bundle) = plain();
        symlink("/proc", bundle.inside("/link")).unwrap();
        let source = sandbox.directory("source");
        bundle.mount(destination, "bind", source.to_str().unwrap(), options);
        sandbox.run(&bundle).complains_of(&[destination, "procfs"]);
    }
    let (sandbox, bundle) = plain();
    fs::write(sandbox.join("info"), "emulated\n").unwrap();
    let info = sandbox.join("info");
    bundle.mount("/proc/meminfo", "bind", info.to_str().unwrap(), &["bind"]);
    bundle.mount("/proc", "proc", "proc", &[]);
    bundle.mount("/proc/uptime", "bind", info.to_str().unwrap(), &["bind"]);
    assert_eq!(sandbox.prints(&bundle, "cat /proc/uptime"), "emulated", "as lxcfs does");
}

/// A procfs that the image fakes is written to by nobody: kernel parameters and the score for the
/// killer of processes go to the real one.
#[test]
fn a_fake_procfs_is_not_written() {
    let (sandbox, bundle) = plain();
    without_mounts(&bundle, "/proc");
    let fakes = ["self/oom_score_adj", "sys/net/ipv4/ip_forward", "self/attr/exec"];
    for fake in fakes {
        let path = bundle.inside("/proc").join(fake);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "fake\n").unwrap();
    }
    bundle.edit(|config| {
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
        config["process"]["oomScoreAdj"] = json!(500);
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    let id = sandbox.start(&bundle, "fake");
    let pid = sandbox.state(&id)["pid"].to_string();
    assert_eq!(forwards(&pid), "1\n");
    let exec = sandbox.command(&["exec", &id, "sleep", "7654"]);
    let mut running = crate::common::outcome::spawn(&mut { exec });
    let score = score_of(&sandbox, &id, b"sleep\x007654\0");
    assert_eq!(score, "500\n");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "500\n");
    for fake in fakes {
        assert_eq!(fs::read_to_string(bundle.inside("/proc").join(fake)).unwrap(), "fake\n");
    }
    sandbox.rrun(&["kill", &id, "KILL"]).ok();
    running.child.wait().unwrap();
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["delete", &id]).ok();
}

/// Whether the network of a process forwards packets, as the real procfs says it.
fn forwards(pid: &str) -> String {
    let mut command = std::process::Command::new("nsenter");
    command.args(["--net", "--target", pid]);
    if !crate::common::is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    let output = command.args(["cat", "/proc/sys/net/ipv4/ip_forward"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// How soon the process of `id` with this command line is killed, once there is one.
fn score_of(sandbox: &Sandbox, id: &str, line: &[u8]) -> String {
    let mut score = String::new();
    crate::common::eventually("exec's process runs", || {
        let listed = sandbox.rrun(&["ps", "--format", "json", id]).ok().stdout;
        let pids: Vec<i32> = serde_json::from_str(&listed).unwrap();
        let is_it =
            |pid: &&i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == line);
        let Some(pid) = pids.iter().find(is_it) else { return false };
        score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        true
    });
    score
}

/// CVE-2023-25809: without a cgroup namespace a mount of the cgroups shows the host's tree, and
/// nobody inside writes there, whatever the options say.
#[test]
fn the_host_s_cgroups_are_not_written() {
    let (sandbox, bundle) = plain();
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw", "nosuid"]);
    bundle.edit(|config| {
        for set in ["bounding", "permitted", "effective"] {
            let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
            set.extend(["CAP_DAC_OVERRIDE".into(), "CAP_SYS_ADMIN".into()]);
        }
    });
    let script = "cd /sys/fs/cgroup; for at in . *; do test -d $at -a ! -L $at || continue; \
        mkdir $at/made 2>/dev/null && test $at != . && echo made in $at; done; \
        for file in */cgroup.procs cgroup.procs; do test -e $file || continue; \
        (echo $$ > $file) 2>/dev/null && echo moved by $file; done; ls | wc -l";
    let seen = sandbox.prints(&bundle, script);
    assert!(!seen.contains("made in") && !seen.contains("moved by"), "{seen}");
    assert_ne!(seen.lines().last(), Some("0"), "there is something to look at: {seen}");
}
