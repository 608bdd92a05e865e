//! What a container has used, in the shape in which runc reports it.
//!
//! Source: runc `types/events.go`. What a machine does not count is left out or 0, as there.

mod read;

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::Cgroup;

/// All that is known of a container's use of the machine.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: BlockIo,
    hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: BTreeMap<String, ()>,
    /// For interfaces that the runtime makes; ours makes none.
    network_interfaces: Option<()>,
}

/// Nanoseconds of processor time.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Cpu {
    #[serde(skip_serializing_if = "is_default")]
    usage: CpuUsage,
    #[serde(skip_serializing_if = "is_default")]
    throttling: Throttling,
    #[serde(skip_serializing_if = "is_default")]
    psi: Option<Pressure>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_default")]
    total: u64,
    #[serde(skip_serializing_if = "is_default")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "is_default")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "is_default")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_default")]
    periods: u64,
    #[serde(skip_serializing_if = "is_default")]
    throttled_periods: u64,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    throttled_time: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "is_default")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "is_default")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

/// Bytes. Swap is memory and swap together, in both versions.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_default")]
    cache: u64,
    #[serde(skip_serializing_if = "is_default")]
    usage: Counter,
    #[serde(skip_serializing_if = "is_default")]
    swap: Counter,
    #[serde(skip_serializing_if = "is_default")]
    kernel: Counter,
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_default")]
    kernel_tcp: Counter,
    #[serde(skip_serializing_if = "is_default")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_default")]
    psi: Option<Pressure>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counter {
    /// `u64::MAX` is none.
    limit: u64,
    #[serde(skip_serializing_if = "is_default")]
    usage: u64,
    /// The high-water mark.
    #[serde(skip_serializing_if = "is_default")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_default")]
    current: u64,
    /// 0 is none.
    #[serde(skip_serializing_if = "is_default")]
    limit: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockIo {
    #[serde(skip_serializing_if = "is_default")]
    io_service_bytes_recursive: Vec<Transfer>,
    #[serde(skip_serializing_if = "is_default")]
    io_serviced_recursive: Vec<Transfer>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "is_default")]
    io_queued_recursive: Vec<Transfer>,
    #[serde(skip_serializing_if = "is_default")]
    io_service_time_recursive: Vec<Transfer>,
    #[serde(skip_serializing_if = "is_default")]
    io_wait_time_recursive: Vec<Transfer>,
    #[serde(skip_serializing_if = "is_default")]
    io_merged_recursive: Vec<Transfer>,
    #[serde(skip_serializing_if = "is_default")]
    io_time_recursive: Vec<Transfer>,
    #[serde(skip_serializing_if = "is_default")]
    sectors_recursive: Vec<Transfer>,
    #[serde(skip_serializing_if = "is_default")]
    psi: Option<Pressure>,
}

/// What one device did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Transfer {
    #[serde(skip_serializing_if = "is_default")]
    major: u64,
    #[serde(skip_serializing_if = "is_default")]
    minor: u64,
    #[serde(skip_serializing_if = "is_default")]
    op: String,
    #[serde(skip_serializing_if = "is_default")]
    value: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct HugePages {
    #[serde(skip_serializing_if = "is_default")]
    usage: u64,
    #[serde(skip_serializing_if = "is_default")]
    max: u64,
    failcnt: u64,
}

/// How long processes had to wait (PSI): shares of time in percent, and all in microseconds.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Pressure {
    #[serde(skip_serializing_if = "is_default")]
    some: Share,
    #[serde(skip_serializing_if = "is_default")]
    full: Share,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Share {
    avg10: Percent,
    avg60: Percent,
    avg300: Percent,
    total: u64,
}

/// Hundredths of a percent, shown as percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Percent(u32);

impl Serialize for Percent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            return serializer.serialize_u32(self.0 / 100);
        }
        serializer.serialize_f64(f64::from(self.0) / 100.0)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Cgroup {
    /// What its processes have used so far.
    ///
    /// # Errors
    ///
    /// A control file that is there and cannot be read or understood.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        read::cpu(self, &mut stats.cpu)?;
        read::cpuset(self, &mut stats.cpuset)?;
        read::memory(self, &mut stats.memory)?;
        read::pids(self, &mut stats.pids)?;
        read::block_io(self, &mut stats.blkio)?;
        read::huge_pages(self, &mut stats.hugetlb)?;
        Ok(stats)
    }
}
