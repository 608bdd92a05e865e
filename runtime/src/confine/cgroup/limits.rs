//! `linux.resources`: which text goes into which control file.

use std::io;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use super::devices::{self, Rule};
use super::{Cgroup, Directory, errno_of, files};

/// What a config asks of cgroups, checked, in the order in which it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    settings: Vec<Setting>,
    devices: Vec<Rule>,
}

/// One limit, in the words of both versions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    /// Where the config says so, below `/linux/resources`.
    field: &'static str,
    controller: &'static str,
    v1: (&'static str, String),
    v2: (&'static str, String),
}

impl Limits {
    /// Checks `linux.resources`.
    ///
    /// Zeros and empty objects, as engines write them for "not given", ask for nothing.
    ///
    /// # Errors
    ///
    /// A resource that is not supported yet, or a value that makes no sense, with its JSON pointer.
    pub fn new(resources: Option<&LinuxResources>) -> Result<Self> {
        let Some(resources) = resources else { return Ok(Self::default()) };
        refuse_unsupported(resources)?;
        let mut settings = Vec::new();
        resources.memory().iter().try_for_each(|memory| add_memory(memory, &mut settings))?;
        resources.cpu().iter().for_each(|cpu| add_cpu(cpu, &mut settings));
        if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
            let text = number_or_max(limit);
            let both = ("pids.max", text);
            settings.push(Setting {
                field: "pids",
                controller: "pids",
                v1: both.clone(),
                v2: both,
            });
        }
        let none = Vec::new();
        let devices = devices::rules(resources.devices().as_ref().unwrap_or(&none))?;
        Ok(Self { settings, devices })
    }

    pub(super) fn devices(&self) -> &[Rule] {
        &self.devices
    }

    /// For a container that gets no cgroup at all.
    ///
    /// # Errors
    ///
    /// The first limit that would have needed one, with the cure; device rules alone are none.
    pub fn refuse_without_cgroup(&self) -> Result<()> {
        self.settings.first().map_or(Ok(()), |setting| Err(setting.nowhere()))
    }

    pub(super) fn apply(&self, cgroup: &Cgroup) -> Result<()> {
        self.settings.iter().try_for_each(|setting| setting.apply(cgroup))
    }
}

impl Setting {
    fn apply(&self, cgroup: &Cgroup) -> Result<()> {
        if let Some(directory) = cgroup.v1(self.controller) {
            let (file, text) = &self.v1;
            return write(directory, file, text).map_err(|error| self.refused(file, text, &error));
        }
        let Some(directory) = &cgroup.unified else { return Err(self.nowhere()) };
        let (file, text) = &self.v2;
        let written = match write(directory, file, text) {
            Err(error) if is_absent(&error) => {
                enable(self.controller, directory);
                write(directory, file, text)
            }
            written => written,
        };
        written.map_err(|error| {
            if is_absent(&error) { self.nowhere() } else { self.refused(file, text, &error) }
        })
    }

    fn nowhere(&self) -> Error {
        let Self { field, controller, .. } = self;
        anyhow!(
            "/linux/resources/{field}: no {controller} controller in a cgroup that we may write \
             (cure: run as root, or on cgroup v2 have it delegated, for example by systemd-run \
             --user --scope -p Delegate=yes; or leave the limit out)"
        )
    }

    fn refused(&self, file: &str, text: &str, error: &io::Error) -> Error {
        let errno = errno_of(error);
        let cure = match errno {
            Errno::ENOENT => ": the kernel was started without it (cure for swap: swapaccount=1)",
            Errno::EINVAL => ": the kernel does not take this value",
            Errno::EBUSY => ": more is in use already",
            _ => "",
        };
        anyhow!("/linux/resources/{}: write {text:?} to {file}: {errno}{cure}", self.field)
    }
}

fn write(directory: &Directory, file: &str, text: &str) -> io::Result<()> {
    files::write(&directory.path.join(file), text)
}

/// A file that cannot be made shows itself either way, depending on the mount.
fn is_absent(error: &io::Error) -> bool {
    matches!(errno_of(error), Errno::ENOENT | Errno::EACCES | Errno::EPERM)
}

/// Hands `controller` down from the root to the cgroup's parent. Ancestors that are not ours refuse and
/// mostly have it on already; whether it arrived is seen by who needs it.
fn enable(controller: &str, directory: &Directory) {
    let inside = |path: &&std::path::Path| path.starts_with(&directory.mount);
    let mut parents = directory.path.ancestors().skip(1).take_while(inside).collect::<Vec<_>>();
    parents.reverse();
    for parent in parents {
        if let Err(error) =
            files::write(&parent.join("cgroup.subtree_control"), &format!("+{controller}"))
        {
            log::debug!("enable {controller} in {}: {error}", parent.display());
        }
    }
}

fn number_or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// Version 1 knows no "max" for bytes and time, but -1.
fn number_or_minus(limit: i64) -> String {
    limit.max(-1).to_string()
}

