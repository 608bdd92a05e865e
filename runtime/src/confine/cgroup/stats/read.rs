//! From control files to [`super::Stats`]: reading apart from understanding.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use nix::errno::Errno;

use super::{BlockIo, Counter, Cpu, Cpuset, HugePages, Memory, Percent, Pids, Pressure, Transfer};
use crate::confine::cgroup::{Cgroup, Directory, errno_of, files};

/// `USER_HZ`, the ticks of `cpuacct.stat`, in nanoseconds: a hundred a second on all of Linux.
const TICK: u64 = 10_000_000;

/// The text of `file`, if it is there.
fn text(directory: &Directory, file: &str) -> Result<Option<String>> {
    let path = directory.path.join(file);
    match files::read(&path) {
        Ok(text) => Ok(Some(text)),
        // EOPNOTSUPP: pressure that the kernel was told not to count.
        Err(error) if matches!(errno_of(&error), Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// The number in `file`; `u64::MAX` for "max", 0 for a negative one.
fn number(directory: &Directory, file: &str) -> Result<Option<u64>> {
    let Some(text) = text(directory, file)? else { return Ok(None) };
    let parsed = parse_number(text.trim());
    parsed.with_context(|| format!("{file}: {:?} is no number", text.trim())).map(Some)
}

fn parse_number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        _ => text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|_negative| 0)),
    }
}

/// Lines of a name and a number.
fn table(directory: &Directory, file: &str) -> Result<Option<BTreeMap<String, u64>>> {
    Ok(text(directory, file)?.map(|text| parse_table(&text)))
}

fn parse_table(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), parse_number(number.trim())?))
    };
    text.lines().filter_map(line).collect()
}

fn pressure(cgroup: &Cgroup, file: &str) -> Result<Option<Pressure>> {
    let Some(unified) = &cgroup.unified else { return Ok(None) };
    Ok(text(unified, file)?.map(|text| parse_pressure(&text)))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let share = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => share.avg10 = parse_percent(value),
                "avg60" => share.avg60 = parse_percent(value),
                "avg300" => share.avg300 = parse_percent(value),
                "total" => share.total = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
    }
    pressure
}

/// Two digits after the point (Linux `kernel/sched/psi.c`, `psi_show()`).
fn parse_percent(text: &str) -> Percent {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    Percent(number(whole).saturating_mul(100).saturating_add(number(rest)))
}

pub(super) fn cpu(cgroup: &Cgroup, cpu: &mut Cpu) -> Result<()> {
    if let Some(directory) = cgroup.v1("cpuacct") {
        cpu_of_version_1(directory, cpu)?;
    }
    let directory = cgroup.v1("cpu").or(cgroup.unified.as_ref());
    let Some(table) =
        directory.map(|directory| table(directory, "cpu.stat")).transpose()?.flatten()
    else {
        return Ok(());
    };
    let value = |name: &str| table.get(name).copied().unwrap_or_default();
    if cgroup.v1("cpuacct").is_none() {
        cpu.usage.total = value("usage_usec").saturating_mul(1000);
        cpu.usage.user = value("user_usec").saturating_mul(1000);
        cpu.usage.kernel = value("system_usec").saturating_mul(1000);
    }
    cpu.throttling.periods = value("nr_periods");
    cpu.throttling.throttled_periods = value("nr_throttled");
    let microseconds = value("throttled_usec").saturating_mul(1000);
    cpu.throttling.throttled_time = value("throttled_time").max(microseconds);
    cpu.psi = pressure(cgroup, "cpu.pressure")?;
    Ok(())
}

