//! How a program is scheduled, where its memory lies, what it takes itself for: seen from inside.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Bundle, Sandbox, is_root};

/// A sandbox and a bundle whose config.json has `value` at `pointer`.
fn with(pointer: &str, value: Value) -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    set(&bundle, pointer, value);
    (sandbox, bundle)
}

fn set(bundle: &Bundle, pointer: &str, value: Value) {
    bundle.edit(|config| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
    });
}

/// What `script` prints as the container's own program and by `exec`.
fn both(sandbox: &Sandbox, bundle: &Bundle, script: &str) -> [String; 2] {
    let id = sandbox.start(bundle, "attributes");
    let by_exec = sandbox.rrun(&["exec", &id, "sh", "-c", script]).ok().line().to_owned();
    sandbox.remove(&id);
    [sandbox.prints(bundle, script), by_exec]
}

/// Field `number` of `/proc/self/stat` as proc(5) counts them, of a shell that reads it itself: 18 is
/// the priority, 19 the nice value, 40 the real-time priority, 41 the policy.
fn stat(number: usize) -> String {
    format!("read -r line </proc/self/stat; set -- ${{line##*) }}; echo ${{{}}}", number - 2)
}

#[test]
fn the_scheduler_is_set() {
    const SCHED_BATCH: &str = "3";
    const SCHED_IDLE: &str = "5";
    for (policy, number) in [("SCHED_BATCH", SCHED_BATCH), ("SCHED_IDLE", SCHED_IDLE)] {
        let (sandbox, bundle) = with("/process/scheduler", json!({"policy": policy}));
        assert_eq!(both(&sandbox, &bundle, &stat(41)), [number; 2], "{policy}");
    }
    let (sandbox, bundle) = with("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 7}));
    assert_eq!(both(&sandbox, &bundle, &stat(19)), ["7", "7"]);
    let (sandbox, bundle) = with(
        "/process/scheduler",
        json!({"policy": "SCHED_BATCH", "nice": 5,
        "flags": ["SCHED_RESET_ON_FORK"]}),
    );
    // What it forks is scheduled as usual again; a nice value above 0 stays.
    let script = format!("{}; ( {} )", stat(41), stat(41).replace("/self/", "/self/../self/"));
    let seen = both(&sandbox, &bundle, &script.replace("/self/../self/", "/thread-self/"));
    assert!(seen.iter().all(|seen| seen.starts_with("3\n")), "{seen:?}");
}

#[test]
fn real_time_is_for_those_who_may() {
    let realtime = json!({"policy": "SCHED_RR", "priority": 11});
    let (sandbox, bundle) = with("/process/scheduler", realtime);
    if is_root() {
        // In no cgroup of its own: a new one has no real time to share out.
        let script = format!("{}; {}", stat(40), stat(41));
        bundle.edit(|config| config["process"]["args"] = json!(["sh", "-c", script]));
        let id = sandbox.id("realtime");
        let run = ["--cgroup-manager=disabled", "run", "--bundle", bundle.as_str(), &id];
        assert_eq!(sandbox.rrun(&run).ok().line(), "11\n2");
    } else {
        sandbox.run(&bundle).complains_of(&["/process/scheduler: EPERM", "CAP_SYS_NICE"]);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_deadline_is_kept() {
    let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 500_000_000,
        "period": 1_000_000_000, "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]});
    let (sandbox, bundle) = with("/process/scheduler", deadline);
    if is_root() {
        assert_eq!(sandbox.prints(&bundle, &stat(41)), "6");
        set(&bundle, "/linux/resources", json!({"cpu": {"cpus": "0"}}));
        let words = "the process scheduler can't be used together with AllowedCPUs";
        sandbox.run(&bundle).complains_of(&["/process/scheduler: EPERM", words]);
    } else {
        sandbox.run(&bundle).complains_of(&["/process/scheduler: EPERM", "CAP_SYS_NICE"]);
    }
}

#[test]
fn input_and_output_have_a_priority() {
    for (class, priority, shown) in
        [("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"), ("IOPRIO_CLASS_IDLE", 0, "idle")]
    {
        let value = json!({"class": class, "priority": priority});
        let (sandbox, bundle) = with("/process/ioPriority", value);
        assert_eq!(both(&sandbox, &bundle, "ionice -p $$"), [shown; 2]);
    }
}

#[test]
fn exec_runs_on_the_processors_that_were_asked_for() {
    const SEEN: &str = "grep ^Cpus_allowed_list /proc/self/status | cut -f2";
    let affinity = |value: Value| with("/process/execCPUAffinity", value);
    let (sandbox, bundle) = affinity(json!({"initial": "0", "final": "1"}));
    let [own, by_exec] = both(&sandbox, &bundle, SEEN);
    assert_eq!(by_exec, "1");
    assert_ne!(own, "1", "the first program is not pinned");
    let (sandbox, bundle) = affinity(json!({"initial": "0", "final": ""}));
    let id = sandbox.start(&bundle, "initial");
    assert_eq!(sandbox.rrun(&["exec", &id, "sh", "-c", SEEN]).ok().line(), "0");
    let process = sandbox.join("process.json");
    let pinned = json!({"cwd": "/", "user": {}, "args": ["sh", "-c", SEEN],
        "execCPUAffinity": {"final": "8000"}});
    std::fs::write(&process, pinned.to_string()).unwrap();
    let exec = ["exec", "--process", process.to_str().unwrap(), &id];
    sandbox.rrun(&exec).complains_of(&["/process/execCPUAffinity/final", "none of these"]);
    sandbox.remove(&id);
}

/// Who starts a container may be pinned himself, by his service manager perhaps.
#[test]
fn a_pinned_caller_pins_nobody() {
    const SEEN: &str = "grep ^Cpus_allowed_list /proc/self/status | cut -f2";
    let allowed = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    };
    let all = allowed();
    let mut first = CpuSet::new();
    first.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &first).unwrap();
    assert_eq!(allowed(), "0");
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    assert_eq!(both(&sandbox, &bundle, SEEN), [all.as_str(); 2]);
}

#[test]
fn a_personality_is_seen_by_uname() {
    let (sandbox, bundle) = with("/linux/personality", json!({"domain": "LINUX32"}));
    let [own, by_exec] = both(&sandbox, &bundle, "uname -m");
    assert_eq!(own, by_exec);
    assert_ne!(own, std::env::consts::ARCH);
    let (sandbox, bundle) = with("/linux/personality", json!({"domain": "LINUX"}));
    assert_eq!(both(&sandbox, &bundle, "uname -m"), [std::env::consts::ARCH; 2]);
}

#[test]
fn memory_comes_from_the_nodes_that_were_asked_for() {
    const SEEN: &str = "cut -d' ' -f2 /proc/self/numa_maps | sort -u";
    for (policy, shown) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            "interleave=static:0",
        ),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let (sandbox, bundle) = with("/linux/memoryPolicy", policy);
        assert_eq!(both(&sandbox, &bundle, SEEN), [shown; 2]);
    }
    let (sandbox, bundle) =
        with("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "99"}));
    sandbox.run(&bundle).complains_of(&["/linux/memoryPolicy", "does not have"]);
}

