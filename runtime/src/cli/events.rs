//! `rrun events`: what a container uses, and when it runs out of memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Global, print};
use crate::confine::cgroup::Stats;
use crate::container::ContainerId;
use crate::container::events::Event;

/// Show what a container uses, and when it runs out of memory
///
/// One JSON object a line, in the form of runc's events, until the container ends.
#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Time between two looks, as in 5s, 100ms, 1m30s
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Look once, now, and end
    #[arg(long)]
    stats: bool,
}

/// A line; the keys are runc's.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a ContainerId,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Stats>,
}

impl Events {
    /// Prints the events.
    ///
    /// # Errors
    ///
    /// If the container does not run, or has no cgroup.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("events {}", self.id);
        let runtime = global.runtime()?;
        if self.stats {
            let stats = runtime.stats(&self.id).with_context(operation)?;
            self.print("stats", Some(&stats))?;
            return Ok(0);
        }
        let hear = |event| match event {
            Event::Stats(stats) => self.print("stats", Some(&stats)),
            Event::OutOfMemory => self.print("oom", None),
        };
        runtime.events(&self.id, self.interval, hear).with_context(operation)?;
        Ok(0)
    }

    fn print(&self, kind: &'static str, data: Option<&Stats>) -> Result<()> {
        let line = serde_json::to_string(&Line { kind, id: &self.id, data })?;
        print(&format!("{line}\n"))
    }
}

/// A duration as Go writes it: numbers, perhaps with a fraction, each with h, m, s, ms, us or ns.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time above zero: want one as in 5s, 100ms, 1m30s");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(end);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    if sum.is_zero() { Err(wrong()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("5s", Some(5000)),
            ("100ms", Some(100)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("", None),
            ("0s", None),
            ("5", None),
            ("-1s", None),
            ("1d", None),
            ("1e999s", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(duration(text).ok(), expected, "{text:?}");
        }
    }
}
