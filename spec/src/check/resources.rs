//! `linux.resources`: limits that a cgroup can hold at all.

use oci_spec::runtime as oci;

use super::Problems;

pub(super) fn check(resources: &oci::LinuxResources, problems: &mut Problems) {
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        check_device(rule, &format!("/linux/resources/devices/{index}"), problems);
    }
    if let Some(memory) = resources.memory() {
        check_memory(memory, problems);
    }
    if let Some(cpu) = resources.cpu() {
        check_cpu(cpu, problems);
    }
}

/// Engines write -1 as well as nothing for "all numbers".
fn check_device(rule: &oci::LinuxDeviceCgroup, at: &str, problems: &mut Problems) {
    if matches!(rule.typ(), Some(oci::LinuxDeviceType::U | oci::LinuxDeviceType::P)) {
        problems.add(format!("{at}/type"), "want \"a\", \"b\" or \"c\"");
    }
    for (name, number) in [("major", rule.major()), ("minor", rule.minor())] {
        if number.is_some_and(|number| number < -1) {
            problems.add(format!("{at}/{name}"), "want a number, or -1 for all");
        }
    }
    let access = rule.access().as_deref().unwrap_or_default();
    if !access.chars().all(|letter| "rwm".contains(letter)) {
        problems.add(format!("{at}/access"), format!("{access:?} is not made of r, w and m"));
    }
}

fn check_memory(memory: &oci::LinuxMemory, problems: &mut Problems) {
    for (name, bytes) in
        [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())]
    {
        if bytes.is_some_and(|bytes| bytes < -1) {
            problems
                .add(format!("/linux/resources/memory/{name}"), "want bytes, or -1 for no limit");
        }
    }
    let (limit, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    if limit > 0 && swap > 0 && swap < limit {
        problems.add(
            "/linux/resources/memory/swap",
            format!("{swap} is memory and swap together, so at least the memory limit {limit}"),
        );
    }
    // -1 as a u64, which podman writes, is "not given".
    if memory.swappiness().is_some_and(|percent| percent > 100 && percent != u64::MAX) {
        problems.add("/linux/resources/memory/swappiness", "want 0 to 100");
    }
}

fn check_cpu(cpu: &oci::LinuxCpu, problems: &mut Problems) {
    if cpu.quota().is_some_and(|quota| quota < -1) {
        problems.add("/linux/resources/cpu/quota", "want microseconds, or -1 for no limit");
    }
    if cpu.idle().is_some_and(|idle| !(0..=1).contains(&idle)) {
        problems.add("/linux/resources/cpu/idle", "want 0 or 1");
    }
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        let list = list.as_deref().unwrap_or_default();
        if !list.is_empty() && !is_list(list) {
            let sentence = format!("{list:?} is no list of numbers and ranges, as in 0-3,7");
            problems.add(format!("/linux/resources/cpu/{name}"), sentence);
        }
    }
}

/// The list format of `cpuset(7)`.
fn is_list(list: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    list.trim().split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(a, b)| a <= b),
        None => number(part).is_some(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::tests::{checked, table},
        is_list,
    };

    #[test]
    fn resources() {
        table(
            [
                (
                    "/linux/resources",
                    json!({
                        "devices": [{"allow": false, "access": "rwm"},
                                    {"allow": true, "type": "c", "major": -1, "access": ""}],
                        "memory": {"limit": -1, "swap": 0},
                        "cpu": {"shares": 0, "quota": -1, "cpus": "0-3,7\n", "mems": ""},
                        "pids": {"limit": 0}
                    }),
                    "",
                ),
                (
                    "/linux/resources/devices",
                    json!([{"allow": true, "type": "p", "major": -2, "access": "rx"}]),
                    "/linux/resources/devices/0/type: want \"a\", \"b\" or \"c\"; \
                     /linux/resources/devices/0/major: want a number, or -1 for all; \
                     /linux/resources/devices/0/access: \"rx\" is not made of r, w and m",
                ),
                (
                    "/linux/resources/memory",
                    json!({"limit": 2, "swap": 1, "reservation": -2, "swappiness": 101}),
                    "/linux/resources/memory/reservation: want bytes, or -1 for no limit; \
                     /linux/resources/memory/swap: 1 is memory and swap together, \
                     so at least the memory limit 2; \
                     /linux/resources/memory/swappiness: want 0 to 100",
                ),
                (
                    "/linux/resources/cpu",
                    json!({"quota": -2, "idle": 2, "cpus": "3-1"}),
                    "/linux/resources/cpu/quota: want microseconds, or -1 for no limit; \
                     /linux/resources/cpu/idle: want 0 or 1; \
                     /linux/resources/cpu/cpus: \"3-1\" is no list of numbers and ranges, \
                     as in 0-3,7",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn lists() {
        for (list, accepted) in
            [("0", true), ("0-3,7", true), ("0-", false), ("1,,2", false), ("a", false)]
        {
            assert_eq!(is_list(list), accepted, "{list:?}");
        }
    }
}
