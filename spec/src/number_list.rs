//! Lists of numbers as the kernel writes processors and memory nodes: `0-3,7`.

use std::ops::RangeInclusive;

/// The largest processor or memory node that makes sense: far above what any kernel is built for,
/// and small enough for a mask of all.
const LARGEST: u32 = 8191;

/// The ranges of `list`, a comma-separated list with dashes for ranges, such as `0-3,7`.
///
/// # Errors
///
/// One sentence that says what is wrong with it.
///
/// ```
/// assert_eq!(rrun_spec::number_list("0-3,7"), Ok(vec![0..=3, 7..=7]));
/// assert_eq!(rrun_spec::number_list("3-1").unwrap_err(), "\"3-1\" ends before it begins");
/// ```
pub fn number_list(list: &str) -> Result<Vec<RangeInclusive<u32>>, String> {
    list.split(',').map(range).collect()
}

fn range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{text:?} ends before it begins"));
    }
    Ok(first..=last)
}

fn number(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number
        .filter(|number| *number <= LARGEST)
        .ok_or_else(|| format!("{text:?} is not a number from 0 to {LARGEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        for (list, expected) in [
            ("0", Some(vec![0..=0])),
            ("0-0", Some(vec![0..=0])),
            ("7,0-3,0-8191", Some(vec![7..=7, 0..=3, 0..=8191])),
            ("8192", None),
            ("", None),
            ("1,", None),
            ("-1", None),
            ("1-", None),
            ("1-2-3", None),
            ("+1", None),
            (" 1", None),
            ("99999999999", None),
        ] {
            assert_eq!(number_list(list).ok(), expected, "{list:?}");
        }
    }
}