fn cpu_of_version_1(directory: &Directory, cpu: &mut Cpu) -> Result<()> {
    let usage = &mut cpu.usage;
    usage.total = number(directory, "cpuacct.usage")?.unwrap_or_default();
    if let Some(ticks) = table(directory, "cpuacct.stat")? {
        let time = |name: &str| ticks.get(name).copied().unwrap_or_default().saturating_mul(TICK);
        (usage.user, usage.kernel) = (time("user"), time("system"));
    }
    let each = text(directory, "cpuacct.usage_percpu")?.unwrap_or_default();
    usage.percpu = each.split_ascii_whitespace().filter_map(parse_number).collect();
    let all = text(directory, "cpuacct.usage_all")?.unwrap_or_default();
    // A heading, then: processor, user, system.
    for line in all.lines().skip(1) {
        let columns: Vec<_> = line.split_ascii_whitespace().filter_map(parse_number).collect();
        if let [_processor, user, system, ..] = columns[..] {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(system);
        }
    }
    Ok(())
}

pub(super) fn cpuset(cgroup: &Cgroup, cpuset: &mut Cpuset) -> Result<()> {
    let Some(directory) = cgroup.v1("cpuset") else { return Ok(()) };
    let list =
        |name| -> Result<Vec<u16>> { Ok(parse_list(&text(directory, name)?.unwrap_or_default())) };
    let flag =
        |name| -> Result<u64> { Ok(number(directory, &format!("cpuset.{name}"))?.unwrap_or(0)) };
    cpuset.cpus = list("cpuset.cpus")?;
    cpuset.mems = list("cpuset.mems")?;
    cpuset.cpu_exclusive = flag("cpu_exclusive")?;
    cpuset.mem_hardwall = flag("mem_hardwall")?;
    cpuset.mem_exclusive = flag("mem_exclusive")?;
    cpuset.memory_migrate = flag("memory_migrate")?;
    cpuset.memory_spread_page = flag("memory_spread_page")?;
    cpuset.memory_spread_slab = flag("memory_spread_slab")?;
    cpuset.memory_pressure = flag("memory_pressure")?;
    cpuset.sched_load_balance = flag("sched_load_balance")?;
    let level = text(directory, "cpuset.sched_relax_domain_level")?.unwrap_or_default();
    cpuset.sched_relax_domain_level = level.trim().parse().unwrap_or_default();
    Ok(())
}

/// `0-2,7` as 0, 1, 2, 7.
fn parse_list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

pub(super) fn memory(cgroup: &Cgroup, memory: &mut Memory) -> Result<()> {
    if let Some(directory) = cgroup.v1("memory") {
        memory.raw = table(directory, "memory.stat")?.unwrap_or_default();
        memory.cache = memory.raw.get("cache").copied().unwrap_or_default();
        memory.usage = counter_of_version_1(directory, "memory")?;
        memory.swap = counter_of_version_1(directory, "memory.memsw")?;
        memory.kernel = counter_of_version_1(directory, "memory.kmem")?;
        memory.kernel_tcp = counter_of_version_1(directory, "memory.kmem.tcp")?;
    } else if let Some(directory) = &cgroup.unified {
        memory.raw = table(directory, "memory.stat")?.unwrap_or_default();
        memory.cache = memory.raw.get("file").copied().unwrap_or_default();
        memory.usage = counter_of_version_2(directory, "memory")?;
        let swap = counter_of_version_2(directory, "memory.swap")?;
        memory.swap = Counter {
            usage: swap.usage.saturating_add(memory.usage.usage),
            limit: swap.limit.saturating_add(memory.usage.limit),
            // The two marks need not have been reached together.
            max: 0,
            failcnt: 0,
        };
    }
    memory.psi = pressure(cgroup, "memory.pressure")?;
    Ok(())
}

fn counter_of_version_1(directory: &Directory, name: &str) -> Result<Counter> {
    let value = |file| number(directory, &format!("{name}.{file}"));
    Ok(Counter {
        limit: value("limit_in_bytes")?.unwrap_or_default(),
        usage: value("usage_in_bytes")?.unwrap_or_default(),
        max: value("max_usage_in_bytes")?.unwrap_or_default(),
        failcnt: value("failcnt")?.unwrap_or_default(),
    })
}