#[test]
fn clocks_of_a_time_namespace_are_moved() {
    const DAY: u64 = 86_400;
    let (sandbox, bundle) = with(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 100 * DAY}, "monotonic": {"secs": 100 * DAY, "nanosecs": 5}}),
    );
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "time"}));
    });
    let script = "cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time";
    let outside = std::fs::read_link("/proc/self/ns/time").unwrap();
    for seen in both(&sandbox, &bundle, script) {
        let (uptime, namespace) = seen.split_once('\n').unwrap();
        assert!(uptime.parse::<u64>().unwrap() >= 100 * DAY, "{seen}");
        assert_ne!(namespace, outside.to_str().unwrap());
    }
    set(&bundle, "/linux/timeOffsets", json!({"boottime": {"secs": -1000 * i64::from(u32::MAX)}}));
    sandbox.run(&bundle).complains_of(&["/linux/timeOffsets", "boottime"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_time_namespace_is_joined_by_path() {
    let (sandbox, first) = with("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000_000}}));
    let time = |bundle: &Bundle, namespace: Value| {
        bundle.edit(|config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
        });
    };
    time(&first, json!({"type": "time"}));
    let id = sandbox.start(&first, "first");
    let pid = sandbox.state(&id)["pid"].clone();
    let second = sandbox.bundle(&["true"]);
    time(&second, json!({"type": "time", "path": format!("/proc/{pid}/ns/time")}));
    if !is_root() {
        let user = json!({"type": "user", "path": format!("/proc/{pid}/ns/user")});
        time(&second, user);
    }
    let uptime = sandbox.prints(&second, "cut -d. -f1 /proc/uptime");
    assert!(uptime.parse::<u64>().unwrap() >= 1_000_000_000, "{uptime}");
    sandbox.remove(&id);
}

#[test]
fn labels_need_their_security_module() {
    let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    for (pointer, there) in [
        ("/process/apparmorProfile", apparmor.starts_with(b"Y")),
        ("/process/selinuxLabel", std::path::Path::new("/sys/fs/selinux/enforce").exists()),
        ("/linux/mountLabel", std::path::Path::new("/sys/fs/selinux/enforce").exists()),
    ] {
        let (sandbox, bundle) = with(pointer, json!("rrun-no-such-label"));
        let wanted = if there { "rrun-no-such-label" } else { "is not enabled on this machine" };
        sandbox.run(&bundle).complains_of(&[pointer, wanted]);
        sandbox.assert_nothing_left();
        set(&bundle, pointer, json!(""));
        assert_eq!(sandbox.prints(&bundle, "echo fine"), "fine");
    }
}

#[test]
fn a_class_of_service_needs_resctrl() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let there = mounts.contains(" - resctrl ");
    let (sandbox, bundle) = with("/linux/intelRdt", json!({"closID": "rrun-no-such-class"}));
    let wanted = if there { "no class of service" } else { "resctrl is not mounted" };
    sandbox.run(&bundle).complains_of(&["/linux/intelRdt", wanted]);
    sandbox.assert_nothing_left();
}
