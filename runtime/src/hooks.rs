//! Hooks: programs that a config wants run at points of the container's life.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use oci_spec::runtime::Hook;

use crate::sys::process::pidfd_open;

/// How much of a hook's complaints is kept, in bytes: its first line is shown.
const KEPT: usize = 4096;

/// The hooks of one kind, and what they are run with.
#[derive(Debug)]
pub struct Occasion<'a> {
    /// Their kind, as the configuration calls it.
    pub kind: &'static str,
    /// The container's state, which they find on standard input and need not read.
    pub state: &'a [u8],
    /// Where they run: the bundle, as with runc; `/` where that is gone.
    pub directory: &'a Path,
    /// The environment of hooks that name none, `NAME=value`; `None` is that of the runtime.
    pub environment: Option<&'a [CString]>,
    /// Where their output goes.
    pub streams: &'a Streams,
}

impl Occasion<'_> {
    /// Runs `hooks`, one after the other, in the caller's namespaces.
    ///
    /// Each gets exactly its own arguments, and its own environment if it names one, even an empty
    /// one. It begins with no signal blocked, and needs no `/proc`.
    ///
    /// # Errors
    ///
    /// The first hook that cannot be run, fails, or takes longer than its timeout (it is killed
    /// then): kind, index, path, how it ended and the first line of its complaints. The hooks after
    /// it are not run.
    ///
    /// Source: runtime-spec `config.md`, "POSIX-platform Hooks"; the words are runc's.
    pub fn run(&self, hooks: &[Hook]) -> Result<()> {
        hooks.iter().enumerate().try_for_each(|(at, hook)| {
            let (kind, path) = (self.kind, hook.path().display());
            self.run_one(hook).with_context(|| format!("error running {kind} hook #{at}: {path}"))
        })
    }

    /// Runs all of `hooks`, whether they fail or not; a failure is a warning.
    ///
    /// Source: runtime-spec `runtime.md`, "Lifecycle", 13.
    pub fn run_all(&self, hooks: &[Hook]) {
        for (at, hook) in hooks.iter().enumerate() {
            if let Err(error) = self.run_one(hook) {
                let (kind, path) = (self.kind, hook.path().display());
                log::warn!("{kind} hook failed with {error:#}: hook #{at}, {path}");
            }
        }
    }

    fn run_one(&self, hook: &Hook) -> Result<()> {
        ensure!(hook.path().is_absolute(), "want an absolute path");
        let limit = match hook.timeout() {
            None => None,
            Some(seconds) => {
                let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
                Some(Duration::from_secs(seconds.context("want a timeout above 0 seconds")?))
            }
        };
        let mut running = Running::start(self.command(hook)?, self.state)?;
        match running.until(limit.map(|limit| Instant::now() + limit))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{}{}", how(status), running.complaint()),
            None => {
                running.child.kill().and_then(|()| running.child.wait()).context("kill it")?;
                let seconds = limit.unwrap_or_default().as_secs();
                bail!("killed after its timeout of {seconds} s{}", running.complaint())
            }
        }
    }

    fn command(&self, hook: &Hook) -> Result<Command> {
        let mut command = Command::new(hook.path());
        if let Some((name, rest)) = hook.args().as_ref().and_then(|args| args.split_first()) {
            command.arg0(name).args(rest);
        }
        let directory = self.directory;
        command.current_dir(if directory.is_dir() { directory } else { Path::new("/") });
        let own = hook.env().as_ref().map(|env| env.iter().map(String::as_bytes).collect());
        let given = || self.environment.map(|env| env.iter().map(|pair| pair.to_bytes()).collect());
        if let Some(pairs) = own.or_else(given) {
            let pairs: Vec<&[u8]> = pairs;
            command.env_clear();
            for pair in pairs {
                let at = pair.iter().position(|byte| *byte == b'=').with_context(|| {
                    format!("environment {:?}: want NAME=VALUE", String::from_utf8_lossy(pair))
                })?;
                command.env(OsStr::from_bytes(&pair[..at]), OsStr::from_bytes(&pair[at + 1..]));
            }
        }
        command.stdin(Stdio::piped());
        command.stdout(stream(self.streams.output.as_ref())?.unwrap_or_else(Stdio::null));
        command.stderr(stream(self.streams.errors.as_ref())?.unwrap_or_else(Stdio::piped));
        Ok(command)
    }
}

/// A hook failed that runs when the container is started: its chain of causes.
///
/// The container is not to remain then (runtime-spec 1.3 `runtime.md`, "Lifecycle", 7 and 9).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HookFailed(pub String);

/// Files that take what hooks print; without them their output is thrown away, and the first line
/// of their complaints is part of the error.
#[derive(Debug, Default)]
pub struct Streams {
    output: Option<File>,
    errors: Option<File>,
}

