use super::*;

fn parse(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn limits(json: &str) -> Result<Limits> {
    Limits::new(Some(&parse(json)))
}

fn shown(form: &Form) -> String {
    match form {
        Form::Given => "-".to_owned(),
        Form::Impossible(_) => "!".to_owned(),
        Form::Files(files) => {
            let text =
                |(name, text): &(std::borrow::Cow<'_, str>, String)| format!("{name}={text}");
            files.iter().map(text).collect::<Vec<_>>().join("|")
        }
    }
}

/// `field v1-file=text v2-file=text` of each setting; `|` is "or", `-` nothing, `!` impossible.
fn written(limits: &Limits) -> Vec<String> {
    let text = |setting: &Setting| {
        let optional = if setting.optional { "?" } else { "" };
        format!("{}{optional} {} {}", setting.field, shown(&setting.v1), shown(&setting.v2))
    };
    limits.settings.iter().map(text).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_written_where() {
    for (json, expected) in [
        (r#"{"pids": {"limit": 5}}"#, vec!["pids/limit pids.max=5 pids.max=5"]),
        (r#"{"pids": {"limit": -1}}"#, vec!["pids/limit pids.max=max pids.max=max"]),
        (r#"{"pids": {"limit": 0}}"#, vec!["pids/limit pids.max=1 pids.max=1"]),
        (
            r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 10}}"#,
            vec![
                "memory/limit memory.limit_in_bytes=1000 memory.max=1000",
                "memory/reservation memory.soft_limit_in_bytes=10 memory.low=10",
                "memory/swap memory.memsw.limit_in_bytes=1500 memory.swap.max=500",
            ],
        ),
        (
            r#"{"memory": {"limit": -1, "swap": -1}}"#,
            vec![
                "memory/limit memory.limit_in_bytes=-1 memory.max=max",
                "memory/swap? memory.memsw.limit_in_bytes=-1 memory.swap.max=max",
            ],
        ),
        (
            r#"{"memory": {"limit": -1}}"#,
            vec![
                "memory/limit memory.limit_in_bytes=-1 memory.max=max",
                "memory/swap? memory.memsw.limit_in_bytes=-1 memory.swap.max=max",
            ],
        ),
        (
            r#"{"memory": {"limit": 7, "swap": 7, "swappiness": 30, "disableOOMKiller": true}}"#,
            vec![
                "memory/limit memory.limit_in_bytes=7 memory.max=7",
                "memory/swap? memory.memsw.limit_in_bytes=7 memory.swap.max=0",
                "memory/swappiness memory.swappiness=30 !",
                "memory/disableOOMKiller memory.oom_control=1 !",
            ],
        ),
        (
            r#"{"cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 9}}"#,
            vec![
                "cpu/shares cpu.shares=1024 cpu.weight=100",
                "cpu/burst cpu.cfs_burst_us=9 cpu.max.burst=9",
                "cpu/period cpu.cfs_period_us=100000 -",
                "cpu/quota cpu.cfs_quota_us=50000 cpu.max=50000 100000",
            ],
        ),
        (r#"{"cpu": {"quota": -1}}"#, vec!["cpu/quota cpu.cfs_quota_us=-1 cpu.max=max"]),
        (
            r#"{"cpu": {"period": 5000}}"#,
            vec!["cpu/period cpu.cfs_period_us=5000 cpu.max=max 5000"],
        ),
        (
            r#"{"cpu": {"cpus": "0-1\n", "mems": "0", "idle": 1, "shares": 5}}"#,
            vec![
                "cpu/idle cpu.idle=1 cpu.idle=1",
                "cpu/cpus cpuset.cpus=0-1 cpuset.cpus=0-1",
                "cpu/mems cpuset.mems=0 cpuset.mems=0",
            ],
        ),
        (
            r#"{"cpu": {"realtimeRuntime": 4, "realtimePeriod": 5, "shares": 300000}}"#,
            vec![
                "cpu/shares ! cpu.weight=10000",
                "cpu/realtimePeriod cpu.rt_period_us=5 !",
                "cpu/realtimeRuntime cpu.rt_runtime_us=4 !",
            ],
        ),
    ] {
        assert_eq!(written(&limits(json).unwrap()), expected, "{json}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn devices_pages_and_networks() {
    for (json, expected) in [
        (
            r#"{"blockIO": {"weight": 100, "leafWeight": 20,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 11}]}}"#,
            vec![
                "blockIO/weight blkio.weight=100|blkio.bfq.weight=100 io.bfq.weight=100|io.weight=910",
                "blockIO/leafWeight blkio.leaf_weight=20 !",
                "blockIO/weightDevice/0/weight \
                 blkio.weight_device=8:0 10|blkio.bfq.weight_device=8:0 10 \
                 io.bfq.weight=8:0 10|io.weight=8:0 1",
                "blockIO/weightDevice/0/leafWeight blkio.leaf_weight_device=8:0 11 !",
            ],
        ),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 5}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 0}]}}"#,
            vec![
                "blockIO/throttleReadBpsDevice/0 blkio.throttle.read_bps_device=8:1 5 \
                 io.max=8:1 rbps=5",
                "blockIO/throttleWriteIOPSDevice/0 blkio.throttle.write_iops_device=8:1 0 \
                 io.max=8:1 wiops=max",
            ],
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 7}]}"#,
            vec![
                "hugepageLimits/0 hugetlb.2MB.limit_in_bytes=7 hugetlb.2MB.max=7",
                "hugepageLimits/0? hugetlb.2MB.rsvd.limit_in_bytes=7 hugetlb.2MB.rsvd.max=7",
            ],
        ),
        (
            r#"{"network": {"classID": 66, "priorities": [{"name": "lo", "priority": 3}]}}"#,
            vec![
                "network/classID net_cls.classid=66 !",
                "network/priorities/0 net_prio.ifpriomap=lo 3 !",
            ],
        ),
        (
            r#"{"rdma": {"mlx5_1": {"hcaHandles": 2, "hcaObjects": 3}, "a": {}, "b": {"hcaHandles": 4}}}"#,
            vec![
                "rdma/b rdma.max=b hca_handle=4 rdma.max=b hca_handle=4",
                "rdma/mlx5_1 rdma.max=mlx5_1 hca_handle=2 hca_object=3 \
                 rdma.max=mlx5_1 hca_handle=2 hca_object=3",
            ],
        ),
        (
            r#"{"unified": {"pids.max": "7", "io.max": " 8:0 rbps=1\n8:16 rbps=2\n"}}"#,
            vec![
                "unified/io.max ! io.max=8:0 rbps=1\n8:16 rbps=2",
                "unified/pids.max ! pids.max=7",
            ],
        ),
    ] {
        assert_eq!(written(&limits(json).unwrap()), expected, "{json}");
    }
}

