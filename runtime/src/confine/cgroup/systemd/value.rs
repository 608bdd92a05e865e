//! Values of properties, and how annotations write them.

use anyhow::{Context as _, Result, anyhow, ensure};

use super::Property;

/// A property's value, in the types of D-Bus that systemd uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    Texts(Vec<String>),
    Bytes(Vec<u8>),
    Numbers(Vec<u32>),
    Pairs(Vec<(String, String)>),
}

/// What annotations of properties begin with.
const PREFIX: &str = "org.systemd.property.";

/// The properties that `annotations` ask for, by name.
///
/// # Errors
///
/// A name that is none, or a value that is not in the text form of `GVariant`.
pub(super) fn annotated(
    annotations: impl Iterator<Item = (String, String)>,
) -> Result<Vec<Property>> {
    let mut found = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let property = property(name, &text);
        found.push(property.with_context(|| format!("/annotations/{key}: {text:?}"))?);
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Where the documentation says seconds (`TimeoutStopSec`), the bus wants microseconds
/// (`TimeoutStopUSec`).
fn property(name: &str, text: &str) -> Result<Property> {
    let is_name = name.len() >= 3 && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    ensure!(is_name, "{name:?} is no name of a property: want letters, three at least");
    let value = parse(text.trim())?;
    let stem =
        name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    match stem {
        Some(stem) => Ok((format!("{stem}USec"), Value::Uint64(microseconds(&value)?))),
        None => Ok((name.to_owned(), value)),
    }
}

fn microseconds(seconds: &Value) -> Result<u64> {
    const MILLION: u64 = 1_000_000;
    let whole = match seconds {
        Value::Int32(number) => u64::try_from(*number).ok(),
        Value::Int64(number) => u64::try_from(*number).ok(),
        Value::Uint32(number) => Some(u64::from(*number)),
        Value::Uint64(number) => Some(*number),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a thousand million"
        )]
        Value::Double(number) if (0.0..1e9).contains(number) => {
            return Ok((number * 1e6) as u64);
        }
        _ => None,
    };
    whole.and_then(|whole| whole.checked_mul(MILLION)).context("want a number of seconds")
}

/// The text form of `GVariant`, as far as systemd's properties need it.
fn parse(text: &str) -> Result<Value> {
    if let Some(list) = text.strip_prefix("@as ").unwrap_or(text).strip_prefix('[') {
        return texts(list.strip_suffix(']').context("want ] at the end")?);
    }
    if text.starts_with(['\'', '"']) {
        let (string, rest) = quoted(text)?;
        ensure!(rest.trim().is_empty(), "more behind the closing quote");
        return Ok(Value::Text(string));
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("", text));
    let wrong = || anyhow!("want true, false, a number, 'text', or ['text', …]");
    match kind {
        "" if text == "true" || text == "false" => Ok(Value::Bool(text == "true")),
        "boolean" => number.trim().parse().map(Value::Bool).map_err(|_| wrong()),
        "" | "int32" => number.trim().parse().map(Value::Int32).or_else(|_| {
            let double = number.trim().parse().ok().filter(|_| kind.is_empty());
            double.filter(|number: &f64| number.is_finite()).map(Value::Double).ok_or_else(wrong)
        }),
        "uint32" => number.trim().parse().map(Value::Uint32).map_err(|_| wrong()),
        "int64" => number.trim().parse().map(Value::Int64).map_err(|_| wrong()),
        "uint64" => number.trim().parse().map(Value::Uint64).map_err(|_| wrong()),
        "double" => number.trim().parse().map(Value::Double).map_err(|_| wrong()),
        "string" => parse(number.trim()).and_then(|value| match value {
            Value::Text(_) => Ok(value),
            _ => Err(wrong()),
        }),
        _ => Err(wrong()),
    }
}

fn texts(mut list: &str) -> Result<Value> {
    let mut found = Vec::new();
    list = list.trim();
    while !list.is_empty() {
        let (text, rest) = quoted(list)?;
        found.push(text);
        let rest = rest.trim_start();
        list = match rest.strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None => {
                ensure!(rest.is_empty(), "want a comma between texts");
                rest
            }
        };
    }
    Ok(Value::Texts(found))
}

/// The text between quotes, and what is behind it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut characters = text.char_indices();
    let quote = characters.next().map(|(_, c)| c).filter(|c| matches!(c, '\'' | '"'));
    let quote = quote.context("want a text in quotes")?;
    let mut string = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                let (_, escaped) = characters.next().context("want something behind \\")?;
                string.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                });
            }
            other if other == quote => return Ok((string, &text[at + 1..])),
            other => string.push(other),
        }
    }
    Err(anyhow!("want a closing quote"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_gvariant() {
        let texts = |all: &[&str]| Value::Texts(all.iter().map(ToString::to_string).collect());
        for (text, expected) in [
            ("true", Value::Bool(true)),
            ("'inactive-or-failed'", Value::Text("inactive-or-failed".into())),
            (r#""a\"b""#, Value::Text("a\"b".into())),
            ("7", Value::Int32(7)),
            ("-7", Value::Int32(-7)),
            ("0.5", Value::Double(0.5)),
            ("uint64 123456789", Value::Uint64(123_456_789)),
            ("int64 -1", Value::Int64(-1)),
            ("uint32 1", Value::Uint32(1)),
            ("['a.service', 'b\\'c']", texts(&["a.service", "b'c"])),
            ("@as []", texts(&[])),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "x", "'a", "['a' 'b']", "[1]", "uint32 -1", "int32 0.5", "nan", "'a' b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn annotations_are_properties() {
        let all = |pairs: &[(&str, &str)]| {
            annotated(pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())))
        };
        let found = all(&[
            ("org.systemd.property.TimeoutStopSec", "uint64 2"),
            ("other", "x"),
            ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
            ("org.systemd.property.RuntimeMaxSec", "0.5"),
            ("org.systemd.property.TimeoutStartUSec", "uint64 7"),
        ]);
        assert_eq!(
            found.unwrap(),
            [
                ("CollectMode".to_owned(), Value::Text("inactive-or-failed".into())),
                ("RuntimeMaxUSec".to_owned(), Value::Uint64(500_000)),
                ("TimeoutStartUSec".to_owned(), Value::Uint64(7)),
                ("TimeoutStopUSec".to_owned(), Value::Uint64(2_000_000)),
            ]
        );
        for (key, text) in [
            ("org.systemd.property.A b", "1"),
            ("org.systemd.property.CollectMode", "inactive"),
            ("org.systemd.property.TimeoutStopSec", "'x'"),
        ] {
            let error = format!("{:#}", all(&[(key, text)]).unwrap_err());
            assert!(error.starts_with(&format!("/annotations/{key}: ")), "{error}");
        }
    }
}
