//! The properties of a container's scope.
//!
//! Source: runc `docs/systemd.md`; `systemd.resource-control(5)`; `org.freedesktop.systemd1(5)`.

use anyhow::{Context as _, Result};

use super::value::Value;
use super::{Limits, Property};
use crate::confine::cgroup::devices;
use crate::confine::cgroup::setting::Form;

/// Microseconds of a period of processor time where nobody says another (cgroup-v2.rst, `cpu.max`).
const USUAL_PERIOD: u64 = 100_000;

/// systemd keeps quotas as whole percents: microseconds of processor time in a second.
const PERCENT: u64 = 10_000;

/// What every container's scope gets.
pub(super) fn of_a_container(id: &str, slice: &str, unified: bool) -> Vec<Property> {
    let io = if unified { "IOAccounting" } else { "BlockIOAccounting" };
    let text = |name: &str, text: String| (name.to_owned(), Value::Text(text));
    let flag = |name: &str, on| (name.to_owned(), Value::Bool(on));
    vec![
        text("Description", format!("rrun container {id}")),
        text("Slice", slice.to_owned()),
        flag("Delegate", true),
        flag("MemoryAccounting", true),
        flag("CPUAccounting", true),
        flag(io, true),
        flag("TasksAccounting", true),
        flag("DefaultDependencies", false),
    ]
}

/// Those limits that systemd has properties for; the last one for a property counts.
///
/// # Errors
///
/// A text of `unified` that is no number where one is needed.
pub(super) fn of_limits(limits: &Limits, unified: bool) -> Result<Vec<Property>> {
    let mut found = Found::default();
    for setting in limits.settings() {
        let form = if unified { &setting.v2 } else { &setting.v1 };
        let Form::Files(files) = form else { continue };
        for (file, text) in files {
            found
                .add(file, text.trim())
                .with_context(|| format!("/linux/resources/{}: {text:?}", setting.field))?;
        }
    }
    found.add_bandwidth();
    found.properties.extend(of_devices(limits.devices()));
    Ok(found.properties)
}

/// systemd knows lists of what is allowed, and nothing of exceptions from them: then it allows all, and
/// our own rules, which are in force as well, decide.
fn of_devices(rules: &[devices::Rule]) -> Vec<Property> {
    if rules.is_empty() {
        return Vec::new();
    }
    let (policy, list) = match devices::allow_list(rules) {
        Some(list) => ("strict", list),
        None => ("auto", Vec::new()),
    };
    // The empty list first: another would be added to what is there.
    let mut properties = vec![
        ("DevicePolicy".to_owned(), Value::Text(policy.to_owned())),
        ("DeviceAllow".to_owned(), Value::Pairs(Vec::new())),
    ];
    if !list.is_empty() {
        properties.push(("DeviceAllow".to_owned(), Value::Pairs(list)));
    }
    properties
}

#[derive(Default)]
struct Found {
    properties: Vec<Property>,
    /// Microseconds; none is no limit.
    quota: Option<Option<u64>>,
    period: Option<u64>,
    is_idle: bool,
}

impl Found {
    fn set(&mut self, name: &str, value: Value) {
        self.properties.retain(|(other, _)| other != name);
        self.properties.push((name.to_owned(), value));
    }

    fn add(&mut self, file: &str, text: &str) -> Result<()> {
        let number = || parse_number(text);
        match file {
            "memory.max" => self.set("MemoryMax", Value::Uint64(number()?)),
            "memory.limit_in_bytes" => self.set("MemoryLimit", Value::Uint64(number()?)),
            "memory.low" => self.set("MemoryLow", Value::Uint64(number()?)),
            "memory.high" => self.set("MemoryHigh", Value::Uint64(number()?)),
            "memory.min" => self.set("MemoryMin", Value::Uint64(number()?)),
            "memory.swap.max" => self.set("MemorySwapMax", Value::Uint64(number()?)),
            // systemd takes no 0.
            "pids.max" => self.set("TasksMax", Value::Uint64(number()?.max(1))),
            "cpu.shares" => self.set("CPUShares", Value::Uint64(number()?)),
            "blkio.weight" => self.set("BlockIOWeight", Value::Uint64(number()?)),
            // A weight of 0 is how systemd says idle, since version 252.
            "cpu.idle" => {
                self.is_idle = text == "1";
                if self.is_idle {
                    self.set("CPUWeight", Value::Uint64(0));
                }
            }
            "cpu.weight" if !self.is_idle => self.set("CPUWeight", Value::Uint64(number()?)),
            "cpuset.cpus" => self.set("AllowedCPUs", Value::Bytes(bits(text)?)),
            "cpuset.mems" => self.set("AllowedMemoryNodes", Value::Bytes(bits(text)?)),
            "cpu.cfs_quota_us" => self.quota = Some(number_or_none(text)?),
            "cpu.cfs_period_us" => self.period = Some(number()?),
            "cpu.max" => {
                let (quota, period) = text.split_once(' ').unwrap_or((text, ""));
                self.quota = Some(number_or_none(quota)?);
                let period = Some(period.trim()).filter(|period| !period.is_empty());
                self.period = period.map(parse_number).transpose()?.or(self.period);
            }
            // Written into the file, which systemd leaves alone.
            _ => {}
        }
        Ok(())
    }