#[test]
fn zeros_and_empty_objects_ask_for_nothing() {
    for json in [
        "{}",
        r#"{"memory": {}, "cpu": {}, "blockIO": {"weight": 0}}"#,
        r#"{"memory": {"limit": 0, "swap": 0, "disableOOMKiller": false, "kernel": 0}}"#,
        r#"{"memory": {"swappiness": 18446744073709551615}}"#,
        r#"{"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "realtimePeriod": 0}}"#,
        r#"{"cpu": {"burst": 0, "idle": 0}}"#,
        r#"{"network": {}, "hugepageLimits": [], "rdma": {}, "unified": {}, "devices": []}"#,
    ] {
        assert_eq!(limits(json).unwrap(), Limits::default(), "{json}");
    }
    assert_eq!(Limits::new(None).unwrap(), Limits::default());
}

#[test]
fn nonsense_is_refused_and_what_has_no_effect_is_said() {
    for (json, complaint) in [
        (r#"{"memory": {"swap": 5}}"#, "/linux/resources/memory/swap: needs memory.limit"),
        (r#"{"memory": {"limit": 6, "swap": 5}}"#, "5 is below memory.limit, 6"),
    ] {
        let error = format!("{:#}", limits(json).unwrap_err());
        assert!(error.contains(complaint), "{error}");
    }
    let kernel = limits(r#"{"memory": {"kernel": 5}}"#).unwrap();
    assert_eq!(written(&kernel), Vec::<String>::new());
    assert!(kernel.warnings()[0].contains("kernelTCP have no effect"));
}

#[test]
fn a_limit_without_a_cgroup_names_the_controller_and_the_cure() {
    let limited = limits(r#"{"pids": {"limit": 5}}"#).unwrap();
    let error = format!("{:#}", limited.refuse_without_cgroup().unwrap_err());
    assert!(error.starts_with("cannot set pids limit: container could not join"), "{error}");
    assert!(error.contains("/linux/resources/pids/limit: no pids controller"), "{error}");
    assert!(error.contains("\"Delegate=pids\" below [Service]"), "{error}");
    let devices = limits(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#).unwrap();
    devices.refuse_without_cgroup().unwrap();
}

#[test]
fn a_change_writes_the_sections_that_it_speaks_of() {
    let merged = parse(
        r#"{"pids": {"limit": 5}, "cpu": {"quota": 5000, "period": 9000, "burst": 0, "idle": 0},
            "memory": {"disableOOMKiller": false, "limit": 100, "checkBeforeUpdate": true}}"#,
    );
    let change = |asked| Limits::change(&merged, &parse(asked)).unwrap();
    assert_eq!(
        written(&change(r#"{"cpu": {"period": 9000}}"#)),
        [
            "cpu/idle cpu.idle=0 cpu.idle=0",
            "cpu/burst? cpu.cfs_burst_us=0 cpu.max.burst=0",
            "cpu/period cpu.cfs_period_us=9000 -",
            "cpu/quota cpu.cfs_quota_us=5000 cpu.max=5000 9000",
        ]
    );
    let memory = change(r#"{"memory": {"limit": 100}}"#);
    assert_eq!(
        written(&memory),
        [
            "memory/limit memory.limit_in_bytes=100 memory.max=100",
            "memory/disableOOMKiller memory.oom_control=0 -",
        ]
    );
    assert_eq!(memory.above_usage, Some(100));
    assert_eq!(written(&change("{}")), Vec::<String>::new());
}
