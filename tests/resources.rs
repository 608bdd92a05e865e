//! Limits: those of config.json and those of `update`, seen from inside the container.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::{Bundle, Outcome, Sandbox, is_root, outcome};

/// A bundle that shows the container its own cgroups.
fn bundle(sandbox: &Sandbox, args: &[&str], resources: Value) -> Bundle {
    let bundle = sandbox.bundle(args);
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]);
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "cgroup" }));
        config["linux"]["resources"] = resources;
    });
    bundle
}

/// Whether this machine has `controller` in version 1 and the caller may use it.
fn has_v1(controller: &str) -> bool {
    is_root() && fs::exists(format!("/sys/fs/cgroup/{controller}/cgroup.procs")).unwrap()
}

/// Whether `controller` can be had in version 2.
fn has_v2(controller: &str) -> bool {
    let top = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let list = |top| fs::read_to_string(format!("{top}/cgroup.controllers")).unwrap_or_default();
    is_root() && top.into_iter().any(|top| list(top).split_whitespace().any(|c| c == controller))
}

/// What the container sees in the file of its version.
fn seen(sandbox: &Sandbox, id: &str, controller: &str, v1: &str, v2: &str) -> String {
    let file = if has_v1(controller) {
        format!("/sys/fs/cgroup/{controller}/{v1}")
    } else {
        let top = if sandbox.rrun(&["exec", id, "test", "-d", "/sys/fs/cgroup/unified"]).code == 0 {
            "/sys/fs/cgroup/unified"
        } else {
            "/sys/fs/cgroup"
        };
        format!("{top}/{v2}")
    };
    sandbox.rrun(&["exec", id, "cat", &file]).ok().line().to_owned()
}

fn has(controller: &str) -> bool {
    has_v1(controller) || has_v2(controller)
}

/// `rrun update` with JSON on standard input.
fn update_with(sandbox: &Sandbox, id: &str, resources: &Value) -> Outcome {
    let mut command = sandbox.command(&["update", "--resources", "-", id]);
    let mut running = outcome::spawn(command.stdin(Stdio::piped()));
    let mut input = running.child.stdin.take().unwrap();
    input.write_all(resources.to_string().as_bytes()).unwrap();
    drop(input);
    running.wait()
}

