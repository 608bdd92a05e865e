//! Owners shown in place of those on disk.

/// What is shown for an id that no range has (`/proc/sys/kernel/overflowuid`, everywhere the same).
const OVERFLOW: u32 = 65_534;

/// A range of ids: those from `disk` on are shown as those from `shown` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first on disk.
    pub disk: u32,
    /// The first as shown.
    pub shown: u32,
    /// How many.
    pub count: u32,
}

/// How users or groups on disk are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// The first range that has an id counts; without any all ids are shown as they are.
    pub ranges: Vec<IdRange>,
    /// All are shown as this one.
    pub squash: Option<u32>,
}

impl IdMap {
    /// Reads `DISK:SHOWN:COUNT[:DISK:SHOWN:COUNT…]`. `None` if that is not its form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u32> =
            text.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let (triples, rest) = numbers.as_chunks::<3>();
        let range = |&[disk, shown, count]: &[u32; 3]| IdRange { disk, shown, count };
        rest.is_empty().then(|| Self { ranges: triples.iter().map(range).collect(), squash: None })
    }

    /// What is shown for the id `disk`.
    pub(crate) fn shown(&self, disk: u32) -> u32 {
        self.squash.unwrap_or_else(|| self.find(disk, |range| (range.disk, range.shown)))
    }

    /// The id on disk of what is shown as `shown`.
    pub(crate) fn disk(&self, shown: u32) -> u32 {
        self.find(shown, |range| (range.shown, range.disk))
    }

    fn find(&self, id: u32, ends: impl Fn(&IdRange) -> (u32, u32)) -> u32 {
        if self.ranges.is_empty() {
            return id;
        }
        let found = self.ranges.iter().find_map(|range| {
            let (from, to) = ends(range);
            let at = id.checked_sub(from).filter(|at| *at < range.count)?;
            to.checked_add(at)
        });
        found.unwrap_or(OVERFLOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_map_both_ways() {
        let map = IdMap::parse("0:1000:1:1:110000:65536").unwrap();
        for (disk, shown) in [(0, 1000), (1, 110_000), (65_536, 175_535)] {
            assert_eq!(map.shown(disk), shown);
            assert_eq!(map.disk(shown), disk);
        }
        assert_eq!(map.shown(65_537), OVERFLOW);
        assert_eq!(map.disk(0), OVERFLOW);
        let squashed = IdMap { squash: Some(7), ..map };
        assert_eq!((squashed.shown(0), squashed.shown(99_999)), (7, 7));
        assert_eq!(IdMap::default().shown(5), 5);
        let end = IdMap::parse("4294967290:4294967290:100").unwrap();
        assert_eq!((end.shown(u32::MAX), end.disk(u32::MAX)), (u32::MAX, u32::MAX));
    }

    #[test]
    fn broken_ranges_are_refused() {
        for text in ["", "0", "0:0", "0:0:1:", "0:0:1:2", "a:0:1", "-1:0:1", "0:0:4294967296"] {
            assert_eq!(IdMap::parse(text), None, "{text:?}");
        }
    }
}