fn add_memory(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let mut add = |field, v1: &'static str, bytes, v2: &'static str, bytes_v2| {
        let (v1, v2) = ((v1, number_or_minus(bytes)), (v2, number_or_max(bytes_v2)));
        settings.push(Setting { field, controller: "memory", v1, v2 });
    };
    let limit = given(memory.limit());
    if let Some(limit) = limit {
        add("memory/limit", "memory.limit_in_bytes", limit, "memory.max", limit);
    }
    if let Some(low) = given(memory.reservation()) {
        add("memory/reservation", "memory.soft_limit_in_bytes", low, "memory.low", low);
    }
    if let Some(both) = given(memory.swap()) {
        let swap = swap_alone(both, limit).context("/linux/resources/memory/swap")?;
        add("memory/swap", "memory.memsw.limit_in_bytes", both, "memory.swap.max", swap);
    }
    Ok(())
}

/// The config and version 1 limit memory and swap together, version 2 swap alone.
fn swap_alone(both: i64, limit: Option<i64>) -> Result<i64> {
    match limit {
        _ if both < 0 => Ok(-1),
        None => bail!("needs memory.limit, since it is the limit of memory and swap together"),
        Some(limit) if limit < 0 => Ok(both),
        Some(limit) => {
            ensure!(both >= limit, "{both} is below memory.limit, {limit}");
            Ok(both - limit)
        }
    }
}

fn add_cpu(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let v1 = ("cpu.shares", shares.to_string());
        let v2 = ("cpu.weight", weight(shares).to_string());
        settings.push(Setting { field: "cpu/shares", controller: "cpu", v1, v2 });
    }
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let max = match (quota, period) {
        (quota, None) => number_or_max(quota.unwrap_or(-1)),
        (quota, Some(period)) => format!("{} {period}", number_or_max(quota.unwrap_or(-1))),
    };
    let mut add_bandwidth = |field, v1| {
        let v2 = ("cpu.max", max.clone());
        settings.push(Setting { field, controller: "cpu", v1, v2 });
    };
    if let Some(period) = period {
        add_bandwidth("cpu/period", ("cpu.cfs_period_us", period.to_string()));
    }
    if let Some(quota) = quota {
        add_bandwidth("cpu/quota", ("cpu.cfs_quota_us", number_or_minus(quota)));
    }
    for (field, file, list) in
        [("cpu/cpus", "cpuset.cpus", cpu.cpus()), ("cpu/mems", "cpuset.mems", cpu.mems())]
    {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            let both = (file, list.clone());
            settings.push(Setting { field, controller: "cpuset", v1: both.clone(), v2: both });
        }
    }
}

/// `cpu.weight` of version 2 (1 to 10000, 100 is usual) for `cpu.shares` of version 1 (2 to 262144, 1024
/// is usual): the quadratic curve in logarithms through these three points.
///
/// Source: runc and crun since 2025, Kubernetes issue 131216.
fn weight(shares: u64) -> u64 {
    const LEAST: u64 = 2;
    const MOST: u64 = 262_144;
    if shares <= LEAST {
        return 1;
    }
    if shares >= MOST {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "shares have 18 bits here")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000 by the bounds above"
    )]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight
}

fn refuse_unsupported(resources: &LinuxResources) -> Result<()> {
    let memory = resources.memory().unwrap_or_default();
    let cpu = resources.cpu().clone().unwrap_or_default();
    let set = |value: Option<i64>| value.is_some_and(|value| value != 0);
    let set_unsigned = |value: Option<u64>| value.is_some_and(|value| value != 0);
    let network = resources.network().as_ref();
    let class = network.and_then(LinuxNetwork::class_id).is_some_and(|class| class != 0);
    let priorities = network.and_then(|network| network.priorities().as_ref());
    let asked = [
        (set(memory.kernel()), "memory/kernel"),
        (set(memory.kernel_tcp()), "memory/kernelTCP"),
        (memory.swappiness().is_some(), "memory/swappiness"),
        (memory.disable_oom_killer() == Some(true), "memory/disableOOMKiller"),
        (memory.check_before_update() == Some(true), "memory/checkBeforeUpdate"),
        (set(cpu.idle()), "cpu/idle"),
        (set_unsigned(cpu.burst()), "cpu/burst"),
        (set(cpu.realtime_runtime()), "cpu/realtimeRuntime"),
        (set_unsigned(cpu.realtime_period()), "cpu/realtimePeriod"),
        (resources.block_io().as_ref().is_some_and(asks_block_io), "blockIO"),
        (!is_empty(resources.hugepage_limits().as_ref()), "hugepageLimits"),
        (class, "network/classID"),
        (!is_empty(priorities), "network/priorities"),
        (resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()), "rdma"),
        (resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()), "unified"),
    ];
    match asked.into_iter().find(|(asked, _field)| *asked) {
        Some((_, field)) => bail!("/linux/resources/{field} is not supported yet"),
        None => Ok(()),
    }
}