fn counter_of_version_2(directory: &Directory, name: &str) -> Result<Counter> {
    let Some(usage) = number(directory, &format!("{name}.current"))? else {
        return Ok(Counter::default());
    };
    Ok(Counter {
        limit: number(directory, &format!("{name}.max"))?.unwrap_or_default(),
        usage,
        // Since Linux 5.19, for swap 6.5.
        max: number(directory, &format!("{name}.peak"))?.unwrap_or_default(),
        failcnt: 0,
    })
}

pub(super) fn pids(cgroup: &Cgroup, pids: &mut Pids) -> Result<()> {
    let directory = cgroup.v1("pids").or(cgroup.unified.as_ref());
    let current = directory.map(|directory| number(directory, "pids.current")).transpose()?;
    let Some(current) = current.flatten() else {
        pids.current = u64::try_from(cgroup.pids()?.len())?;
        return Ok(());
    };
    pids.current = current;
    let limit = directory.map(|directory| number(directory, "pids.max")).transpose()?.flatten();
    pids.limit = limit.filter(|limit| *limit != u64::MAX).unwrap_or_default();
    Ok(())
}

pub(super) fn block_io(cgroup: &Cgroup, block_io: &mut BlockIo) -> Result<()> {
    if let Some(directory) = cgroup.v1("blkio") {
        let list = |name: &str| transfers(directory, name);
        block_io.io_service_bytes_recursive = list("io_service_bytes")?;
        block_io.io_serviced_recursive = list("io_serviced")?;
        block_io.io_queued_recursive = list("io_queued")?;
        block_io.io_service_time_recursive = list("io_service_time")?;
        block_io.io_wait_time_recursive = list("io_wait_time")?;
        block_io.io_merged_recursive = list("io_merged")?;
        block_io.io_time_recursive = list("time")?;
        block_io.sectors_recursive = list("sectors")?;
    } else if let Some(directory) = &cgroup.unified {
        let text = text(directory, "io.stat")?.unwrap_or_default();
        let names = [("rbytes", "Read"), ("wbytes", "Write")];
        block_io.io_service_bytes_recursive = parse_io_stat(&text, names);
        block_io.io_serviced_recursive =
            parse_io_stat(&text, [("rios", "Read"), ("wios", "Write")]);
    }
    block_io.psi = pressure(cgroup, "io.pressure")?;
    Ok(())
}

