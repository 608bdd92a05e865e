//! The value of the mount option `idmap`, as crun writes it: `idmap=uids=0-1000-10#20-2000-5;gids=0-1000-10`.
//!
//! Each range is the first ID of the file system, the first ID that it is to be, and how many; a
//! range that begins with `@` counts the second in IDs of the container.
//!
//! Source: crun's man page, "idmap mount options".

/// One range of such a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First ID in the file system.
    pub stored: u32,
    /// First ID that it is shown as.
    pub shown: u32,
    /// How many; at least one.
    pub count: u32,
    /// Whether `shown` is an ID of the container's user namespace, not of the host's.
    pub in_container: bool,
}

/// The ranges of users and groups; neither is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRanges {
    /// Those after `uids=`.
    pub users: Vec<IdRange>,
    /// Those after `gids=`.
    pub groups: Vec<IdRange>,
}

/// The ranges in the mount option `option`; none if it has no value.
///
/// ```
/// use rrun_spec::id_ranges;
///
/// assert_eq!(id_ranges("idmap"), Ok(None));
/// let ranges = id_ranges("idmap=uids=0-1000-1;gids=0-@5-1");
/// assert!(ranges.is_err(), "@ stands in front of a whole range");
/// ```
///
/// # Errors
///
/// What is wrong with the value, in a sentence.
pub fn id_ranges(option: &str) -> Result<Option<IdRanges>, String> {
    let Some((_name, value)) = option.split_once('=') else { return Ok(None) };
    if value.is_empty() {
        return Ok(None);
    }
    let mut ranges = IdRanges::default();
    for part in value.split(';') {
        let (list, text) = match part.split_once('=') {
            Some(("uids", text)) => (&mut ranges.users, text),
            Some(("gids", text)) => (&mut ranges.groups, text),
            _ => return Err(format!("{part:?} is neither uids=… nor gids=…")),
        };
        for range in text.split('#') {
            list.push(parse(range).ok_or_else(|| {
                format!("{range:?} is no range of IDs: want STORED-SHOWN-COUNT, as 0-1000-10")
            })?);
        }
    }
    if ranges.users.is_empty() || ranges.groups.is_empty() {
        return Err("has only one of uids= and gids=: give both".to_owned());
    }
    Ok(Some(ranges))
}

fn parse(text: &str) -> Option<IdRange> {
    let numbers = text.strip_prefix('@').unwrap_or(text);
    let mut numbers = numbers.split('-').map(|number| {
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse().ok()).flatten()
    });
    let range = IdRange {
        stored: numbers.next()??,
        shown: numbers.next()??,
        count: numbers.next()??,
        in_container: text.starts_with('@'),
    };
    let fits = |first: u32| first.checked_add(range.count).is_some();
    let is_whole = numbers.next().is_none();
    (is_whole && range.count > 0 && fits(range.stored) && fits(range.shown)).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(stored: u32, shown: u32, count: u32, in_container: bool) -> IdRange {
        IdRange { stored, shown, count, in_container }
    }

    #[test]
    fn lists_are_read_as_crun_reads_them() {
        assert_eq!(id_ranges("ridmap"), Ok(None));
        assert_eq!(id_ranges("idmap="), Ok(None));
        let expected = IdRanges {
            users: vec![range(0, 1, 10, false), range(10, 11, 10, true)],
            groups: vec![range(0, 100, 10, false)],
        };
        let read = id_ranges("idmap=uids=0-1-10#@10-11-10;gids=0-100-10");
        assert_eq!(read, Ok(Some(expected)));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (option, complaint) in [
            ("idmap=uids=0-1-1", "only one of"),
            ("idmap=users=0-1-1", "neither uids"),
            ("idmap=uids=0-1;gids=0-1-1", "\"0-1\" is no range"),
            ("idmap=uids=0-1-1-1;gids=0-1-1", "no range"),
            ("idmap=uids=0-1-0;gids=0-1-1", "no range"),
            ("idmap=uids=-1-1-1;gids=0-1-1", "no range"),
            ("idmap=uids=+1-1-1;gids=0-1-1", "no range"),
            ("idmap=uids=0-4294967295-1;gids=0-1-1", "no range"),
            ("idmap=uids=0-4294967296-1;gids=0-1-1", "no range"),
            ("idmap=uids=0-1-1#;gids=0-1-1", "\"\" is no range"),
        ] {
            let error = id_ranges(option).unwrap_err();
            assert!(error.contains(complaint), "{option}: {error}");
        }
    }
}
