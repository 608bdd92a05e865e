//! Id maps: which id inside a user namespace is which id outside of it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

/// The most lines that the kernel takes in a map (`UID_GID_MAP_MAX_EXTENTS`, Linux 4.15).
pub const MAX_LINES: usize = 340;

/// The kernel takes a map in one write that is shorter than a page (`map_write()`).
const MAX_BYTES: usize = 4095;

/// One range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside of it, in the parent namespace.
    pub outside: u32,
    /// How many ids; at least one.
    pub count: u32,
}

/// The user and group ids of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// What `/proc/PID/uid_map` says.
    pub uids: Vec<IdMap>,
    /// What `/proc/PID/gid_map` says.
    pub gids: Vec<IdMap>,
}

impl IdMaps {
    /// The maps of `linux.uidMappings` and `linux.gidMappings`, checked.
    ///
    /// # Errors
    ///
    /// What [`check`] says, after the JSON pointer of the list.
    pub fn from_oci(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<Self> {
        let maps = Self { uids: ranges(uids), gids: ranges(gids) };
        check(&maps.uids).context("/linux/uidMappings")?;
        check(&maps.gids).context("/linux/gidMappings")?;
        Ok(maps)
    }

    /// The maps of one mount, `mounts[].uidMappings` and `gidMappings`, checked.
    ///
    /// # Errors
    ///
    /// What [`check`] says, after the name of the list.
    pub fn listed(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<Self> {
        let maps = Self { uids: ranges(uids), gids: ranges(gids) };
        maps.check()?;
        Ok(maps)
    }

    /// Whether the kernel would take both maps.
    ///
    /// # Errors
    ///
    /// What [`check`] says, after the name of the list.
    pub fn check(&self) -> Result<()> {
        check(&self.uids).context("uidMappings")?;
        check(&self.gids).context("gidMappings")
    }

    /// The maps under which the one user and the one group exist as 0 inside.
    #[must_use]
    pub fn single(uid: u32, gid: u32) -> Self {
        let only = |outside| vec![IdMap { inside: 0, outside, count: 1 }];
        Self { uids: only(uid), gids: only(gid) }
    }

    /// Whether nothing but these two ids is mapped, which the kernel lets anybody do.
    #[must_use]
    pub fn is_only(&self, uid: u32, gid: u32) -> bool {
        let only = |maps: &[IdMap], id| matches!(maps, [m] if m.outside == id && m.count == 1);
        only(&self.uids, uid) && only(&self.gids, gid)
    }
}

fn ranges(mappings: &[LinuxIdMapping]) -> Vec<IdMap> {
    let range = |mapping: &LinuxIdMapping| IdMap {
        inside: mapping.container_id(),
        outside: mapping.host_id(),
        count: mapping.size(),
    };
    mappings.iter().map(range).collect()
}

/// Reads the text of `/proc/PID/uid_map` or `gid_map`.
///
/// An empty text is a namespace whose map was not written yet, hence no ranges.
///
/// # Errors
///
/// A line that is not three numbers of 32 bits.
pub fn parse(text: &str) -> Result<Vec<IdMap>> {
    text.lines().map(|line| parse_line(line).with_context(|| format!("id map {line:?}"))).collect()
}

fn parse_line(line: &str) -> Result<IdMap> {
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
    let mut next = || numbers.next().context("want three numbers")?.context("want 0 to 4294967295");
    let map = IdMap { inside: next()?, outside: next()?, count: next()? };
    ensure!(numbers.next().is_none(), "want three numbers");
    Ok(map)
}

/// The text that the kernel and newuidmap take.
#[must_use]
pub fn text(maps: &[IdMap]) -> String {
    maps.iter().fold(String::new(), |mut text, map| {
        let _never_fails = writeln!(text, "{} {} {}", map.inside, map.outside, map.count);
        text
    })
}

/// Whether the kernel would take `maps`.
///
/// # Errors
///
/// No line or more than [`MAX_LINES`], an empty range, one that ends beyond the largest id
/// (4294967294; 4294967295 means "no id"), ranges that overlap on either side, or a text too long
/// for one write.
///
/// Source: Linux `kernel/user_namespace.c`, `map_write()`.
pub fn check(maps: &[IdMap]) -> Result<()> {
    ensure!(!maps.is_empty(), "want at least one range of ids");
    ensure!(maps.len() <= MAX_LINES, "{} ranges: the kernel takes {MAX_LINES}", maps.len());
    for (at, map) in maps.iter().enumerate() {
        check_range(map).with_context(|| format!("range {at}"))?;
        for (earlier, other) in maps[..at].iter().enumerate() {
            if overlap(map.inside, map.count, other.inside, other.count) {
                bail!("ranges {earlier} and {at} overlap inside the container");
            }
            if overlap(map.outside, map.count, other.outside, other.count) {
                bail!("ranges {earlier} and {at} overlap outside the container");
            }
        }
    }
    ensure!(text(maps).len() <= MAX_BYTES, "the kernel takes at most {MAX_BYTES} bytes of map");
    Ok(())
}

fn check_range(map: &IdMap) -> Result<()> {
    ensure!(map.count > 0, "a size of 0 maps nothing");
    for (side, first) in [("inside", map.inside), ("outside", map.outside)] {
        let fits = first.checked_add(map.count).is_some();
        ensure!(fits, "{} ids from {first} {side} end beyond 4294967294", map.count);
    }
    Ok(())
}

/// Whether two ranges of ids have one in common.
#[must_use]
pub(super) fn overlap(first: u32, count: u32, other: u32, other_count: u32) -> bool {
    let end = |first: u32, count: u32| u64::from(first) + u64::from(count);
    u64::from(first) < end(other, other_count) && u64::from(other) < end(first, count)
}

/// The id outside that `id` inside is; none if it is not mapped.
#[must_use]
pub fn inside_to_outside(maps: &[IdMap], id: u32) -> Option<u32> {
    translate(maps.iter().map(|map| (map.inside, map.outside, map.count)), id)
}

/// The id inside that `id` outside is; none if it is not mapped.
#[must_use]
pub fn outside_to_inside(maps: &[IdMap], id: u32) -> Option<u32> {
    translate(maps.iter().map(|map| (map.outside, map.inside, map.count)), id)
}

fn translate(mut ranges: impl Iterator<Item = (u32, u32, u32)>, id: u32) -> Option<u32> {
    ranges.find_map(|(from, to, count)| {
        let offset = id.checked_sub(from).filter(|offset| *offset < count)?;
        to.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(inside: u32, outside: u32, count: u32) -> IdMap {
        IdMap { inside, outside, count }
    }

    #[test]
    fn the_text_of_the_kernel_is_read_and_written() {
        for (text_in, expected) in [
            ("", vec![]),
            ("         0          0 4294967295\n", vec![map(0, 0, u32::MAX)]),
            ("0 1000 1\n1 100000 65536\n", vec![map(0, 1000, 1), map(1, 100_000, 65_536)]),
        ] {
            let maps = parse(text_in).unwrap();
            assert_eq!(maps, expected, "{text_in:?}");
            assert_eq!(parse(&text(&maps)).unwrap(), expected);
        }
        assert_eq!(text(&[map(0, 1000, 1), map(1, 5, 6)]), "0 1000 1\n1 5 6\n");
        for wrong in ["1 2\n", "1 2 3 4\n", "a 2 3\n", "0 0 4294967296\n", "-1 0 1\n", "\n"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_refused_before() {
        for (maps, complaint) in [
            (vec![], "at least one"),
            (vec![map(0, 0, 0)], "size of 0"),
            (vec![map(1, 0, u32::MAX)], "inside end beyond"),
            (vec![map(0, 4_294_967_295, 1)], "outside end beyond"),
            (vec![map(0, 10, 5), map(4, 20, 1)], "overlap inside"),
            (vec![map(0, 10, 5), map(5, 14, 1)], "overlap outside"),
            ((0..341).map(|id| map(id, id, 1)).collect(), "341 ranges"),
            ((0..300).map(|id| map(id * 7 + 4_000_000_000, id * 9, 7)).collect(), "bytes of map"),
        ] {
            let error = format!("{:#}", check(&maps).unwrap_err());
            assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
        }
        check(&[map(0, 0, u32::MAX)]).unwrap();
        check(&[map(0, 1000, 1), map(1, 100_000, 65_536)]).unwrap();
        check(&(0..340).map(|id| map(id, id, 1)).collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn ids_are_translated_both_ways() {
        let maps = [map(0, 1000, 1), map(1, 100_000, 65_536)];
        for (inside, outside) in [(0, 1000), (1, 100_000), (65_536, 165_535)] {
            assert_eq!(inside_to_outside(&maps, inside), Some(outside));
            assert_eq!(outside_to_inside(&maps, outside), Some(inside));
        }
        assert_eq!(inside_to_outside(&maps, 65_537), None);
        assert_eq!(outside_to_inside(&maps, 1001), None);
        assert_eq!(inside_to_outside(&[map(0, 0, u32::MAX)], u32::MAX), None);
    }

    #[test]
    fn mappings_of_a_config_name_their_list() {
        let one = |container: u32, host: u32, size: u32| {
            let json = format!(r#"{{"containerID":{container},"hostID":{host},"size":{size}}}"#);
            serde_json::from_str::<LinuxIdMapping>(&json).unwrap()
        };
        let maps = IdMaps::from_oci(&[one(0, 1000, 1)], &[one(0, 100, 1)]).unwrap();
        assert!(maps.is_only(1000, 100));
        assert_eq!(maps, IdMaps::single(1000, 100));
        let error = IdMaps::from_oci(&[one(0, 1000, 1)], &[one(0, 100, 0)]).unwrap_err();
        assert_eq!(format!("{error:#}"), "/linux/gidMappings: range 0: a size of 0 maps nothing");
    }
}
