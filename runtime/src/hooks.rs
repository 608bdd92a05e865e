//! Hooks: programs that a config wants run at points of the container's life.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use oci_spec::runtime::Hook;

use crate::sys::process::pidfd_open;

/// How much of a hook's complaints is kept, in bytes: its first line is shown.
const KEPT: usize = 4096;

/// Runs the hooks of one kind, one after the other, in the caller's namespaces and in `directory`, the
/// bundle as with runc; where that is gone, in `/`.
///
/// Each gets exactly its own arguments and environment and the container's state on standard input,
/// which it need not read. Its output is thrown away. It begins with no signal blocked, and needs no
/// `/proc`.
///
/// # Errors
///
/// The first hook that cannot be run, fails, or takes longer than its timeout (it is killed then): kind,
/// index, path, how it ended and the first line of its complaints. The hooks after it are not run.
///
/// Source: runtime-spec `config.md`, "POSIX-platform Hooks".
pub fn run(hooks: &[Hook], kind: &str, state_json: &[u8], directory: &Path) -> Result<()> {
    let directory = if directory.is_dir() { directory } else { Path::new("/") };
    hooks.iter().enumerate().try_for_each(|(at, hook)| {
        let path = hook.path().display();
        run_one(hook, state_json, directory).with_context(|| format!("{kind} hook {at} ({path})"))
    })
}

fn run_one(hook: &Hook, state_json: &[u8], directory: &Path) -> Result<()> {
    ensure!(hook.path().is_absolute(), "want an absolute path");
    let limit = match hook.timeout() {
        None => None,
        Some(seconds) => {
            let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
            Some(Duration::from_secs(seconds.context("want a timeout above 0 seconds")?))
        }
    };
    let mut running = Running::start(hook, state_json, directory)?;
    match running.until(limit.map(|limit| Instant::now() + limit))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{status}{}", running.complaint()),
        None => {
            running.child.kill().and_then(|()| running.child.wait()).context("kill it")?;
            let seconds = limit.unwrap_or_default().as_secs();
            bail!("killed after its timeout of {seconds} s{}", running.complaint())
        }
    }
}

/// A hook that has not ended.
struct Running<'a> {
    child: Child,
    pidfd: OwnedFd,
    /// What is left of the state, and where it goes, until it is all written or not wanted.
    unread: &'a [u8],
    input: Option<ChildStdin>,
    /// Open until the hook closes it, which a process that it left behind may never do.
    errors: Option<ChildStderr>,
    said: Vec<u8>,
}

