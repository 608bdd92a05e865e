//! Templates: from text to words.

use anyhow::{Context as _, Result, bail};

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What is printed as it is.
    Text(String),
    /// What stands between braces.
    Action(Vec<Word>),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// `.A.B`, and `.` without names; true if it begins at the root (`$`).
    Field(bool, Vec<String>),
    /// A name: of a function, or a keyword.
    Name(String),
    /// A text in quotes.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `(`
    Open,
    /// `)`
    Close,
    /// `|`
    Pipe,
}

/// Splits a template.
///
/// # Errors
///
/// If it is none.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let (text, after) = match after.strip_prefix("- ") {
            Some(after) => (text.trim_end(), after),
            None => (text, after),
        };
        pieces.push(Piece::Text(text.to_owned()));
        let end = end_of_action(after).with_context(|| format!("unclosed action: {{{{{after}"))?;
        let (action, after) = after.split_at(end);
        rest = after.get(2..).unwrap_or_default();
        let action = match action.strip_suffix(" -") {
            Some(action) => {
                rest = rest.trim_start();
                action
            }
            None => action,
        };
        if !action.trim().starts_with("/*") {
            pieces.push(Piece::Action(words(action)?));
        }
    }
    pieces.push(Piece::Text(rest.to_owned()));
    pieces.retain(|piece| *piece != Piece::Text(String::new()));
    Ok(pieces)
}

/// Where the braces close that are not in quotes.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(letter),
            (None, '}') if text.get(at..)?.starts_with("}}") => return Some(at),
            _ => {}
        }
    }
    None
}

fn words(action: &str) -> Result<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '(' => (Word::Open, rest.get(1..)),
            ')' => (Word::Close, rest.get(1..)),
            '|' => (Word::Pipe, rest.get(1..)),
            '"' => {
                let end = closing_quote(rest).context("unterminated quoted string")?;
                let text = rest.get(..=end).unwrap_or_default();
                let text = serde_json::from_str(text).with_context(|| format!("text {text}"))?;
                (Word::Text(text), rest.get(end + 1..))
            }
            '`' => {
                let inner = rest.get(1..).unwrap_or_default();
                let (text, after) = inner.split_once('`').context("unterminated quoted string")?;
                (Word::Text(text.to_owned()), Some(after))
            }
            _ => {
                let ends = |letter: char| letter.is_whitespace() || "()|\"`".contains(letter);
                let end = rest.find(ends).unwrap_or(rest.len());
                (plain_word(rest.get(..end).unwrap_or_default())?, rest.get(end..))
            }
        };
        words.push(word);
        rest = after.unwrap_or_default().trim_start();
    }
    Ok(words)
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn plain_word(text: &str) -> Result<Word> {
    let (from_root, path) = match text.strip_prefix('$') {
        Some(path) => (true, path),
        None => (false, text),
    };
    if from_root && path.is_empty() {
        return Ok(Word::Field(true, Vec::new()));
    }
    if let Some(path) = path.strip_prefix('.') {
        let names: Vec<_> =
            path.split('.').filter(|_| !path.is_empty()).map(str::to_owned).collect();
        let legal = |name: &String| {
            !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
        };
        if !names.iter().all(legal) {
            bail!("bad field {text:?}");
        }
        return Ok(Word::Field(from_root, names));
    }
    if let Ok(number) = text.parse() {
        return Ok(Word::Number(number));
    }
    let legal = |letter: char| letter.is_alphanumeric() || letter == '_';
    if from_root || !text.chars().all(legal) {
        bail!("unexpected {text:?}");
    }
    Ok(Word::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_text_and_actions() {
        let field = |name: &str| Word::Field(false, vec![name.to_owned()]);
        let text = |text: &str| Piece::Text(text.to_owned());
        for (template, expected) in [
            ("a{{.B}}c", vec![text("a"), Piece::Action(vec![field("B")]), text("c")]),
            ("a {{- .B -}} c", vec![text("a"), Piece::Action(vec![field("B")]), text("c")]),
            ("{{\"}}\"}}", vec![Piece::Action(vec![Word::Text("}}".to_owned())])]),
            ("{{/* no */}}", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(pieces(template).unwrap(), expected, "{template}");
        }
        for template in ["{{", "{{.A", "{{\"a}}", "{{.A..B}}", "{{a-b}}", "{{$x}}"] {
            assert!(pieces(template).is_err(), "{template}");
        }
    }
}
