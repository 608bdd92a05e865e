//! The ids a caller owns beside his own: `/etc/subuid` and `/etc/subgid`.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use nix::unistd::{getegid, geteuid};

use super::map::{self, IdMap, IdMaps};
use super::write::{self, Helper};

/// Where useradd begins to hand out ranges, and how many ids each has (`login.defs`).
const FIRST_RANGE: u32 = 100_000;
const RANGE: u32 = 65_536;

/// A range of ids that an administrator gave to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubRange {
    /// The first id.
    pub first: u32,
    /// How many; never 0.
    pub count: u32,
}

/// The ranges of one owner in the text of `/etc/subuid` or `/etc/subgid`, in the file's order.
///
/// The owner is a user in both files, by name or by number. Lines that are not `owner:first:count`,
/// empty ranges and those beyond the largest id are left out, as newuidmap does.
///
/// Source: subuid(5), shadow `lib/subordinateio.c`.
#[must_use]
pub fn ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<SubRange> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let (owner, range) = line.split_once(':')?;
            (owner == number || Some(owner) == name).then(|| parse_range(range)).flatten()
        })
        .collect()
}

fn parse_range(text: &str) -> Option<SubRange> {
    let (first, count) = text.split_once(':')?;
    let (first, count) = (first.parse::<u32>().ok()?, count.trim_end().parse::<u32>().ok()?);
    (count > 0 && first.checked_add(count).is_some()).then_some(SubRange { first, count })
}

/// The name of `uid` in the text of `/etc/passwd`.
#[must_use]
pub fn name_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid) && !name.is_empty()).then_some(name)
    })
}

/// The name of `uid` in this machine's `/etc/passwd`; none if it has none or cannot be read.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    name_in(&fs::read_to_string("/etc/passwd").ok()?, uid).map(str::to_owned)
}

/// The maps of a caller who asked for a user namespace but not for ids, and a warning where he gets
/// fewer than he will expect.
///
/// Root, real or in a user namespace (`podman unshare`), gives all the ids that he has, each as
/// itself. Anybody else becomes 0, followed by his subordinate ids from 1 on.
///
/// # Errors
///
/// `/proc` or a file in `/etc` that is there but cannot be read.
pub fn rootless_maps() -> Result<(IdMaps, Option<String>)> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if uid == 0 {
        let read = |path| fs::read_to_string(path).with_context(|| format!("read {path}"));
        return own_maps(&read("/proc/self/uid_map")?, &read("/proc/self/gid_map")?);
    }
    let files = Files { subuid: &optional("/etc/subuid")?, subgid: &optional("/etc/subgid")? };
    let helpers = write::find(Helper::Uids).is_some() && write::find(Helper::Gids).is_some();
    Ok(subordinate_maps(&Caller { uid, gid, name: user_name(uid).as_deref() }, &files, helpers))
}

fn optional(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        text => text.with_context(|| format!("read {path}")),
    }
}

/// Every id that exists in the namespace whose maps are given, as itself.
fn own_maps(uid_map: &str, gid_map: &str) -> Result<(IdMaps, Option<String>)> {
    let own = |text| -> Result<Vec<IdMap>> { Ok(as_themselves(map::parse(text)?)) };
    let maps = IdMaps { uids: own(uid_map)?, gids: own(gid_map)? };
    let poor = maps.uids.iter().chain(&maps.gids).all(|range| range.count == 1);
    let warning = poor.then(|| {
        "this user namespace has one user and one group, so the container has no others: start it \
         from a namespace with more, for example by `podman unshare`"
            .to_owned()
    });
    Ok((maps, warning))
}

/// The inner sides of `maps`, mapped to themselves. Neighbours are not joined: the kernel takes no range
/// that is not in one piece further out.
fn as_themselves(maps: Vec<IdMap>) -> Vec<IdMap> {
    let itself = |map: IdMap| IdMap { outside: map.inside, ..map };
    maps.into_iter().map(itself).collect()
}

struct Caller<'a> {
    uid: u32,
    gid: u32,
    name: Option<&'a str>,
}

struct Files<'a> {
    subuid: &'a str,
    subgid: &'a str,
}

fn subordinate_maps(
    caller: &Caller<'_>,
    files: &Files<'_>,
    helpers: bool,
) -> (IdMaps, Option<String>) {
    let uids = ranges(files.subuid, caller.name, caller.uid);
    let gids = ranges(files.subgid, caller.name, caller.uid);
    let cure = if uids.is_empty() || gids.is_empty() {
        no_ranges(caller, files, uids.is_empty())
    } else if !helpers {
        "newuidmap and newgidmap are not installed (cure: apt install uidmap)".to_owned()
    } else {
        let maps = IdMaps { uids: lined_up(caller.uid, &uids), gids: lined_up(caller.gid, &gids) };
        return (maps, None);
    };
    let warning = format!("the container has one user and one group: {cure}");
    (IdMaps::single(caller.uid, caller.gid), Some(warning))
}

fn no_ranges(caller: &Caller<'_>, files: &Files<'_>, uids_lack: bool) -> String {
    let file = if uids_lack { "/etc/subuid" } else { "/etc/subgid" };
    let who = caller.name.map_or_else(|| caller.uid.to_string(), str::to_owned);
    let first = first_free(files);
    let last = first.saturating_add(RANGE - 1);
    format!(
        "{file} has no range for {who} (cure: sudo usermod --add-subuids {first}-{last} \
         --add-subgids {first}-{last} {who})"
    )
}

