//! Changes of a configuration, in the words of a Dockerfile (`--change`).

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// Carries out one instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or
/// WORKDIR. `config` is what the image's configuration has under that name.
///
/// # Errors
///
/// If it is none of these, or lacks its arguments.
pub fn apply(config: &mut Map<String, Value>, instruction: &str) -> Result<()> {
    let instruction = instruction.trim();
    let (name, rest) = instruction
        .split_once(|letter: char| letter.is_ascii_whitespace() || letter == '=')
        .with_context(|| format!("change {instruction:?}: it lacks an argument"))?;
    let rest = rest.trim();
    ensure!(!rest.is_empty(), "change {instruction:?}: it lacks an argument");
    change(config, &name.to_uppercase(), rest).with_context(|| format!("change {instruction:?}"))
}

fn change(config: &mut Map<String, Value>, name: &str, rest: &str) -> Result<()> {
    match name {
        "CMD" => drop(config.insert("Cmd".to_owned(), command(rest))),
        "ENTRYPOINT" => drop(config.insert("Entrypoint".to_owned(), command(rest))),
        "USER" => drop(config.insert("User".to_owned(), json!(rest))),
        "WORKDIR" => {
            ensure!(rest.starts_with('/'), "want an absolute path");
            config.insert("WorkingDir".to_owned(), json!(rest));
        }
        "STOPSIGNAL" => drop(config.insert("StopSignal".to_owned(), json!(rest))),
        "ONBUILD" => in_list(config, "OnBuild", |all| all.push(json!(rest))),
        "ENV" => pairs(rest)?.iter().for_each(|(key, value)| set_variable(config, key, value)),
        "LABEL" => {
            for (key, value) in pairs(rest)? {
                put(config, "Labels", key, json!(value));
            }
        }
        "EXPOSE" => {
            for port in rest.split_ascii_whitespace() {
                put(config, "ExposedPorts", full_port(port)?, json!({}));
            }
        }
        "VOLUME" => {
            let listed: Option<Vec<String>> = serde_json::from_str(rest).ok();
            let words = || rest.split_ascii_whitespace().map(str::to_owned).collect();
            for path in listed.unwrap_or_else(words) {
                put(config, "Volumes", path, json!({}));
            }
        }
        _ => bail!("{name} changes no configuration"),
    }
    Ok(())
}

fn set_variable(config: &mut Map<String, Value>, key: &str, value: &str) {
    let start = format!("{key}=");
    let same = |old: &Value| old.as_str().is_some_and(|old| old.starts_with(&start));
    in_list(config, "Env", |all| {
        all.retain(|old| !same(old));
        all.push(json!(format!("{start}{value}")));
    });
}

/// A port with its protocol.
fn full_port(port: &str) -> Result<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let known = matches!(protocol, "tcp" | "udp" | "sctp");
    ensure!(known && number.parse::<u16>().is_ok(), "{port:?} is no port");
    Ok(format!("{number}/{protocol}"))
}

/// The exec form is a list in JSON, anything else goes to a shell.
fn command(text: &str) -> Value {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => json!(words),
        Err(_) => json!(["/bin/sh", "-c", text]),
    }
}

/// Changes the list that `config` has under `name`.
fn in_list(config: &mut Map<String, Value>, name: &str, change: impl FnOnce(&mut Vec<Value>)) {
    let mut list = match config.remove(name) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    change(&mut list);
    config.insert(name.to_owned(), Value::Array(list));
}

/// Puts something into the object that `config` has under `name`.
fn put(config: &mut Map<String, Value>, name: &str, key: String, value: Value) {
    let mut object = match config.remove(name) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    object.insert(key, value);
    config.insert(name.to_owned(), Value::Object(object));
}

/// `KEY=VALUE …` with quotes and backslashes, or the old form `KEY VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let words = words(text)?;
    if words.first().is_some_and(|first| !first.contains('=')) {
        let (key, value) = text.split_once(char::is_whitespace).context("it lacks a value")?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| {
        let (key, value) =
            word.split_once('=').with_context(|| format!("{word:?} lacks a value"))?;
        ensure!(!key.is_empty(), "{word:?} lacks a name");
        Ok((key.to_owned(), value.to_owned()))
    };
    words.iter().map(pair).collect()
}

fn words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None | Some('"'), '\\') => word.extend(letters.next()),
            (Some(open), letter) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, letter) if letter.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
                continue;
            }
            (_, letter) => word.push(letter),
        }
        begun = true;
    }
    ensure!(quote.is_none(), "a quote is not closed");
    if begun {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_what_they_name() {
        let mut config = Map::new();
        for instruction in [
            "CMD [\"a\", \"b c\"]",
            "entrypoint run this",
            "ENV A=1 B=\"two words\" C=x\\ y",
            "ENV A=2",
            "ENV OLD form of it",
            "LABEL k=v 'q r'=s",
            "EXPOSE 80 53/udp",
            "VOLUME [\"/a b\"]",
            "VOLUME /c /d",
            "USER ada:adas",
            "WORKDIR /w",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN x",
        ] {
            apply(&mut config, instruction).unwrap();
        }
        let expected = json!({
            "Cmd": ["a", "b c"], "Entrypoint": ["/bin/sh", "-c", "run this"],
            "Env": ["B=two words", "C=x y", "A=2", "OLD=form of it"],
            "Labels": {"k": "v", "q r": "s"}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/a b": {}, "/c": {}, "/d": {}}, "User": "ada:adas", "WorkingDir": "/w",
            "StopSignal": "SIGINT", "OnBuild": ["RUN x"],
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn what_changes_nothing_is_refused() {
        for instruction in [
            "RUN x",
            "CMD",
            "",
            "ENV",
            "ENV A",
            "EXPOSE x",
            "EXPOSE 1/y",
            "WORKDIR w",
            "ENV A='",
            "LABEL =1",
        ] {
            assert!(apply(&mut Map::new(), instruction).is_err(), "{instruction}");
        }
    }
}
