//! Patterns as Go's `path.Match` has them.

/// Whether `text` fits `pattern`: `*` is any text without a slash, `?` one letter, `[a-c]` one of several.
pub(in crate::cli) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    fits_from(&pattern, &text)
}

fn fits_from(pattern: &[char], text: &[char]) -> bool {
    // Positions to go back to: a star takes one letter more.
    let (mut at, mut here, mut back) = (0, 0, None);
    loop {
        match pattern.get(at) {
            Some('*') => {
                back = Some((at, here));
                at += 1;
                continue;
            }
            Some(_) => {
                if let Some(used) =
                    text.get(here).and_then(|letter| one(pattern.get(at..)?, *letter))
                {
                    at += used;
                    here += 1;
                    continue;
                }
            }
            None if here == text.len() => return true,
            None => {}
        }
        match back {
            Some((star, from)) if text.get(from).is_some_and(|letter| *letter != '/') => {
                back = Some((star, from + 1));
                at = star + 1;
                here = from + 1;
            }
            _ => return false,
        }
    }
}

/// How much of the pattern's start fits one letter; `None` if it does not.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern {
        ['?', ..] => (letter != '/').then_some(1),
        ['\\', literal, ..] => (*literal == letter).then_some(2),
        ['[', rest @ ..] => {
            let end = rest.iter().skip(1).position(|letter| *letter == ']')? + 1;
            let (inverted, set) = match rest.get(..end)? {
                ['^', set @ ..] => (true, set),
                set => (false, set),
            };
            let mut set = set;
            let mut found = false;
            while let [first, more @ ..] = set {
                if let ['-', last, more @ ..] = more {
                    found |= (*first..=*last).contains(&letter);
                    set = more;
                } else {
                    found |= *first == letter;
                    set = more;
                }
            }
            (found != inverted).then_some(end + 2)
        }
        [literal, ..] => (*literal == letter).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_go() {
        for (pattern, text, expected) in [
            ("debian", "debian", true),
            ("deb*", "debian", true),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("a\\*", "a*", true),
            ("[", "a", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