/// From the scheduler that counts it; if none does, from the throttling above all of them.
fn transfers(directory: &Directory, name: &str) -> Result<Vec<Transfer>> {
    for file in [
        format!("blkio.bfq.{name}_recursive"),
        format!("blkio.{name}_recursive"),
        format!("blkio.throttle.{name}_recursive"),
        format!("blkio.throttle.{name}"),
    ] {
        let found = parse_transfers(&text(directory, &file)?.unwrap_or_default());
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// `8:0 Read 4096`, or `8:0 4096`; the sum in the last line is left out.
fn parse_transfers(text: &str) -> Vec<Transfer> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = match (words.next()?, words.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        Some(Transfer {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 …`, in the words of version 1.
fn parse_io_stat(text: &str, names: [(&str, &str); 2]) -> Vec<Transfer> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let device = words.next().and_then(|number| number.split_once(':'));
        let Some((major, minor)) = device else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let op = names.iter().find(|(name, _)| *name == key);
            if let (Some((_, op)), Ok(value)) = (op, value.parse()) {
                found.push(Transfer { major, minor, op: (*op).to_owned(), value });
            }
        }
    }
    found
}

pub(super) fn huge_pages(cgroup: &Cgroup, pages: &mut BTreeMap<String, HugePages>) -> Result<()> {
    for size in page_sizes() {
        let found = if let Some(directory) = cgroup.v1("hugetlb") {
            huge_pages_of_version_1(directory, &size)?
        } else if let Some(directory) = &cgroup.unified {
            huge_pages_of_version_2(directory, &size)?
        } else {
            None
        };
        if let Some(found) = found {
            pages.insert(size, found);
        }
    }
    Ok(())
}

fn huge_pages_of_version_1(directory: &Directory, size: &str) -> Result<Option<HugePages>> {
    for name in [format!("hugetlb.{size}.rsvd"), format!("hugetlb.{size}")] {
        let value = |file: &str| number(directory, &format!("{name}.{file}"));
        if let Some(usage) = value("usage_in_bytes")? {
            let max = value("max_usage_in_bytes")?.unwrap_or_default();
            let failcnt = value("failcnt")?.unwrap_or_default();
            return Ok(Some(HugePages { usage, max, failcnt }));
        }
    }
    Ok(None)
}

fn huge_pages_of_version_2(directory: &Directory, size: &str) -> Result<Option<HugePages>> {
    let events = table(directory, &format!("hugetlb.{size}.events"))?.unwrap_or_default();
    let failcnt = events.get("max").copied().unwrap_or_default();
    for file in [format!("hugetlb.{size}.rsvd.current"), format!("hugetlb.{size}.current")] {
        if let Some(usage) = number(directory, &file)? {
            return Ok(Some(HugePages { usage, max: 0, failcnt }));
        }
    }
    Ok(None)
}

/// The sizes of this kernel, as its control files are called.
fn page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut sizes: Vec<_> = names.filter_map(|name| page_size(name.to_str()?)).collect();
    sizes.sort();
    sizes
}

/// `2MB` for `hugepages-2048kB` (Linux `mm/hugetlb_cgroup.c`, `mem_fmt()`).
fn page_size(name: &str) -> Option<String> {
    let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        0..=0x3ff => format!("{kilobytes}KB"),
        0x400..=0xf_ffff => format!("{}MB", kilobytes >> 10),
        _ => format!("{}GB", kilobytes >> 20),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lists() {
        for (text, expected) in
            [("7", Some(7)), ("max", Some(u64::MAX)), ("-1", Some(0)), ("x", None), ("", None)]
        {
            assert_eq!(parse_number(text), expected, "{text:?}");
        }
        assert_eq!(parse_list("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(parse_list("\n"), [0_u16; 0]);
        let table = parse_table("cache 5\nrss max\nnothing\nbad x\n");
        assert_eq!(table, [("cache".to_owned(), 5), ("rss".to_owned(), u64::MAX)].into());
    }

    #[test]
    fn pressure_is_read_exactly() {
        let text = "some avg10=0.00 avg60=12.34 avg300=100.00 total=77\n\
                    full avg10=0.05 avg60=0.00 avg300=0.00 total=8\n";
        let json = serde_json::to_string(&parse_pressure(text)).unwrap();
        assert_eq!(
            json,
            r#"{"some":{"avg10":0,"avg60":12.34,"avg300":100,"total":77},"full":{"avg10":0.05,"avg60":0,"avg300":0,"total":8}}"#
        );
    }

    #[test]
    fn transfers_of_both_versions() {
        let read = |op: &str, value| Transfer { major: 8, minor: 16, op: op.to_owned(), value };
        let v1 = parse_transfers("8:16 Read 5\n8:16 Total 5\n8:16 6\nTotal 5\n");
        assert_eq!(v1, [read("Read", 5), read("Total", 5), read("", 6)]);
        let v2 = "8:16 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n";
        let bytes = parse_io_stat(v2, [("rbytes", "Read"), ("wbytes", "Write")]);
        assert_eq!(bytes, [read("Read", 5), read("Write", 6)]);
    }

    #[test]
    fn page_sizes_have_the_names_of_files() {
        for (name, expected) in [
            ("hugepages-64kB", Some("64KB")),
            ("hugepages-2048kB", Some("2MB")),
            ("hugepages-1048576kB", Some("1GB")),
            ("other", None),
        ] {
            assert_eq!(page_size(name).as_deref(), expected, "{name}");
        }
    }
}
