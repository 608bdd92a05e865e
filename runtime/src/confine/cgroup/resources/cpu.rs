//! `linux.resources.cpu`: the controllers `cpu` and `cpuset`.

use oci_spec::runtime::LinuxCpu;

use super::{Zero, number_or_max, number_or_minus};
use crate::confine::cgroup::setting::{Form, Setting};

/// What `cpu.shares` of version 1 can be (Linux `kernel/sched/sched.h`, `MIN_SHARES`, `MAX_SHARES`).
const LEAST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 1 << 18;

pub(super) fn add(cpu: &LinuxCpu, zero: Zero, settings: &mut Vec<Setting>) {
    let idle = cpu.idle().filter(|idle| *idle != 0 || zero == Zero::Reset);
    if let Some(idle) = idle {
        settings.push(Setting::alike("cpu/idle", "cpu", "cpu.idle", idle));
    }
    // An idle group has the least weight of all, and the kernel refuses another.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && idle != Some(1)) {
        settings.push(shares_setting(shares));
    }
    add_bandwidth(cpu, zero, settings);
    add_realtime(cpu, settings);
    for (field, file, list) in
        [("cpu/cpus", "cpuset.cpus", cpu.cpus()), ("cpu/mems", "cpuset.mems", cpu.mems())]
    {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            settings.push(Setting::alike(field, "cpuset", file, list.trim()));
        }
    }
}

fn shares_setting(shares: u64) -> Setting {
    let v1 = match shares {
        // The kernel would take another value without a word.
        0..LEAST_SHARES => {
            Form::Impossible(format!("the minimum allowed cpu-shares is {LEAST_SHARES}"))
        }
        LEAST_SHARES..=MOST_SHARES => Form::file("cpu.shares", shares),
        _ => Form::Impossible(format!("the maximum allowed cpu-shares is {MOST_SHARES}")),
    };
    Setting::new("cpu/shares", "cpu", v1, Form::file("cpu.weight", weight(shares)))
}

/// Version 1 has a file for each of quota and period, version 2 one for both.
fn add_bandwidth(cpu: &LinuxCpu, zero: Zero, settings: &mut Vec<Setting>) {
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if let Some(burst) = cpu.burst().filter(|burst| *burst != 0 || zero == Zero::Reset) {
        let (v1, v2) = (Form::file("cpu.cfs_burst_us", burst), Form::file("cpu.max.burst", burst));
        let setting = Setting::new("cpu/burst", "cpu", v1, v2);
        settings.push(if burst == 0 { setting.where_there_is() } else { setting });
    }
    let time = number_or_max(quota.unwrap_or(-1));
    let max = period.map_or(time.clone(), |period| format!("{time} {period}"));
    if let Some(period) = period {
        let v1 = Form::file("cpu.cfs_period_us", period);
        // Quota, where there is one, says both.
        let v2 = if quota.is_some() { Form::Given } else { Form::file("cpu.max", &max) };
        settings.push(Setting::new("cpu/period", "cpu", v1, v2));
    }
    if let Some(quota) = quota {
        let v1 = Form::file("cpu.cfs_quota_us", number_or_minus(quota));
        settings.push(Setting::new("cpu/quota", "cpu", v1, Form::file("cpu.max", &max)));
    }
}

fn add_realtime(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    let no_v2 = || Form::no_version_2("cure: leave it out; real-time groups are version 1's alone");
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        let v1 = Form::file("cpu.rt_period_us", period);
        settings.push(Setting::new("cpu/realtimePeriod", "cpu", v1, no_v2()));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        let v1 = Form::file("cpu.rt_runtime_us", runtime);
        settings.push(Setting::new("cpu/realtimeRuntime", "cpu", v1, no_v2()));
    }
}

/// `cpu.weight` of version 2 (1 to 10000, 100 is usual) for `cpu.shares` of version 1 (2 to 262144, 1024
/// is usual): the quadratic curve in logarithms through these three points.
///
/// Source: runc and crun since 2025, Kubernetes issue 131216.
pub(in crate::confine::cgroup) fn weight(shares: u64) -> u64 {
    if shares <= LEAST_SHARES {
        return 1;
    }
    if shares >= MOST_SHARES {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [
            (1, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (1024, 100),
            (2048, 174),
            (260_000, 9929),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