#[test]
fn limits_of_the_configuration_are_in_force() {
    if !has("memory") || !has("cpu") || !has("pids") {
        return;
    }
    let sandbox = Sandbox::new();
    let resources = json!({
        "memory": { "limit": 33_554_432, "reservation": 25_165_824, "kernel": 5 },
        "cpu": { "shares": 100, "quota": 500_000, "period": 1_000_000, "burst": 1000, "cpus": "0" },
        "pids": { "limit": 20 },
    });
    let bundle = bundle(&sandbox, &["sleep", "1000"], resources);
    let id = sandbox.start(&bundle, "limits");
    for (controller, v1, v2, expected) in [
        ("memory", "memory.limit_in_bytes", "memory.max", "33554432"),
        ("memory", "memory.soft_limit_in_bytes", "memory.low", "25165824"),
        ("pids", "pids.max", "pids.max", "20"),
        ("cpuset", "cpuset.cpus", "cpuset.cpus", "0"),
    ] {
        assert_eq!(seen(&sandbox, &id, controller, v1, v2), expected, "{v1} {v2}");
    }
    let shares = if has_v1("cpu") { "100" } else { "17" };
    assert_eq!(seen(&sandbox, &id, "cpu", "cpu.shares", "cpu.weight"), shares);
    let quota = if has_v1("cpu") { "500000" } else { "500000 1000000" };
    assert_eq!(seen(&sandbox, &id, "cpu", "cpu.cfs_quota_us", "cpu.max"), quota);
    assert_eq!(seen(&sandbox, &id, "cpu", "cpu.cfs_burst_us", "cpu.max.burst"), "1000");
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn update_changes_what_is_given_and_leaves_the_rest() {
    if !has("memory") || !has("cpu") || !has("pids") {
        return;
    }
    let sandbox = Sandbox::new();
    let resources = json!({
        "memory": { "limit": 33_554_432, "swap": 67_108_864 },
        "cpu": { "quota": 500_000, "period": 1_000_000 },
        "pids": { "limit": 20 },
    });
    let bundle = bundle(&sandbox, &["sleep", "1000"], resources);
    let id = sandbox.start(&bundle, "update");
    let limit =
        |sandbox: &Sandbox| seen(sandbox, &id, "memory", "memory.limit_in_bytes", "memory.max");
    let quota = |sandbox: &Sandbox| {
        let quota = seen(sandbox, &id, "cpu", "cpu.cfs_quota_us", "cpu.max");
        if has_v1("cpu") {
            quota + " " + &seen(sandbox, &id, "cpu", "cpu.cfs_period_us", "")
        } else {
            quota
        }
    };
    // More than the old limit of memory and swap together.
    sandbox.rrun(&["update", &id, "--memory", "100M", "--memory-swap", "200m"]).ok();
    assert_eq!(limit(&sandbox), "104857600");
    sandbox.rrun(&["update", "--cpu-period", "900000", &id]).ok();
    assert_eq!(quota(&sandbox), "500000 900000");
    sandbox.rrun(&["update", "--cpu-quota", "600000", &id]).ok();
    assert_eq!(quota(&sandbox), "600000 900000", "a later command knows what an earlier one set");
    update_with(&sandbox, &id, &json!({ "pids": { "limit": 33 }, "memory": {} })).ok();
    assert_eq!(seen(&sandbox, &id, "pids", "pids.max", "pids.max"), "33");
    assert_eq!(limit(&sandbox), "104857600");
    sandbox.rrun(&["update", "--memory", "-1", "--pids-limit", "-1", &id]).ok();
    assert_eq!(seen(&sandbox, &id, "pids", "pids.max", "pids.max"), "max");
    let unlimited = limit(&sandbox);
    assert!(unlimited == "max" || unlimited.len() > 15, "{unlimited}");
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn an_update_that_is_refused_names_the_file_and_changes_nothing() {
    if !has("cpu") || !has("pids") {
        return;
    }
    let sandbox = Sandbox::new();
    let bundle = bundle(&sandbox, &["sleep", "1000"], json!({ "pids": { "limit": 20 } }));
    let id = sandbox.start(&bundle, "refused");
    let file = if has_v1("cpu") { "cpu.cfs_period_us" } else { "cpu.max" };
    sandbox.rrun(&["update", "--pids-limit", "50", "--cpu-period", "5", &id]).complains_of(&[
        "/linux/resources/cpu/period",
        file,
        "EINVAL",
    ]);
    assert_eq!(seen(&sandbox, &id, "pids", "pids.max", "pids.max"), "20");
    for (asked, complaint) in [
        (json!({ "blockIO": { "weight": 5 } }), "/linux/resources/blockIO/weight: want 10 to 1000"),
        (json!({ "cpu": { "cpus": "x" } }), "/linux/resources/cpu/cpus"),
        (json!({ "unified": { "../x": "1" } }), "/linux/resources/unified/..~1x"),
        (
            json!({ "memory": { "limit": "1" } }),
            "standard input line 1 column 22: /memory/limit: invalid type",
        ),
    ] {
        update_with(&sandbox, &id, &asked).complains_of(&[complaint]);
    }
    sandbox
        .rrun(&["update", "--l3-cache-schema", "L3:0=f", &id])
        .complains_of(&["updating a non-existent Intel RDT configuration is not supported"]);
    sandbox.remove(&id);
    sandbox.rrun(&["update", "--pids-limit", "5", &id]).complains_of(&["does not exist"]);
    sandbox.assert_nothing_left();
}

/// Device rules are replaced at once; version 2 has a program for them.
#[test]
fn update_replaces_device_rules() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let deny = json!({ "allow": false, "access": "rwm" });
    let bundle = bundle(&sandbox, &["sleep", "1000"], json!({ "devices": [deny] }));
    bundle.edit(|config| {
        config["linux"]["devices"] =
            json!([{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 }]);
    });
    let id = sandbox.start(&bundle, "devices");
    let reads = || sandbox.rrun(&["exec", &id, "sh", "-c", ": < /dev/fuse"]).code;
    assert_ne!(reads(), 0);
    let allow = json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" });
    update_with(&sandbox, &id, &json!({ "devices": [deny, allow] })).ok();
    assert_eq!(reads(), 0);
    update_with(&sandbox, &id, &json!({ "devices": [deny] })).ok();
    assert_ne!(reads(), 0);
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

#[test]
fn huge_pages_and_the_words_of_version_2() {
    let pages = fs::exists("/sys/kernel/mm/hugepages/hugepages-2048kB").unwrap();
    if !pages || !has_v2("hugetlb") {
        return;
    }
    let sandbox = Sandbox::new();
    let resources = json!({
        "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }],
        "unified": { "hugetlb.1GB.max": "1073741824" },
    });
    let bundle = bundle(&sandbox, &["sleep", "1000"], resources);
    let id = sandbox.start(&bundle, "huge");
    for (file, expected) in [
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
        ("hugetlb.1GB.max", "1073741824"),
    ] {
        assert_eq!(seen(&sandbox, &id, "hugetlb", "", file), expected, "{file}");
    }
    update_with(&sandbox, &id, &json!({ "unified": { "hugetlb.1GB.max": "max" } })).ok();
    assert_eq!(seen(&sandbox, &id, "hugetlb", "", "hugetlb.1GB.max"), "max");
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}

/// What no version or no kernel has is refused, never ignored.
#[test]
fn what_cannot_be_set_is_an_error() {
    for (resources, complaint) in [
        (json!({ "rdma": { "mlx5_9": { "hcaHandles": 2 } } }), "/linux/resources/rdma/mlx5_9"),
        (json!({ "network": { "classID": 7 } }), "/linux/resources/network/classID"),
        (json!({ "unified": { "foo.bar": "1" } }), "no foo controller"),
        (json!({ "blockIO": { "leafWeight": 10 } }), "/linux/resources/blockIO/leafWeight"),
    ] {
        let sandbox = Sandbox::new();
        let bundle = bundle(&sandbox, &["true"], resources);
        sandbox.run(&bundle).complains_of(&[complaint]);
        sandbox.assert_nothing_left();
    }
}

/// `exec --cgroup` puts a program below the container's cgroup, and nowhere else.
#[test]
fn exec_goes_into_the_cgroup_that_is_asked_for() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let bundle = bundle(&sandbox, &["sleep", "1000"], json!({}));
    bundle.edit(|config| {
        config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["rw"]);
    });
    let id = sandbox.start(&bundle, "below");
    let own =
        |cgroup: &str| sandbox.rrun(&["exec", "--cgroup", cgroup, &id, "cat", "/proc/self/cgroup"]);
    let unified = "d=/sys/fs/cgroup/unified; [ -d $d ] || d=/sys/fs/cgroup;";
    let make = format!(
        "{unified} mkdir $d/sub; for c in cpu memory; do mkdir -p /sys/fs/cgroup/$c/sub; done; true"
    );
    sandbox.rrun(&["exec", &id, "sh", "-c", &make]).ok();
    assert!(own("/").ok().stdout.contains("0::/\n"));
    assert!(own(":sub").ok().stdout.contains("0::/sub\n"));
    if has_v1("memory") {
        let seen = own("memory:sub").ok().stdout;
        assert!(seen.contains(":memory:/sub\n") && seen.contains("0::/\n"), "{seen}");
    }
    own("..").complains_of(&["bad sub cgroup path", "`..` components are not allowed"]);
    own(":nonexistent").complains_of(&[" adding pid ", "o such file or directory"]);
    own("whaaat:/").complains_of(&["unknown controller whaaat"]);
    // A cgroup that hands controllers down takes no process: then it is that of init.
    let hand_down = format!(
        "{unified} echo 1 > $d/sub/cgroup.procs; echo +hugetlb > $d/cgroup.subtree_control"
    );
    if has_v2("hugetlb") {
        sandbox.rrun(&["exec", "--cgroup", ":sub", &id, "sh", "-c", &hand_down]).ok();
        let seen = sandbox.rrun(&["exec", &id, "cat", "/proc/self/cgroup"]).ok().stdout;
        assert!(seen.contains("0::/sub\n"), "{seen}");
        own(":/").complains_of(&[" adding pid ", "evice or resource busy"]);
    }
    sandbox.remove(&id);
    sandbox.assert_nothing_left();
}
