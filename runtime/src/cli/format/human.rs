//! Sizes and ages in words, as Docker says them.

use jiff::Timestamp;

/// A size: three digits and a unit, `1.23MB`.
///
/// Source: `github.com/docker/go-units`, `size.go`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(in crate::cli) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    // Three significant digits, without zeros at the end.
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let digits = format!("{value:.decimals$}");
    let digits = if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        &digits
    };
    format!("{digits}{unit}")
}

/// How long ago something was, `3 weeks ago`; nothing if nobody knows when.
///
/// Source: `github.com/docker/go-units`, `duration.go`.
pub(in crate::cli) fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    let Some(then) = then.filter(|then| then.as_second() > 0) else { return "N/A".to_owned() };
    let seconds = (now.as_second() - then.as_second()).max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    let words = match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    };
    format!("{words} ago")
}

/// A moment, as Go prints it.
pub(in crate::cli) fn moment(then: Option<Timestamp>) -> String {
    then.map_or_else(
        || "N/A".to_owned(),
        |then| then.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1024, "1.02kB"),
            (12_345, "12.3kB"),
            (124_567_890, "125MB"),
            (4_260_000_000, "4.26GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn ages_are_told_in_words() {
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        for (seconds, expected) in [
            (0, "Less than a second ago"),
            (30, "30 seconds ago"),
            (90, "About a minute ago"),
            (3600, "About an hour ago"),
            (5 * 3600, "5 hours ago"),
            (3 * 86_400, "3 days ago"),
            (20 * 86_400, "2 weeks ago"),
            (100 * 86_400, "3 months ago"),
            (800 * 86_400, "2 years ago"),
        ] {
            let then = Timestamp::from_second(2_000_000_000 - seconds).ok();
            assert_eq!(since(then, now), expected);
        }
        assert_eq!(since(None, now), "N/A");
        assert_eq!(moment(Timestamp::from_second(0).ok()), "1970-01-01 00:00:00 +0000 UTC");
    }
}