    fn add_bandwidth(&mut self) {
        if let Some(period) = self.period {
            self.set("CPUQuotaPeriodUSec", Value::Uint64(period));
        }
        if self.quota.is_none() && self.period.is_none() {
            return;
        }
        let period = self.period.unwrap_or(USUAL_PERIOD).max(1);
        let per_second = self.quota.flatten().map_or(u64::MAX, |quota| {
            let microseconds = quota.saturating_mul(1_000_000) / period;
            microseconds.div_ceil(PERCENT).saturating_mul(PERCENT)
        });
        self.set("CPUQuotaPerSecUSec", Value::Uint64(per_second));
    }
}

/// "max", and -1 of version 1, is what systemd calls infinity.
fn parse_number(text: &str) -> Result<u64> {
    match text {
        "max" | "-1" => Ok(u64::MAX),
        number => number.parse().context("want a number, or max"),
    }
}

fn number_or_none(text: &str) -> Result<Option<u64>> {
    Ok(Some(parse_number(text)?).filter(|number| *number != u64::MAX))
}

/// `0-2,9` as bits, the first in the lowest bit of the first byte.
fn bits(list: &str) -> Result<Vec<u8>> {
    /// More processors than Linux can have (`CONFIG_NR_CPUS`).
    const MOST: usize = 1 << 16;
    let mut bits = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number < MOST);
        let (first, last) = number(first).zip(number(last)).context("want a list as in 0-3,7")?;
        for bit in first..=last {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0);
            }
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(json: &str, unified: bool) -> Vec<String> {
        let limits = Limits::new(Some(&serde_json::from_str(json).unwrap())).unwrap();
        let shown = |(name, value): &Property| match value {
            Value::Uint64(u64::MAX) => format!("{name}=infinity"),
            Value::Uint64(number) => format!("{name}={number}"),
            Value::Bytes(bytes) => format!("{name}={bytes:?}"),
            Value::Text(text) => format!("{name}={text}"),
            Value::Pairs(pairs) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(path, how)| format!("{path} {how}")).collect();
                format!("{name}=[{}]", pairs.join(","))
            }
            other => format!("{name}={other:?}"),
        };
        of_limits(&limits, unified).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn limits_of_version_2_are_properties() {
        for (json, expected) in [
            (
                r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 10}}"#,
                &["MemoryMax=1000", "MemoryLow=10", "MemorySwapMax=500"][..],
            ),
            (r#"{"memory": {"limit": -1}}"#, &["MemoryMax=infinity", "MemorySwapMax=infinity"]),
            (
                r#"{"cpu": {"shares": 1024, "quota": 12345, "period": 100000, "cpus": "0-2,9"}}"#,
                &[
                    "CPUWeight=100",
                    "AllowedCPUs=[7, 2]",
                    "CPUQuotaPeriodUSec=100000",
                    "CPUQuotaPerSecUSec=130000",
                ],
            ),
            (r#"{"cpu": {"quota": 5000}}"#, &["CPUQuotaPerSecUSec=50000"]),
            (
                r#"{"cpu": {"period": 5000}}"#,
                &["CPUQuotaPeriodUSec=5000", "CPUQuotaPerSecUSec=infinity"],
            ),
            (r#"{"cpu": {"idle": 1, "shares": 9}}"#, &["CPUWeight=0"]),
            (r#"{"pids": {"limit": -1}}"#, &["TasksMax=infinity"]),
            (r#"{"pids": {"limit": 7}, "unified": {"pids.max": "9"}}"#, &["TasksMax=9"]),
            (
                r#"{"unified": {"memory.high": "5", "cpu.max": "max 9000", "io.max": "8:0 rbps=1"}}"#,
                &["MemoryHigh=5", "CPUQuotaPeriodUSec=9000", "CPUQuotaPerSecUSec=infinity"],
            ),
            (r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}"#, &[]),
        ] {
            assert_eq!(properties(json, true), expected, "{json}");
        }
    }

    #[test]
    fn limits_of_version_1_are_properties() {
        for (json, expected) in [
            (r#"{"memory": {"limit": 1000, "swap": 1500}}"#, &["MemoryLimit=1000"][..]),
            (
                r#"{"cpu": {"shares": 1024, "quota": 50000, "period": 100000, "mems": "0"}}"#,
                &[
                    "CPUShares=1024",
                    "AllowedMemoryNodes=[1]",
                    "CPUQuotaPeriodUSec=100000",
                    "CPUQuotaPerSecUSec=500000",
                ],
            ),
            (r#"{"blockIO": {"weight": 100}}"#, &["BlockIOWeight=100"]),
        ] {
            assert_eq!(properties(json, false), expected, "{json}");
        }
    }

    #[test]
    fn devices_are_a_list_or_left_to_us() {
        let deny = r#"{"allow": false, "access": "rwm"}"#;
        let found = properties(
            &format!(
                r#"{{"devices": [{deny}, {{"allow": true, "type": "c", "major": 10, "minor": 229,
                    "access": "rw"}}, {{"allow": true, "type": "b", "major": 8}}]}}"#
            ),
            true,
        );
        assert_eq!(found[..2], ["DevicePolicy=strict", "DeviceAllow=[]"]);
        let list =
            "DeviceAllow=[/dev/char/10:229 rw,block-8 rwm,char-* m,block-* m,/dev/char/1:3 rwm";
        assert!(found[2].starts_with(list), "{}", found[2]);
        for json in [
            format!(
                r#"{{"devices": [{deny}, {{"allow": true}}, {{"allow": false, "type": "b"}}]}}"#
            ),
            r#"{"devices": [{"allow": false, "type": "c", "major": 10}]}"#.to_owned(),
        ] {
            assert_eq!(properties(&json, true), ["DevicePolicy=auto", "DeviceAllow=[]"], "{json}");
        }
    }
}
