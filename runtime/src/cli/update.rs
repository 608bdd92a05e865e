//! `rrun update`: other limits for a container.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rrun_spec::oci::LinuxResources;
use serde_json::{Value, json};

use super::Global;
use crate::container::ContainerId;

/// Bytes of JSON that are read at most.
const LONGEST: u64 = 1 << 20;

/// Change the limits of a container
///
/// What is not given stays as it is.
#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// File with the resources as JSON, as linux.resources in config.json; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "limits")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// Share of the third-level cache (Intel RDT), as in L3:0=f;1=f
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Share of the memory bandwidth (Intel RDT), as in MB:0=20;1=70
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// The flags that say one limit each.
#[derive(Debug, Default, clap::Args)]
#[group(id = "limits", multiple = true)]
struct Limits {
    /// Weight of block I/O beside other containers, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Length of a period of processor time, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds; -1 is no limit
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Unused processor time that may be kept for a later period, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_burst: Option<u64>,
    /// Share of the processors beside other containers, 2 to 262144
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Length of a period of real-time, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_rt_period: Option<u64>,
    /// Real-time in each period, in microseconds
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// 1 to run only when nobody else wants to, 0 not to
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// Processors, as in 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes, as in 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory; -1 is no limit
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Memory that is left to the container as long as others can spare it
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// Memory and swap together; -1 is no limit of swap
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Has no effect: the kernel counts such memory with all other
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true, hide = true)]
    kernel_memory: Option<i64>,
    /// Has no effect: the kernel counts such memory with all other
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true, hide = true)]
    kernel_memory_tcp: Option<i64>,
    /// Processes; -1 is no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
}

impl Update {
    /// Changes the limits.
    ///
    /// # Errors
    ///
    /// If the container does not run, or a limit is refused.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("update {}", self.id);
        let asked = self.asked().with_context(operation)?;
        let schemata = [&self.l3_cache_schema, &self.mem_bw_schema].map(Option::as_deref);
        global.runtime()?.update(&self.id, &asked, schemata).with_context(operation)?;
        Ok(0)
    }

    fn asked(&self) -> Result<LinuxResources> {
        match &self.resources {
            Some(path) => read(path),
            None => self.limits.asked(),
        }
    }
}

/// A file that an engine names may be a pipe, so its size is not asked for.
fn read(path: &Path) -> Result<LinuxResources> {
    let mut text = Vec::new();
    let what = if path == Path::new("-") { Path::new("standard input") } else { path };
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(LONGEST).read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut text))
    };
    read.with_context(|| format!("read {}", what.display()))?;
    Ok(rrun_spec::parse_resources(&text, what)?)
}

impl Limits {
    fn asked(&self) -> Result<LinuxResources> {
        let mut asked = json!({
            "blockIO": {"weight": self.blkio_weight},
            "cpu": {
                "period": self.cpu_period, "quota": self.cpu_quota, "burst": self.cpu_burst,
                "shares": self.cpu_share, "idle": self.cpu_idle,
                "realtimePeriod": self.cpu_rt_period, "realtimeRuntime": self.cpu_rt_runtime,
                "cpus": self.cpuset_cpus, "mems": self.cpuset_mems,
            },
            "memory": {
                "limit": self.memory, "reservation": self.memory_reservation,
                "swap": self.memory_swap, "kernel": self.kernel_memory,
                "kernelTCP": self.kernel_memory_tcp,
            },
            "pids": {"limit": self.pids_limit},
        });
        for section in asked.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
            if let Some(section) = section.as_object_mut() {
                section.retain(|_, value| !value.is_null());
            }
        }
        if let Some(sections) = asked.as_object_mut() {
            sections.retain(|_, section| section.as_object().is_some_and(|map| !map.is_empty()));
        }
        Ok(serde_json::from_value::<LinuxResources>(Value::take(&mut asked))?)
    }
}

/// Bytes as Docker takes them: a number, perhaps with a fraction, and one of b, k, m, g, t, p, perhaps
/// followed by b or ib; units are powers of 1024.
fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no size: want bytes, -1, or a number with k, m, g, t or p");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim_start();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    if let Ok(number) = number.parse::<i64>() {
        return number.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let number = number.parse::<f64>().map_err(|_| wrong())?;
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let bytes = number * (1_i64 << shift) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "compared with the largest before")]
    let bytes = (bytes < 9e18).then_some(bytes as i64);
    bytes.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, expected) in [
            ("33554432", Some(33_554_432)),
            ("-1", Some(-1)),
            ("50M", Some(52_428_800)),
            ("1.5g", Some(1_610_612_736)),
            ("2kb", Some(2048)),
            ("2 KiB", Some(2048)),
            ("1b", Some(1)),
            ("", None),
            ("-2", None),
            ("1x", None),
            ("1.2.3", None),
            ("9223372036854775807k", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn only_what_is_given_is_asked_for() {
        let limits = Limits { memory: Some(-1), cpu_burst: Some(0), ..Limits::default() };
        let asked = serde_json::to_value(limits.asked().unwrap()).unwrap();
        assert_eq!(asked, json!({"memory": {"limit": -1}, "cpu": {"burst": 0}}));
        let nothing = serde_json::to_value(Limits::default().asked().unwrap()).unwrap();
        assert_eq!(nothing, json!({}));
    }
}
