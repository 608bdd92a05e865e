//! What a command that has ended left: exit code, output, complaints.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Exit code and output of one command.
///
/// The output goes to files: a container keeps the streams of `create` open, so that reading a
/// pipe to its end would wait for the container.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) command: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    output: File,
}

/// A command that runs.
pub(crate) struct Running {
    command: String,
    pub(crate) child: Child,
    output: File,
    errors: File,
}

/// Starts `command` with its output going to files.
pub(crate) fn spawn(command: &mut Command) -> Running {
    let (output, errors) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(output.try_clone().unwrap()).stderr(errors.try_clone().unwrap());
    let shown = format!("{command:?}");
    let child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    Running { command: shown, child, output, errors }
}

impl Running {
    /// What it has written so far.
    pub(crate) fn stdout_so_far(&self) -> String {
        content(&self.output)
    }

    /// Waits for its end. A command that hangs is killed and fails the test.
    pub(crate) fn wait(mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                self.child.kill().unwrap();
                let stderr = content(&self.errors);
                panic!("hangs: {}\nits complaints: {stderr}", self.command);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Outcome {
            code: code(status),
            stdout: content(&self.output),
            stderr: content(&self.errors),
            command: self.command,
            output: self.output,
        }
    }
}

impl Outcome {
    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    /// Fails the test unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {self}");
        self
    }

    /// Fails the test unless the command failed with one line of complaint that has all `parts`.
    #[track_caller]
    pub(crate) fn complains_of(self, parts: &[&str]) -> Self {
        assert_ne!(self.code, 0, "should have failed: {self}");
        let line = self.stderr.strip_suffix('\n').unwrap_or(&self.stderr);
        assert!(!line.is_empty() && !line.contains('\n'), "wants one line of complaint: {self}");
        for part in parts {
            assert!(line.contains(part), "wants {part:?} in the complaint: {self}");
        }
        self
    }

    /// The output without the newline at its end.
    pub(crate) fn line(&self) -> &str {
        self.stdout.trim_end_matches('\n')
    }

    /// The output as it is now, with what a container that outlives the command has added.
    pub(crate) fn stdout_now(&self) -> String {
        content(&self.output)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr, .. } = self;
        write!(formatter, "{command}\nexit code {code}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// The exit code as a shell has it: 128 + N for signal N.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// The whole file, whose offset the writer shares: so by a handle of its own.
fn content(file: &File) -> String {
    use std::os::fd::AsRawFd;
    let mut own = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let mut bytes = Vec::new();
    own.rewind().unwrap();
    own.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
