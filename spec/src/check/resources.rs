//! `linux.resources`: limits that a cgroup can hold at all.

use std::ops::RangeInclusive;

use oci_spec::runtime as oci;

use super::{Problems, escape, linux::sorted};

/// Weights of block I/O (runtime-spec, "Block IO").
const WEIGHTS: RangeInclusive<u16> = 10..=1000;

/// `IFNAMSIZ` without the NUL: bytes of an interface's name.
const INTERFACE_NAME_MAX: usize = 15;

/// Files of version 2 that are no limits: they would move, kill or stop processes.
const ACTIONS: [&str; 5] =
    ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type"];

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
    if let Some(block_io) = resources.block_io() {
        check_block_io(block_io, problems);
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        check_huge_pages(limit, &format!("/linux/resources/hugepageLimits/{index}"), problems);
    }
    let network = resources.network().as_ref();
    let priorities = network.and_then(|network| network.priorities().as_ref());
    for (index, priority) in priorities.into_iter().flatten().enumerate() {
        let at = format!("/linux/resources/network/priorities/{index}/name");
        problems.add_some(&at, wrong_interface(priority.name()));
    }
    for (name, _) in sorted(resources.rdma().iter().flatten()) {
        let at = format!("/linux/resources/rdma/{}", escape(name));
        problems.add_some(&at, wrong_word(name, "a device"));
    }
    for (name, text) in sorted(resources.unified().iter().flatten()) {
        let at = format!("/linux/resources/unified/{}", escape(name));
        problems.add_some(&at, wrong_unified(name));
        problems.add_some(&at, text.contains('\0').then_some("holds a NUL"));
    }
}

fn check_block_io(block_io: &oci::LinuxBlockIo, problems: &mut Problems) {
    let at = "/linux/resources/blockIO";
    let mut weight = |pointer: String, weight: Option<u16>| {
        // Engines write 0 for "not given".
        if weight.is_some_and(|weight| weight != 0 && !WEIGHTS.contains(&weight)) {
            let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
            problems.add(pointer, format!("want {least} to {most}"));
        }
    };
    weight(format!("{at}/weight"), block_io.weight());
    weight(format!("{at}/leafWeight"), block_io.leaf_weight());
    let devices = block_io.weight_device().as_deref().unwrap_or_default();
    for (index, device) in devices.iter().enumerate() {
        weight(format!("{at}/weightDevice/{index}/weight"), device.weight());
        weight(format!("{at}/weightDevice/{index}/leafWeight"), device.leaf_weight());
    }
    for (index, device) in devices.iter().enumerate() {
        let at = format!("{at}/weightDevice/{index}");
        problems.add_some(&at, wrong_number(device.major(), device.minor()));
    }
    for (name, devices) in [
        ("throttleReadBpsDevice", block_io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", block_io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", block_io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", block_io.throttle_write_iops_device()),
    ] {
        for (index, device) in devices.iter().flatten().enumerate() {
            let at = format!("{at}/{name}/{index}");
            problems.add_some(&at, wrong_number(device.major(), device.minor()));
        }
    }
}

fn wrong_number(major: i64, minor: i64) -> Option<&'static str> {
    (major < 0 || minor < 0).then_some("want the numbers of one device")
}

/// The size is part of a file's name, so it must be no path.
fn check_huge_pages(limit: &oci::LinuxHugepageLimit, at: &str, problems: &mut Problems) {
    let size = limit.page_size();
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
    let is_number = |text: &str| {
        !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
    };
    if !number.is_some_and(is_number) {
        let sentence = format!("{size:?} is no size of pages: want one as in 64KB, 2MB, 1GB");
        problems.add(format!("{at}/pageSize"), sentence);
    }
    if limit.limit() < 0 {
        problems.add(format!("{at}/limit"), "want bytes");
    }
}

fn wrong_interface(name: &str) -> Option<String> {
    if name.len() > INTERFACE_NAME_MAX {
        return Some(format!("{name:?} has more than {INTERFACE_NAME_MAX} bytes"));
    }
    wrong_word(name, "an interface")
}