impl Streams {
    /// The files that the annotations `run.oci.hooks.stdout` and `run.oci.hooks.stderr` name; they
    /// are made if they are not there, and appended to.
    ///
    /// # Errors
    ///
    /// A relative path, and those of `open(2)`.
    ///
    /// Source: crun(1), `run.oci.hooks.stdout=FILE`.
    pub fn open(annotations: &HashMap<String, String>) -> Result<Self> {
        let open = |name: &str| {
            let path = annotations.get(name).map(Path::new);
            path.map(|path| {
                ensure!(path.is_absolute(), "want an absolute path, not {}", path.display());
                let mut options = File::options();
                let file = options.append(true).create(true).mode(0o600).open(path);
                file.with_context(|| format!("open {}", path.display()))
            })
            .transpose()
            .with_context(|| format!("annotation {name}"))
        };
        Ok(Self { output: open("run.oci.hooks.stdout")?, errors: open("run.oci.hooks.stderr")? })
    }

    /// The descriptors of the files.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.output.iter().chain(&self.errors).map(AsFd::as_fd)
    }
}

fn stream(file: Option<&File>) -> Result<Option<Stdio>> {
    let copy = file.map(File::try_clone).transpose().context("hand it its output file")?;
    Ok(copy.map(Stdio::from))
}

/// How a program ended, in the words of Go and C.
fn how(status: ExitStatus) -> String {
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    match (status.code(), signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(Signal::SIGSYS)) => "signal SIGSYS: bad system call".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
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
    fn start(mut command: Command, state_json: &'a [u8]) -> Result<Self> {
        let mut child = spawn_unblocked(&mut command).context("run it")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let pidfd = pidfd_open(pid).context("watch it")?;
        let (input, errors) = (child.stdin.take(), child.stderr.take());
        let pipes = [input.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)];
        for pipe in pipes.into_iter().flatten() {
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
    use crate::sys::filter::tests::in_child;

    fn run_here(hooks: &[Hook], kind: &'static str, state: &[u8]) -> Result<()> {
        occasion(kind, state, &Streams::default()).run(hooks)
    }

    fn occasion<'a>(kind: &'static str, state: &'a [u8], streams: &'a Streams) -> Occasion<'a> {
        Occasion { kind, state, directory: Path::new("."), environment: None, streams }
    }

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
        assert_eq!(error, "error running poststop hook #0: /bin/sh: exit code 3: first");
        let error = failure("kill -9 $$", "");
        assert_eq!(error, "error running poststop hook #0: /bin/sh: signal SIGKILL");
        let after = hooks(&[("exit 0", ""), ("exit 1", ""), ("touch /tmp/rrun-never", "")]);
        let error = format!("{:#}", run_here(&after, "prestart", b"").unwrap_err());
        assert_eq!(error, "error running prestart hook #1: /bin/sh: exit code 1");
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
            one("/no/such/hook")
                .starts_with("error running poststart hook #0: /no/such/hook: run it: No such")
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
        assert!(error.starts_with("error running poststop hook #0: /bin/sh: exit code 4: \0\0"));
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
        let streams = Streams::default();
        let run_in = |directory: &Path, script| {
            let occasion = Occasion { directory, ..occasion("poststop", b"{}", &streams) };
            occasion.run(&hooks(&[(script, "")])).unwrap();
        };
        run_in(bundle.path(), "echo > here");
        assert!(bundle.path().join("here").exists());
        run_in(&bundle.path().join("gone"), "test $PWD = /");
    }

    #[test]
    fn a_hook_without_an_environment_inherits_one() {
        let streams = Streams::default();
        let given = [c"GIVEN=1".to_owned(), c"PATH=/bin:/usr/bin".to_owned()];
        let run_with = |environment, script, fields| {
            let occasion = Occasion { environment, ..occasion("poststop", b"{}", &streams) };
            occasion.run(&hooks(&[(script, fields)]))
        };
        run_with(Some(&given[..]), "test $GIVEN = 1", "").unwrap();
        run_with(Some(&given), "test -z \"$GIVEN\"", r#", "env": []"#).unwrap();
        let cargo = "test -n \"$CARGO_MANIFEST_DIR\""; // cargo's, hence this process's
        run_with(None, cargo, "").unwrap();
        run_with(None, cargo, r#", "env": []"#).unwrap_err();
    }

    #[test]
    fn failures_do_not_keep_other_hooks_from_running() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("last");
        let last = format!("echo > {}", path.display());
        let all = hooks(&[("exit 1", ""), ("exit 2", ""), (&last, "")]);
        occasion("poststop", b"{}", &Streams::default()).run_all(&all);
        assert!(path.exists());
    }

    #[test]
    fn output_goes_where_annotations_say() {
        let directory = tempfile::tempdir().unwrap();
        let annotation = |name: &str, file: &str| {
            let path = directory.path().join(file).into_os_string().into_string().unwrap();
            (format!("run.oci.hooks.{name}"), path)
        };
        let annotations = HashMap::from([annotation("stdout", "out"), annotation("stderr", "err")]);
        for _ in 0..2 {
            let streams = Streams::open(&annotations).unwrap();
            let speak = hooks(&[("echo said; echo complained >&2", "")]);
            occasion("prestart", b"{}", &streams).run(&speak).unwrap();
        }
        let read = |name| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("out"), "said\nsaid\n");
        assert_eq!(read("err"), "complained\ncomplained\n");
        let relative = HashMap::from([("run.oci.hooks.stdout".to_owned(), "out".to_owned())]);
        let error = format!("{:#}", Streams::open(&relative).unwrap_err());
        assert_eq!(error, "annotation run.oci.hooks.stdout: want an absolute path, not out");
    }
}