impl<'a> Running<'a> {
    fn start(hook: &Hook, state_json: &'a [u8], directory: &Path) -> Result<Self> {
        let mut command = Command::new(hook.path());
        if let Some((name, rest)) = hook.args().as_ref().and_then(|args| args.split_first()) {
            command.arg0(name).args(rest);
        }
        command.env_clear().current_dir(directory);
        for pair in hook.env().iter().flatten() {
            let (name, value) = pair
                .split_once('=')
                .with_context(|| format!("environment {pair:?}: want NAME=VALUE"))?;
            command.env(name, value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn_unblocked(&mut command).context("run it")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let pidfd = pidfd_open(pid).context("watch it")?;
        let (input, errors) = (child.stdin.take(), child.stderr.take());
        for pipe in [input.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)] {
            let pipe = pipe.context("no pipe")?;
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("set up its pipes")?;
        }
        Ok(Self { child, pidfd, unread: state_json, input, errors, said: Vec::new() })
    }

    /// Feeds and listens until the hook has ended, and says how; none if the deadline comes first.
    fn until(&mut self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        loop {
            let ended = self.wait(deadline)?;
            self.feed()?;
            self.listen();
            if ended {
                return self.child.wait().map(Some).context("wait for it");
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// Waits until something can be done; says whether the hook has ended.
    fn wait(&self, deadline: Option<Instant>) -> Result<bool> {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up, so as not to wake up early and go round for nothing.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut waiting = vec![PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let input = self.input.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
        let errors = self.errors.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        waiting.extend(input.into_iter().chain(errors));
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for it"),
        }
        Ok(waiting[0].any().unwrap_or_default())
    }

    fn feed(&mut self) -> Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        match input.write(self.unread) {
            Ok(written) => self.unread = &self.unread[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // It does not want to know.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.unread = &[],
            Err(error) => return Err(error).context("tell it the state"),
        }
        if self.unread.is_empty() {
            self.input = None;
        }
        Ok(())
    }

    fn listen(&mut self) {
        let Some(errors) = &mut self.errors else { return };
        let mut chunk = [0; KEPT];
        loop {
            match errors.read(&mut chunk) {
                Ok(length) if length > 0 => {
                    let room = KEPT - self.said.len();
                    self.said.extend(&chunk[..length.min(room)]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.errors = None;
                    return;
                }
            }
        }
    }

    fn complaint(&self) -> String {
        let said = String::from_utf8_lossy(&self.said);
        said.lines().next().map(|line| format!(": {}", line.trim_end())).unwrap_or_default()
    }
}

/// Runs `command`. A child inherits the signals that its parent blocks, and this must be one that can be
/// stopped.
///
/// # Errors
///
/// Those of running a program.
pub fn spawn_unblocked(command: &mut Command) -> std::io::Result<Child> {
    let before = SigSet::thread_get_mask()?;
    SigSet::empty().thread_set_mask()?;
    let child = command.spawn();
    before.thread_set_mask()?;
    child
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_here(hooks: &[Hook], kind: &str, state: &[u8]) -> Result<()> {
        run(hooks, kind, state, Path::new("."))
    }
    use crate::sys::filter::tests::in_child;

    /// Hooks that run a script by `sh -c`, with more fields.
    fn hooks(scripts: &[(&str, &str)]) -> Vec<Hook> {
        let hook = |(script, fields): &(&str, &str)| {
            let args = serde_json::to_string(&["sh", "-c", script]).unwrap();
            let json = format!(r#"{{"path": "/bin/sh", "args": {args}{fields}}}"#);
            serde_json::from_str(&json).unwrap()
        };
        scripts.iter().map(hook).collect()
    }

    fn failure(script: &str, fields: &str) -> String {
        format!("{:#}", run_here(&hooks(&[(script, fields)]), "poststop", b"{}").unwrap_err())
    }

    #[test]
    fn a_hook_gets_the_state_its_environment_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let script =
            format!("cat > {path}/state; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= > {path}/env");
        let more = r#", "env": ["A=1", "PATH=/bin:/usr/bin", "B=x=y"]"#;
        let state = format!(r#"{{"id": "{}"}}"#, "x".repeat(200_000)); // more than a pipe holds
        let touch = format!("test -s {path}/env && : > {path}/second");
        let all = hooks(&[(&script, more), (&touch, r#", "env": ["PATH=/bin:/usr/bin"]"#)]);
        run_here(&all, "createRuntime", state.as_bytes()).unwrap();
        let read = |name| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("state"), state);
        let mut environment = read("env").lines().map(str::to_owned).collect::<Vec<_>>();
        environment.sort();
        assert_eq!(environment, ["A=1", "B=x=y", "PATH=/bin:/usr/bin"]);
        assert_eq!(read("second"), "");
    }

    #[test]
    fn a_failure_names_the_hook_and_its_first_complaint() {
        let error = failure("echo first >&2; echo second >&2; exit 3", "");
        assert_eq!(error, "poststop hook 0 (/bin/sh): exit status: 3: first");
        let error = failure("kill -9 $$", "");
        assert_eq!(error, "poststop hook 0 (/bin/sh): signal: 9 (SIGKILL)");
        let after = hooks(&[("exit 0", ""), ("exit 1", ""), ("touch /tmp/rrun-never", "")]);
        let error = format!("{:#}", run_here(&after, "prestart", b"").unwrap_err());
        assert_eq!(error, "prestart hook 1 (/bin/sh): exit status: 1");
        assert!(!Path::new("/tmp/rrun-never").exists());
    }

    #[test]
    fn a_slow_hook_is_killed() {
        let started = Instant::now();
        let error = failure("echo slow >&2; exec sleep 100", r#", "timeout": 1"#);
        assert!(error.ends_with("killed after its timeout of 1 s: slow"), "{error}");
        assert!((1..20).contains(&started.elapsed().as_secs()));
        run_here(&hooks(&[("sleep 0.1", r#", "timeout": 60"#)]), "prestart", b"").unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(failure("", r#", "timeout": 0"#).contains("timeout above 0"));
        assert!(failure("", r#", "env": ["A"]"#).contains(r#"environment "A": want NAME=VALUE"#));
        assert!(failure("", r#", "timeout": -5"#).contains("timeout above 0"));
        let one = |path: &str| {
            let json = format!(r#"{{"path": "{path}"}}"#);
            let hooks: Vec<Hook> = vec![serde_json::from_str(&json).unwrap()];
            format!("{:#}", run_here(&hooks, "poststart", b"{}").unwrap_err())
        };
        assert!(one("bin/sh").contains("want an absolute path"));
        assert!(
            one("/no/such/hook").starts_with("poststart hook 0 (/no/such/hook): run it: No such")
        );
    }

    #[test]
    fn a_process_left_behind_does_not_hold_us_up() {
        let started = Instant::now();
        run_here(&hooks(&[("sleep 5 & exit 0", "")]), "poststart", b"{}").unwrap();
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_chatty_hook_that_reads_nothing_ends() {
        let error = failure("head -c 1000000 /dev/zero >&2; exec <&-; sleep 0.1; exit 4", "");
        assert!(error.starts_with("poststop hook 0 (/bin/sh): exit status: 4: \0\0"));
    }

    #[test]
    fn hooks_run_with_no_signal_blocked() {
        in_child(|| {
            SigSet::all().thread_block().unwrap();
            run_here(&hooks(&[("kill -TERM $$; exit 0", "")]), "prestart", b"").unwrap_err();
            assert!(SigSet::thread_get_mask().unwrap().contains(nix::sys::signal::SIGTERM));
        });
    }

    #[test]
    fn a_hook_runs_in_the_bundle() {
        let bundle = tempfile::tempdir().unwrap();
        let touch = hooks(&[("echo > here", "")]);
        run(&touch, "poststop", b"{}", bundle.path()).unwrap();
        assert!(bundle.path().join("here").exists());
        run(&hooks(&[("test $PWD = /", "")]), "poststop", b"{}", &bundle.path().join("gone"))
            .unwrap();
    }
}