/// The id after every range that anybody has.
fn first_free(files: &Files<'_>) -> u32 {
    let lines = files.subuid.lines().chain(files.subgid.lines());
    let range = |line: &str| line.split_once(':').and_then(|(_owner, range)| parse_range(range));
    let ends = lines.filter_map(range).map(|range| range.first + range.count);
    ends.fold(FIRST_RANGE, u32::max)
}

/// The caller's own id as 0, then his ranges one after the other.
///
/// Ranges that hold an id mapped already (a line twice in the file) and those beyond what the
/// kernel takes are left out.
fn lined_up(own: u32, ranges: &[SubRange]) -> Vec<IdMap> {
    let mut maps = vec![IdMap { inside: 0, outside: own, count: 1 }];
    let mut inside = 1_u32;
    for range in ranges {
        let taken = |map: &IdMap| map::overlap(map.outside, map.count, range.first, range.count);
        let Some(next) = inside.checked_add(range.count) else { break };
        if !maps.iter().any(taken) && maps.len() < map::MAX_LINES {
            maps.push(IdMap { inside, outside: range.first, count: range.count });
            inside = next;
        }
    }
    maps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, count: u32) -> SubRange {
        SubRange { first, count }
    }

    fn map(inside: u32, outside: u32, count: u32) -> IdMap {
        IdMap { inside, outside, count }
    }

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        for (text, expected) in [
            ("", vec![]),
            ("ada:100000:65536\n", vec![range(100_000, 65_536)]),
            ("1000:100000:65536", vec![range(100_000, 65_536)]),
            ("bob:1:2\nada:5:6\nada:7:8\n", vec![range(5, 6), range(7, 8)]),
            ("ada:5:6\n1000:7:8\n", vec![range(5, 6), range(7, 8)]),
            ("ada:4294967296:1\n", vec![]), // one past the largest id
            ("ada:4294967295:1\n", vec![]), // "no id"
            ("ada:4294967294:1\n", vec![range(4_294_967_294, 1)]),
            ("ada:1:0\n", vec![]),
            ("ada:-1:5\nada:1\nada\n:1:2\n#ada:1:2\n adam:1:2\n", vec![]),
        ] {
            assert_eq!(ranges(text, Some("ada"), 1000), expected, "{text:?}");
        }
        assert_eq!(ranges(":1:2\n", None, 1000), vec![]);
    }

    #[test]
    fn names_come_from_the_third_field() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nada:x:1000:100::/home/ada:/bin/sh\nbad\n::7:\n";
        assert_eq!(name_in(passwd, 1000), Some("ada"));
        assert_eq!(name_in(passwd, 0), Some("root"));
        assert_eq!(name_in(passwd, 100), None);
        assert_eq!(name_in(passwd, 7), None);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
    }

    #[test]
    fn a_caller_gets_all_his_ranges_behind_his_own_id() {
        let caller = Caller { uid: 1000, gid: 100, name: Some("ada") };
        let files =
            Files { subuid: "ada:5000:10\nada:5005:3\n1000:9000:2\n", subgid: "ada:7000:4\n" };
        let (maps, warning) = subordinate_maps(&caller, &files, true);
        assert_eq!(warning, None);
        assert_eq!(maps.uids, [map(0, 1000, 1), map(1, 5000, 10), map(11, 9000, 2)]);
        assert_eq!(maps.gids, [map(0, 100, 1), map(1, 7000, 4)]);
    }

    #[test]
    fn a_caller_without_ranges_is_told_the_cure() {
        let caller = Caller { uid: 1000, gid: 100, name: Some("ada") };
        for (subuid, subgid, helpers, cure) in [
            ("bob:100000:65536\n", "ada:1:1\n", true, "--add-subuids 165536-231071"),
            ("ada:1:1\n", "", true, "/etc/subgid has no range for ada"),
            ("", "", false, "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ada"),
            ("ada:1:1\n", "ada:1:1\n", false, "apt install uidmap"),
        ] {
            let (maps, warning) = subordinate_maps(&caller, &Files { subuid, subgid }, helpers);
            let warning = warning.unwrap();
            assert!(warning.contains(cure), "{warning:?} lacks {cure:?}");
            assert_eq!(maps, IdMaps::single(1000, 100));
        }
    }

    #[test]
    fn root_of_a_namespace_passes_on_what_he_has() {
        let nested = "0 1000 1\n1 100000 65536\n";
        let (maps, warning) = own_maps(nested, nested).unwrap();
        assert_eq!((maps.uids, warning), (vec![map(0, 0, 1), map(1, 1, 65_536)], None));
        let (maps, warning) = own_maps("0 1000 1\n", "0 100 1\n").unwrap();
        assert!(maps.is_only(0, 0));
        assert!(warning.unwrap().contains("one user and one group"));
        let (maps, _) = own_maps("0 0 4294967295\n", "5 9 1\n0 7 2\n").unwrap();
        assert_eq!(maps.uids, [map(0, 0, u32::MAX)]);
        assert_eq!(maps.gids, [map(5, 5, 1), map(0, 0, 2)]);
    }

    #[test]
    fn no_more_lines_than_the_kernel_takes() {
        let many = (0..400).map(|at| range(10_000 + 2 * at, 1)).collect::<Vec<_>>();
        let maps = lined_up(1000, &many);
        assert_eq!(maps.len(), map::MAX_LINES);
    }
}
