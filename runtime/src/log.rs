//! What the command says besides its output: to the caller's log file, as text or as JSON in the
//! form that engines parse, and warnings to standard error.
//!
//! With `--debug` the steps have runc's names (`nsexec container setup` and so on): who reads such logs
//! looks for them.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;
use log::{Level, LevelFilter, Metadata, Record};

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `time="…" level=error msg="…"`.
    #[default]
    Text,
    /// One object a line, with the keys `level`, `msg` and `time`.
    Json,
}

struct Logger {
    file: Option<File>,
    format: Format,
    level: LevelFilter,
}

/// Sends everything that is logged from now on to `file`, or to standard error without one.
///
/// # Errors
///
/// If the file cannot be opened for appending.
pub fn start(file: Option<&Path>, format: Format, debug: bool) -> anyhow::Result<()> {
    let level = if debug { LevelFilter::Debug } else { LevelFilter::Warn };
    let file = file.map(open).transpose()?;
    log::set_boxed_logger(Box::new(Logger { file, format, level }))?;
    log::set_max_level(level);
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("open log file {}", path.display()))
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        if let Some(mut file) = self.file.as_ref() {
            let _log_is_gone =
                file.write_all(line(self.format, record.level(), &message).as_bytes());
            return;
        }
        let text = match record.level() {
            // It is printed once, in the end.
            Level::Error => return,
            Level::Warn | Level::Info => format!("rrun: {}: {message}\n", name(record.level())),
            level => line(self.format, level, &message),
        };
        let _nobody_listens = std::io::stderr().write_all(text.as_bytes());
    }

    fn flush(&self) {}
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

fn line(format: Format, level: Level, message: &str) -> String {
    let time = Timestamp::now();
    let level = name(level);
    let mut text = match format {
        Format::Json => {
            serde_json::json!({ "level": level, "msg": message, "time": time.to_string() })
                .to_string()
        }
        Format::Text => {
            let mut text = String::new();
            let _infallible = write!(text, "time=\"{time}\" level={level} msg={message:?}");
            text
        }
    };
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_keys_that_engines_read() {
        let text = line(Format::Json, Level::Error, "exec \"x\":\nno such file");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "exec \"x\":\nno such file");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(text.matches('\n').count(), 1, "one line, whatever the message");
    }
}
