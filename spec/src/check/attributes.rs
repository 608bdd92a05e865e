//! How a process is scheduled, where its memory lies, what it takes itself for.

use std::ops::RangeInclusive;

use oci_spec::runtime as oci;
use oci_spec::runtime::{LinuxSchedulerPolicy as Policy, MemoryPolicyModeType as Mode};

use super::{Problems, has_namespace, linux::sorted, namespace};
use crate::number_list::number_list;

/// What times of `SCHED_DEADLINE` are, in nanoseconds (`sched(7)`).
const DEADLINE_TIMES: RangeInclusive<u64> = 1024..=1 << 63;

/// Nanoseconds in a second.
const SECOND: u32 = 1_000_000_000;

pub(super) fn check_process(process: &oci::Process, at: &str, problems: &mut Problems) {
    if let Some(scheduler) = process.scheduler() {
        check_scheduler(scheduler, &format!("{at}/scheduler"), problems);
    }
    let priority = process.io_priority().map(|priority| priority.priority());
    if priority.is_some_and(|priority| !(0..=7).contains(&priority)) {
        problems.add(format!("{at}/ioPriority/priority"), "want 0 (highest) to 7 (lowest)");
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        for (name, list) in
            [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())]
        {
            let wrong = list.as_deref().and_then(|list| number_list(list).err());
            problems.add_some(&format!("{at}/execCPUAffinity/{name}"), wrong);
        }
    }
}

/// Source: runtime-spec 1.3, `config.md`, "scheduler"; `sched_setattr(2)`; runc
/// `libcontainer/configs/validate`.
fn check_scheduler(scheduler: &oci::Scheduler, at: &str, problems: &mut Problems) {
    let policy = *scheduler.policy();
    if policy == Policy::SchedIso {
        problems.add(format!("{at}/policy"), "no Linux kernel has SCHED_ISO: choose another");
    }
    if scheduler.nice().is_some_and(|nice| !(-20..=19).contains(&nice)) {
        problems.add(format!("{at}/nice"), "want -20 (first) to 19 (last)");
    }
    let priority = scheduler.priority().unwrap_or(0);
    match policy {
        Policy::SchedFifo | Policy::SchedRr if !(1..=99).contains(&priority) => {
            problems.add(format!("{at}/priority"), format!("want 1 to 99 for {policy}"));
        }
        Policy::SchedFifo | Policy::SchedRr => {}
        _ if priority != 0 => {
            problems.add(format!("{at}/priority"), "is for SCHED_FIFO and SCHED_RR: remove it");
        }
        _ => {}
    }
    check_deadline(scheduler, at, problems);
}

fn check_deadline(scheduler: &oci::Scheduler, at: &str, problems: &mut Problems) {
    let fields = [
        ("runtime", scheduler.runtime()),
        ("deadline", scheduler.deadline()),
        ("period", scheduler.period()),
    ]
    .map(|(name, value)| (name, value.unwrap_or(0)));
    if *scheduler.policy() != Policy::SchedDeadline {
        for (name, _) in fields.iter().filter(|(_, value)| *value != 0) {
            problems.add(format!("{at}/{name}"), "is for SCHED_DEADLINE: remove it");
        }
        return;
    }
    // Those of crun, as far as they go.
    let mut add = |name: &str, sentence: String| {
        problems.add(format!("{at}/{name}"), format!("sched_setattr: `SCHED_DEADLINE` {sentence}"));
    };
    let (least, most) = (DEADLINE_TIMES.start(), DEADLINE_TIMES.end());
    let [(_, runtime), (_, deadline), (_, period)] = fields;
    for (name, value) in fields.iter().filter(|(_, value)| !DEADLINE_TIMES.contains(value)) {
        let is_said = match *name {
            "runtime" => scheduler.runtime().is_some(),
            "deadline" => scheduler.deadline().is_some(),
            _ if *value == 0 => continue,
            _ => true,
        };
        add(
            name,
            match value {
                0 if is_said => format!("{name} must be greater than 0: want at least {least} ns"),
                0 => format!("requires `{name}`: want at least {least} ns"),
                value => format!("{name} ({value}) must be between {least} and {most} ns"),
            },
        );
    }
    if deadline != 0 && runtime > deadline {
        add("runtime", format!("runtime ({runtime}) must be <= deadline ({deadline})"));
    }
    if period != 0 && deadline > period {
        add("deadline", format!("deadline ({deadline}) must be <= period ({period})"));
    }
}

