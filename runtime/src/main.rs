//! The command `rrun`: parse, run, print the error in one line, exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use rrun::cli::{Command, overlay};
use rrun::sys::process::forgo_backtraces_of_errors;
use rrun::sys::seal::seal_early;

/// The exit code for a command line that cannot be understood, as runc's.
const MISUSED: u8 = 1;

fn main() -> ExitCode {
    forgo_backtraces_of_errors();
    if overlay::is_fuse_overlayfs() {
        return outcome(overlay::run_as_fuse_overlayfs(), MISUSED);
    }
    seal_early();
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) if error.use_stderr() => {
            complain(&no_help_topic(&error).unwrap_or_else(|| misuse(&error.to_string())));
            return MISUSED.into();
        }
        Err(asked_for) => {
            let text = match asked_for.kind() {
                ErrorKind::DisplayHelp => with_name(&asked_for.to_string()),
                _ => asked_for.to_string(),
            };
            let _nobody_reads = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
    };
    let failure = command.failure();
    let result = command.start_log().and_then(|()| command.run());
    outcome(result, failure)
}

fn outcome(result: anyhow::Result<u8>, failure: u8) -> ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            let message = format!("{error:#}");
            log::error!("{message}");
            complain(&message);
            failure.into()
        }
    }
}

fn complain(message: &str) {
    let line = format!("rrun: error: {}\n", message.replace('\n', " "));
    let _nobody_reads = std::io::stderr().write_all(line.as_bytes());
}

/// What runc says to `rrun VERB --help` of a verb that is none.
fn no_help_topic(error: &clap::Error) -> Option<String> {
    let asks = std::env::args().skip(1).any(|argument| argument == "-h" || argument == "--help");
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(verb)) if asks => Some(format!("No help topic for '{verb}'")),
        _ => None,
    }
}

/// Puts the command's name before what it does, at the head of its help, as runc does.
fn with_name(help: &str) -> String {
    let usage = help.split_once("Usage: ").map_or("", |(_, usage)| usage);
    let is_name = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let name: Vec<_> = usage.split_whitespace().take_while(is_name).collect();
    format!("NAME:\n   {} - {help}", name.join(" "))
}

/// What is wrong with the command line, in one line.
fn misuse(text: &str) -> String {
    let cause: Vec<_> = text
        .trim_start_matches("error: ")
        .lines()
        .take_while(|line| !line.starts_with("Usage:"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    format!(
        "{} (see --help)",
        cause.join(" ").trim_end_matches(" For more information, try '--help'.")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_begins_with_the_name() {
        let help = "Do it\n\nUsage: rrun do-it [OPTIONS] <ID>\n";
        assert_eq!(with_name(help), format!("NAME:\n   rrun do-it - {help}"));
    }

    #[test]
    fn misuse_is_one_line() {
        let text = "error: unexpected argument '--x' found\n\n  tip: a similar argument exists: \
                    '--y'\n\nUsage: rrun create\n\nFor more information, try '--help'.\n";
        let line = "unexpected argument '--x' found tip: a similar argument exists: '--y' \
                    (see --help)";
        assert_eq!(misuse(text), line);
    }
}