fn is_empty<T>(list: Option<&Vec<T>>) -> bool {
    list.is_none_or(Vec::is_empty)
}

fn asks_block_io(block: &LinuxBlockIo) -> bool {
    let weights = [block.weight(), block.leaf_weight()];
    let throttles = [
        block.throttle_read_bps_device(),
        block.throttle_write_bps_device(),
        block.throttle_read_iops_device(),
        block.throttle_write_iops_device(),
    ];
    weights.into_iter().flatten().any(|weight| weight != 0)
        || !is_empty(block.weight_device().as_ref())
        || throttles.into_iter().any(|list| !is_empty(list.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> Result<Limits> {
        Limits::new(Some(&serde_json::from_str(json).unwrap()))
    }

    /// `field v1-file=text v2-file=text` of each setting.
    fn written(json: &str) -> Vec<String> {
        let text = |setting: &Setting| {
            let Setting { field, v1, v2, .. } = setting;
            format!("{field} {}={} {}={}", v1.0, v1.1, v2.0, v2.1)
        };
        limits(json).unwrap().settings.iter().map(text).collect()
    }

    #[test]
    fn what_is_written_where() {
        for (json, expected) in [
            (r#"{"pids": {"limit": 5}}"#, vec!["pids pids.max=5 pids.max=5"]),
            (r#"{"pids": {"limit": -1}}"#, vec!["pids pids.max=max pids.max=max"]),
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
                    "memory/swap memory.memsw.limit_in_bytes=-1 memory.swap.max=max",
                ],
            ),
            (
                r#"{"cpu": {"shares": 1024, "quota": 50000, "period": 100000}}"#,
                vec![
                    "cpu/shares cpu.shares=1024 cpu.weight=100",
                    "cpu/period cpu.cfs_period_us=100000 cpu.max=50000 100000",
                    "cpu/quota cpu.cfs_quota_us=50000 cpu.max=50000 100000",
                ],
            ),
            (r#"{"cpu": {"quota": -1}}"#, vec!["cpu/quota cpu.cfs_quota_us=-1 cpu.max=max"]),
            (
                r#"{"cpu": {"cpus": "0-1", "mems": "0"}}"#,
                vec![
                    "cpu/cpus cpuset.cpus=0-1 cpuset.cpus=0-1",
                    "cpu/mems cpuset.mems=0 cpuset.mems=0",
                ],
            ),
        ] {
            assert_eq!(written(json), expected, "{json}");
        }
    }

    #[test]
    fn zeros_and_empty_objects_ask_for_nothing() {
        for json in [
            "{}",
            r#"{"memory": {}, "cpu": {}, "pids": {"limit": 0}, "blockIO": {"weight": 0}}"#,
            r#"{"memory": {"limit": 0, "swap": 0, "disableOOMKiller": false, "kernel": 0}}"#,
            r#"{"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "realtimePeriod": 0}}"#,
            r#"{"network": {}, "hugepageLimits": [], "rdma": {}, "unified": {}, "devices": []}"#,
        ] {
            assert_eq!(limits(json).unwrap(), Limits::default(), "{json}");
        }
        assert_eq!(Limits::new(None).unwrap(), Limits::default());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (json, pointer) in [
            (r#"{"memory": {"swappiness": 0}}"#, "memory/swappiness"),
            (r#"{"memory": {"disableOOMKiller": true}}"#, "memory/disableOOMKiller"),
            (r#"{"cpu": {"burst": 1}}"#, "cpu/burst"),
            (r#"{"blockIO": {"weight": 10}}"#, "blockIO"),
            (
                r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 1, "rate": 1}]}}"#,
                "blockIO",
            ),
            (r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}"#, "hugepageLimits"),
            (r#"{"network": {"classID": 1}}"#, "network/classID"),
            (r#"{"unified": {"memory.high": "1"}}"#, "unified"),
        ] {
            let error = limits(json).unwrap_err().to_string();
            assert_eq!(error, format!("/linux/resources/{pointer} is not supported yet"));
        }
        for (json, complaint) in [
            (r#"{"memory": {"swap": 5}}"#, "/linux/resources/memory/swap: needs memory.limit"),
            (r#"{"memory": {"limit": 6, "swap": 5}}"#, "5 is below memory.limit, 6"),
        ] {
            let error = format!("{:#}", limits(json).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn a_limit_without_a_cgroup_names_the_controller_and_the_cure() {
        let limited = limits(r#"{"pids": {"limit": 5}}"#).unwrap();
        let error = limited.refuse_without_cgroup().unwrap_err().to_string();
        assert!(error.starts_with("/linux/resources/pids: no pids controller"), "{error}");
        assert!(error.contains("Delegate=yes"), "{error}");
        let devices = limits(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#).unwrap();
        devices.refuse_without_cgroup().unwrap();
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [
            (1, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