pub(super) fn check_linux(linux: &oci::Linux, spec: &oci::Spec, problems: &mut Problems) {
    let flags = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref());
    if flags.is_some_and(|flags| !flags.is_empty()) {
        problems.add("/linux/personality/flags", "runtime-spec has no flags yet: remove them");
    }
    if let Some(policy) = linux.memory_policy() {
        check_memory_policy(policy, problems);
    }
    check_time_offsets(linux, spec, problems);
    check_net_devices(linux, spec, problems);
    if let Some(rdt) = linux.intel_rdt() {
        check_intel_rdt(rdt, problems);
    }
}

/// Source: runtime-spec 1.3, `config-linux.md`, `intelRdt`.
fn check_intel_rdt(rdt: &oci::LinuxIntelRdt, problems: &mut Problems) {
    let at = "/linux/intelRdt";
    let name = rdt.clos_id().as_deref().unwrap_or_default();
    if name != "/" && (name.contains(['/', '\n', '\0']) || name == "." || name == "..") {
        problems.add(format!("{at}/closID"), "is no name of a directory: want one, or \"/\"");
    }
    let whole = rdt.schemata().iter().flatten().enumerate();
    let lines = whole.map(|(index, line)| (format!("schemata/{index}"), line)).chain(
        [("l3CacheSchema", rdt.l3_cache_schema()), ("memBwSchema", rdt.mem_bw_schema())]
            .into_iter()
            .filter_map(|(name, line)| Some((name.to_owned(), line.as_ref()?))),
    );
    for (name, line) in lines {
        let wrong = line.contains('\n').then_some("holds a newline: want one line");
        problems.add_some(&format!("{at}/{name}"), wrong);
    }
    let bandwidth = rdt.mem_bw_schema().as_deref().filter(|line| !line.is_empty());
    if bandwidth.is_some_and(|line| !line.starts_with("MB:")) {
        problems.add(format!("{at}/memBwSchema"), "want a line that begins with MB:");
    }
}

/// Source: runtime-spec 1.3, "Network Devices"; Linux `net/core/dev.c`, `dev_valid_name()`.
fn check_net_devices(linux: &oci::Linux, spec: &oci::Spec, problems: &mut Problems) {
    let at = "/linux/netDevices";
    let devices = sorted(linux.net_devices().iter().flatten());
    if !devices.is_empty() && !has_namespace(spec, oci::LinuxNamespaceType::Network) {
        let sentence =
            "needs a network namespace: add {\"type\": \"network\"} to /linux/namespaces";
        problems.add(at, sentence);
    }
    let mut taken = Vec::new();
    for (name, device) in devices {
        let pointer = format!("{at}/{}", super::escape(name));
        let inside = device.name().as_deref().filter(|inside| !inside.is_empty());
        if !is_device_name(name) {
            problems.add(&pointer, "is no name of a network device");
        }
        // The kernel puts the first free number for one %d.
        let is_template = inside.is_some_and(|inside| inside.matches("%d").count() == 1);
        let plain =
            inside.map(
                |inside| {
                    if is_template { inside.replacen("%d", "0", 1) } else { inside.to_owned() }
                },
            );
        if plain.as_deref().is_some_and(|plain| !is_device_name(plain)) {
            problems.add(format!("{pointer}/name"), "is no name of a network device");
        }
        let final_name = inside.unwrap_or(name);
        if !is_template && taken.contains(&final_name) {
            problems.add(&pointer, format!("another device is called {final_name:?} inside"));
        }
        taken.push(final_name);
    }
}

fn is_device_name(name: &str) -> bool {
    /// `IFNAMSIZ`, less the NUL.
    const LONGEST: usize = 15;
    let legal = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".."
}

/// Source: `set_mempolicy(2)`; Linux `mm/mempolicy.c`, `mpol_new()` and `sanitize_mpol_flags()`.
fn check_memory_policy(policy: &oci::LinuxMemoryPolicy, problems: &mut Problems) {
    use oci::MemoryPolicyFlagType as Flag;
    let at = "/linux/memoryPolicy";
    let mode = policy.mode();
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    let wrong = match mode {
        Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred if nodes.is_empty() => None,
        _ if nodes.is_empty() => Some(format!("{mode} needs at least one node")),
        _ => match number_list(nodes) {
            Err(wrong) => Some(format!("invalid memory policy nodes: {wrong}")),
            Ok(ranges) if matches!(mode, Mode::MpolDefault | Mode::MpolLocal) => {
                let count: usize = ranges.into_iter().map(Iterator::count).sum();
                Some(format!("{mode}: mode requires 0 nodes but got {count}"))
            }
            Ok(_) => None,
        },
    };
    problems.add_some(&format!("{at}/nodes"), wrong);
    let flags = policy.flags().as_deref().unwrap_or_default();
    let about_nodes = |flag| matches!(flag, Flag::MpolFStaticNodes | Flag::MpolFRelativeNodes);
    let mut seen = None;
    for (index, flag) in flags.iter().enumerate() {
        let wrong = if about_nodes(*flag) {
            let other = seen.replace(*flag).filter(|other| other != flag);
            other.map(|other| format!("{flag} contradicts {other}: remove one of them")).or_else(
                || nodes.is_empty().then(|| format!("{flag} is about nodes, and there are none")),
            )
        } else {
            let takes = matches!(mode, Mode::MpolBind | Mode::MpolPreferredMany);
            (!takes).then(|| format!("{flag} is for MPOL_BIND and MPOL_PREFERRED_MANY: remove it"))
        };
        problems.add_some(&format!("{at}/flags/{index}"), wrong);
    }
}

