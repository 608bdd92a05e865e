//! `linux.resources.memory`.

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::runtime::LinuxMemory;

use super::{Zero, number_or_max, number_or_minus};
use crate::confine::cgroup::setting::{Form, Setting};

pub(super) fn add(memory: &LinuxMemory, zero: Zero, settings: &mut Vec<Setting>) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = given(memory.limit());
    if let Some(limit) = limit {
        settings.push(bytes("limit", ("memory.limit_in_bytes", limit), ("memory.max", limit)));
    }
    if let Some(low) = given(memory.reservation()) {
        settings.push(bytes(
            "reservation",
            ("memory.soft_limit_in_bytes", low),
            ("memory.low", low),
        ));
    }
    settings.extend(swap(given(memory.swap()), limit)?);
    // -1 as a u64, which podman writes, is "not given".
    if let Some(percent) = memory.swappiness().filter(|percent| *percent <= 100) {
        let v2 = Form::no_version_2("cure: leave it out, or limit memory.swap.max in unified");
        let v1 = Form::file("memory.swappiness", percent);
        settings.push(Setting::new("memory/swappiness", "memory", v1, v2));
    }
    match memory.disable_oom_killer() {
        Some(true) => {
            let v2 = Form::no_version_2("cure: leave it out, or set memory.oom.group in unified");
            let v1 = Form::file("memory.oom_control", 1);
            settings.push(Setting::new("memory/disableOOMKiller", "memory", v1, v2));
        }
        Some(false) if zero == Zero::Reset => {
            let v1 = Form::file("memory.oom_control", 0);
            settings.push(Setting::new("memory/disableOOMKiller", "memory", v1, Form::Given));
        }
        _ => {}
    }
    Ok(())
}

fn bytes(name: &str, v1: (&'static str, i64), v2: (&'static str, i64)) -> Setting {
    let (v1, v2) = (Form::file(v1.0, number_or_minus(v1.1)), Form::file(v2.0, number_or_max(v2.1)));
    Setting::new(format!("memory/{name}"), "memory", v1, v2)
}

/// The limit of swap. No limit of memory is none of swap either, as runc has it.
fn swap(both: Option<i64>, limit: Option<i64>) -> Result<Option<Setting>> {
    let both = match (both, limit) {
        (None, Some(limit)) if limit < 0 => -1,
        (None, _) => return Ok(None),
        (Some(both), _) => both,
    };
    let swap = alone(both, limit).context("/linux/resources/memory/swap")?;
    let setting = bytes("swap", ("memory.memsw.limit_in_bytes", both), ("memory.swap.max", swap));
    // A kernel without swap keeps both "none at all" and "as much as there is".
    Ok(Some(if swap <= 0 { setting.where_there_is() } else { setting }))
}

/// The config and version 1 limit memory and swap together, version 2 swap alone.
fn alone(both: i64, limit: Option<i64>) -> Result<i64> {
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