/// Names are one word of a line that the kernel reads.
fn wrong_word(name: &str, what: &str) -> Option<String> {
    let is_word = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '\0');
    (!is_word).then(|| format!("{name:?} is no name of {what}"))
}

/// Each key is the name of a file in the container's own cgroup.
fn wrong_unified(name: &str) -> Option<String> {
    let controller = name.split_once('.').map_or("", |(controller, _)| controller);
    let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.contains('/') {
        Some("is a path: want the name of a file (no slashes)".to_owned())
    } else if controller.is_empty() || !controller.bytes().all(is_lower) {
        let form = "the specified key has not the form CONTROLLER.VALUE";
        Some(format!("{form} `{name}`: want the name of a file, as in memory.high"))
    } else if ACTIONS.contains(&name) {
        Some("is no limit: remove it".to_owned())
    } else {
        None
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
    // runc takes an "a" too, by which nothing more is meant.
    if !access.chars().all(|letter| "rwma".contains(letter)) {
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
    if cpu.realtime_runtime().is_some_and(|runtime| runtime < -1) {
        problems.add("/linux/resources/cpu/realtimeRuntime", "want microseconds, or -1 for none");
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
                    json!([{"allow": true, "type": "p", "major": -2, "access": "rx"},
                           {"allow": true, "access": "rwa"}]),
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
    fn resources_of_devices_and_networks() {
        table(
            [
                (
                    "/linux/resources/blockIO",
                    json!({"weight": 9, "leafWeight": 0,
                        "weightDevice": [{"major": 8, "minor": -1, "weight": 1001}],
                        "throttleReadIOPSDevice": [{"major": -8, "minor": 0, "rate": 1}]}),
                    "/linux/resources/blockIO/weight: want 10 to 1000; \
                     /linux/resources/blockIO/weightDevice/0/weight: want 10 to 1000; \
                     /linux/resources/blockIO/weightDevice/0: want the numbers of one device; \
                     /linux/resources/blockIO/throttleReadIOPSDevice/0: \
                     want the numbers of one device",
                ),
                (
                    "/linux/resources/hugepageLimits",
                    json!([{"pageSize": "2MB", "limit": 0}, {"pageSize": "../2MB", "limit": -1},
                        {"pageSize": "GB", "limit": 1}]),
                    "/linux/resources/hugepageLimits/1/pageSize: \"../2MB\" is no size of pages: \
                     want one as in 64KB, 2MB, 1GB; \
                     /linux/resources/hugepageLimits/1/limit: want bytes; \
                     /linux/resources/hugepageLimits/2/pageSize: \"GB\" is no size of pages: \
                     want one as in 64KB, 2MB, 1GB",
                ),
                (
                    "/linux/resources/network",
                    json!({"classID": 1, "priorities": [{"name": "e 0", "priority": 1},
                        {"name": "sixteen-letters-", "priority": 1}]}),
                    "/linux/resources/network/priorities/0/name: \"e 0\" is no name of an \
                     interface; /linux/resources/network/priorities/1/name: \
                     \"sixteen-letters-\" has more than 15 bytes",
                ),
                ("/linux/resources/rdma", json!({"mlx5_1": {"hcaHandles": 1}}), ""),
                (
                    "/linux/resources/rdma",
                    json!({"": {"hcaHandles": 1}}),
                    "/linux/resources/rdma/: \"\" is no name of a device",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn words_of_version_2_are_names_of_limits() {
        for (name, complaint) in [
            ("memory.high", ""),
            ("hugetlb.1GB.rsvd.max", ""),
            ("../memory.max", "is a path"),
            ("NOT-A-VALID-KEY", "has not the form CONTROLLER.VALUE `NOT-A-VALID-KEY`"),
            (".max", "has not the form CONTROLLER.VALUE"),
            ("cgroup.procs", "is no limit"),
            ("cgroup.max.depth", ""),
        ] {
            let wrong = super::wrong_unified(name).unwrap_or_default();
            assert!(wrong.contains(complaint), "{name}: {wrong}");
            assert_eq!(wrong.is_empty(), complaint.is_empty(), "{name}: {wrong}");
        }
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