fn check_time_offsets(linux: &oci::Linux, spec: &oci::Spec, problems: &mut Problems) {
    let at = "/linux/timeOffsets";
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else {
        return;
    };
    let kind = oci::LinuxNamespaceType::Time;
    if !has_namespace(spec, kind) {
        problems.add(at, "needs a time namespace: add {\"type\": \"time\"} to /linux/namespaces");
    } else if namespace(spec, kind).is_some_and(|time| time.path().is_some()) {
        problems.add(at, "is for a new time namespace, not for one that is joined: remove it");
    }
    for (clock, offset) in sorted(offsets.iter()) {
        let pointer = format!("{at}/{}", super::escape(clock));
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            problems.add(&pointer, "is no clock with an offset: want monotonic or boottime");
        }
        if offset.nanosecs().is_some_and(|nanoseconds| nanoseconds >= SECOND) {
            problems.add(format!("{pointer}/nanosecs"), format!("want less than {SECOND}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{checked, table};

    #[test]
    fn schedulers() {
        let scheduler = "/process/scheduler";
        table(
            [
                (scheduler, json!({"policy": "SCHED_BATCH", "nice": 19}), ""),
                (scheduler, json!({"policy": "SCHED_RR", "priority": 99}), ""),
                (
                    scheduler,
                    json!({"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 2000}),
                    "",
                ),
                (
                    scheduler,
                    json!({"policy": "SCHED_ISO", "nice": 20, "priority": 1, "period": 1}),
                    "/process/scheduler/policy: no Linux kernel has SCHED_ISO: choose another; \
                     /process/scheduler/nice: want -20 (first) to 19 (last); \
                     /process/scheduler/priority: is for SCHED_FIFO and SCHED_RR: remove it; \
                     /process/scheduler/period: is for SCHED_DEADLINE: remove it",
                ),
                (
                    scheduler,
                    json!({"policy": "SCHED_FIFO"}),
                    "/process/scheduler/priority: want 1 to 99 for SCHED_FIFO",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn deadlines() {
        let scheduler = "/process/scheduler";
        table(
            [
                (
                    scheduler,
                    json!({"policy": "SCHED_DEADLINE", "runtime": 3000, "deadline": 2500,
                        "period": 2000}),
                    "/process/scheduler/runtime: sched_setattr: `SCHED_DEADLINE` runtime (3000) \
                     must be <= deadline (2500); \
                     /process/scheduler/deadline: sched_setattr: `SCHED_DEADLINE` deadline \
                     (2500) must be <= period (2000)",
                ),
                (
                    scheduler,
                    json!({"policy": "SCHED_DEADLINE", "runtime": 0, "period": 1}),
                    "/process/scheduler/runtime: sched_setattr: `SCHED_DEADLINE` runtime must be \
                     greater than 0: want at least 1024 ns; \
                     /process/scheduler/deadline: sched_setattr: `SCHED_DEADLINE` requires \
                     `deadline`: want at least 1024 ns; \
                     /process/scheduler/period: sched_setattr: `SCHED_DEADLINE` period (1) must be \
                     between 1024 and 9223372036854775808 ns",
                ),
                (
                    scheduler,
                    json!({"policy": "SCHED_DEADLINE", "runtime": 1023, "deadline": 2000}),
                    "/process/scheduler/runtime: sched_setattr: `SCHED_DEADLINE` runtime (1023) \
                     must be between 1024 and 9223372036854775808 ns",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn input_output_and_processors() {
        let class = |priority: i64| json!({"class": "IOPRIO_CLASS_BE", "priority": priority});
        table(
            [
                ("/process/ioPriority", class(7), ""),
                (
                    "/process/ioPriority",
                    class(8),
                    "/process/ioPriority/priority: want 0 (highest) to 7 (lowest)",
                ),
                (
                    "/process/ioPriority",
                    class(-1),
                    "/process/ioPriority/priority: want 0 (highest) to 7 (lowest)",
                ),
                ("/process/execCPUAffinity", json!({"initial": "0-1,3", "final": "0"}), ""),
                (
                    "/process/execCPUAffinity",
                    json!({"initial": "1-0", "final": "8192"}),
                    "/process/execCPUAffinity/initial: \"1-0\" ends before it begins; \
                     /process/execCPUAffinity/final: \"8192\" is not a number from 0 to 8191",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn memory_policies() {
        let at = "/linux/memoryPolicy";
        table(
            [
                (at, json!({"mode": "MPOL_DEFAULT", "nodes": ""}), ""),
                (at, json!({"mode": "MPOL_PREFERRED"}), ""),
                (
                    at,
                    json!({"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES",
                        "MPOL_F_NUMA_BALANCING"]}),
                    "",
                ),
                (
                    at,
                    json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
                    "/linux/memoryPolicy/nodes: MPOL_LOCAL: mode requires 0 nodes but got 1",
                ),
                (
                    at,
                    json!({"mode": "MPOL_INTERLEAVE"}),
                    "/linux/memoryPolicy/nodes: MPOL_INTERLEAVE needs at least one node",
                ),
                (
                    at,
                    json!({"mode": "MPOL_INTERLEAVE", "nodes": "x", "flags":
                        ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING"]}),
                    "/linux/memoryPolicy/nodes: invalid memory policy nodes: \"x\" is not a number from 0 to 8191; \
                     /linux/memoryPolicy/flags/1: MPOL_F_RELATIVE_NODES contradicts \
                     MPOL_F_STATIC_NODES: remove one of them; \
                     /linux/memoryPolicy/flags/2: MPOL_F_NUMA_BALANCING is for MPOL_BIND and \
                     MPOL_PREFERRED_MANY: remove it",
                ),
                (
                    at,
                    json!({"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES"]}),
                    "/linux/memoryPolicy/flags/0: MPOL_F_STATIC_NODES is about nodes, and there \
                     are none",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn classes_of_service() {
        let at = "/linux/intelRdt";
        table(
            [
                (at, json!({"closID": "/", "schemata": ["L3:0=f", "MB:0=10"]}), ""),
                (at, json!({"closID": "gold", "memBwSchema": "MB:0=10"}), ""),
                (
                    at,
                    json!({"closID": "../a", "schemata": ["L3:0=f\nMB:0=1"],
                        "l3CacheSchema": "L3:0=f\n", "memBwSchema": "L3:0=f"}),
                    "/linux/intelRdt/closID: is no name of a directory: want one, or \"/\"; \
                     /linux/intelRdt/schemata/0: holds a newline: want one line; \
                     /linux/intelRdt/l3CacheSchema: holds a newline: want one line; \
                     /linux/intelRdt/memBwSchema: want a line that begins with MB:",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn network_devices() {
        let linux =
            |devices: Value| json!({"namespaces": [{"type": "network"}], "netDevices": devices});
        table(
            [
                ("/linux", linux(json!({"eth0": {}, "eth1": {"name": "in%d"}})), ""),
                (
                    "/linux",
                    json!({"netDevices": {"eth0": {}}}),
                    "/linux/netDevices: needs a network namespace: add {\"type\": \"network\"} to \
                     /linux/namespaces",
                ),
                (
                    "/linux",
                    linux(json!({"a b": {"name": "%d%d"}, "eth0": {"name": "x"},
                        "x": {}, "y": {"name": "0123456789abcdef"}})),
                    "/linux/netDevices/a b: is no name of a network device; \
                     /linux/netDevices/a b/name: is no name of a network device; \
                     /linux/netDevices/x: another device is called \"x\" inside; \
                     /linux/netDevices/y/name: is no name of a network device",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn personalities_and_time() {
        let offsets = json!({"monotonic": {"secs": -1, "nanosecs": 5}});
        table(
            [
                ("/linux/personality", json!({"domain": "LINUX32"}), ""),
                (
                    "/linux/personality",
                    json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}),
                    "/linux/personality/flags: runtime-spec has no flags yet: remove them",
                ),
                ("/linux", json!({"namespaces": [{"type": "time"}], "timeOffsets": offsets}), ""),
                (
                    "/linux",
                    json!({"timeOffsets": offsets}),
                    "/linux/timeOffsets: needs a time namespace: add {\"type\": \"time\"} to \
                     /linux/namespaces",
                ),
                (
                    "/linux",
                    json!({"namespaces": [{"type": "time", "path": "/proc/1/ns/time"}],
                        "timeOffsets": {"realtime": {"nanosecs": 1_000_000_000}}}),
                    "/linux/timeOffsets: is for a new time namespace, not for one that is joined: \
                     remove it; /linux/timeOffsets/realtime: is no clock with an offset: want \
                     monotonic or boottime; /linux/timeOffsets/realtime/nanosecs: want less than \
                     1000000000",
                ),
            ],
            checked,
        );
    }
}
