//! The container's terminal.
//!
//! ```text
//! caller's terminal <──> Relay <──> master ═══ pty ═══ peer <──> the container's program
//!                                     └── or handed to an engine through its console socket
//! ```
//! The pseudoterminal comes out of the container's own devpts, so that its name means something inside;
//! it is opened by descriptors alone, since the names in there may be anybody's.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statfs::fstatfs;
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, read, setsid, write};

use crate::sys::terminal::{self, Size};

/// `DEVPTS_SUPER_MAGIC`
const DEVPTS: u64 = 0x1cd1;

/// The device number of every `ptmx`.
const PTMX: (u64, u64) = (5, 2);

/// The longest path that a socket address holds, with its NUL.
const SOCKET_PATH: usize = 108;

/// How much is moved at a time. A pipe or terminal that is ready takes as much without blocking
/// (`PIPE_BUF`), so the caller's descriptors, which others share, need not be made non-blocking.
const CHUNK: usize = 4096;

/// The most output that is still passed on when the program has ended, in bytes: more than a terminal
/// holds, but not for ever if a process that was left behind goes on writing.
const TAIL: usize = 1 << 20;

/// A pseudoterminal.
#[derive(Debug)]
pub struct Pty {
    /// The side of whoever plays the terminal.
    pub master: OwnedFd,
    /// The side of the program.
    pub peer: OwnedFd,
}

/// Opens a new pseudoterminal of the devpts mounted at `devpts`.
///
/// The peer belongs to the caller's user until fchown(2) gives it to another.
///
/// # Errors
///
/// A directory that is not devpts, or a `ptmx` in it that is not one; `ENOSPC` for too many.
pub fn open_pty(devpts: impl AsFd) -> Result<Pty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = openat(&devpts, "ptmx", flags, Mode::empty()).context("open devpts' ptmx")?;
    let kind = u64::try_from(fstatfs(&master).context("inspect ptmx")?.filesystem_type().0)?;
    let device = fstat(&master).context("inspect ptmx")?.st_rdev;
    let genuine = kind == DEVPTS && (major(device), minor(device)) == PTMX;
    ensure!(genuine, "ptmx is not that of a devpts file system (cure: mount devpts on /dev/pts)");
    terminal::unlock(&master).context("unlock the terminal")?;
    let peer = terminal::open_peer(&master).context("open the terminal's other side")?;
    Ok(Pty { master, peer })
}

impl Pty {
    /// The peer's path inside the container.
    ///
    /// # Errors
    ///
    /// None for a master that [`open_pty`] made.
    pub fn path(&self) -> Result<String> {
        Ok(format!("/dev/pts/{}", terminal::number(&self.master).context("number the terminal")?))
    }

    /// Sets rows and columns.
    ///
    /// # Errors
    ///
    /// None for a master that [`open_pty`] made.
    pub fn set_size(&self, rows: u16, columns: u16) -> Result<()> {
        terminal::set_size(&self.master, Size { rows, columns }).context("size the terminal")
    }
}

/// Makes `peer` the terminal of the calling process: it leads a new session that the terminal controls,
/// and has it as standard input, output and error.
///
/// # Errors
///
/// `EPERM` if the caller leads a process group already.
pub fn become_terminal(peer: &OwnedFd) -> Result<()> {
    setsid().context("begin a new session")?;
    terminal::set_controlling(peer).context("take the terminal as the controlling one")?;
    let dup = dup2_stdin(peer).and_then(|()| dup2_stdout(peer)).and_then(|()| dup2_stderr(peer));
    dup.context("put the terminal on standard input, output and error")
}

/// Connects to an engine's console socket, a path of any length.
///
/// # Errors
///
/// `ENOENT`, `ECONNREFUSED` and what else connect(2) gives.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let connected = if path.as_os_str().len() < SOCKET_PATH {
        UnixStream::connect(path)
    } else {
        connect_through_directory(path)
    };
    connected.with_context(|| format!("connect to the console socket {}", path.display()))
}

fn connect_through_directory(path: &Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::ENAMETOOLONG.into());
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short)
}

/// Hands `master` to the engine at the other end of `socket`. The message is the terminal's path, as
/// engines expect some text beside the descriptor.
///
/// # Errors
///
/// `EPIPE` if the engine has gone.
pub fn send_master(socket: impl AsFd, path: &str, master: impl AsFd) -> Result<()> {
    let descriptors = [master.as_fd().as_raw_fd()];
    let sent = sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(path.as_bytes())],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    let sent = sent.context("send the terminal to the console socket")?;
    ensure!(sent == path.len(), "send the terminal to the console socket: only a part was sent");
    Ok(())
}

/// The caller's terminal, raw: every key goes to the container. Dropping it restores the terminal.
#[derive(Debug)]
#[must_use = "dropping it restores the terminal"]
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Makes `terminal` raw; none if it is no terminal.
    ///
    /// Output is still processed, as in runc, so that line ends look right whatever the container's
    /// terminal does with them.
    ///
    /// # Errors
    ///
    /// `EIO` if it has hung up.
    pub fn enter(terminal: impl AsFd) -> Result<Option<Self>> {
        let before = match tcgetattr(&terminal) {
            Err(Errno::ENOTTY | Errno::EBADF) => return Ok(None),
            before => before.context("read the terminal's settings")?,
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        raw.output_flags |= OutputFlags::OPOST;
        tcsetattr(&terminal, SetArg::TCSANOW, &raw).context("make the terminal raw")?;
        let terminal = terminal.as_fd().try_clone_to_owned().context("keep the terminal")?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may have hung up; there is nothing to restore then.
        let _best_effort = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// One direction: what was read and not yet written.
#[derive(Debug, Default)]
struct Stream {
    pending: VecDeque<u8>,
    /// Nothing more will be read.
    source_ended: bool,
    /// Nothing more can be written; what is read is thrown away.
    sink_ended: bool,
}

impl Stream {
    fn wants_input(&self) -> bool {
        !self.source_ended && self.pending.is_empty()
    }

    fn wants_output(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Reads once.
    fn fill(&mut self, source: BorrowedFd<'_>) -> Result<usize> {
        let mut chunk = [0; CHUNK];
        match read(source, &mut chunk) {
            // A master whose peers are all closed says EIO.
            Ok(0) | Err(Errno::EIO | Errno::EBADF) => self.source_ended = true,
            Ok(length) if self.sink_ended => return Ok(length),
            Ok(length) => {
                self.pending.extend(&chunk[..length]);
                return Ok(length);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("read from a terminal"),
        }
        Ok(0)
    }

    /// Writes once, perhaps a part.
    fn flush(&mut self, sink: BorrowedFd<'_>) -> Result<()> {
        match write(sink, self.pending.as_slices().0) {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::EIO | Errno::EBADF) => {
                self.sink_ended = true;
                self.pending.clear();
            }
            Err(errno) => return Err(errno).context("write to a terminal"),
        }
        Ok(())
    }
}

/// Passes bytes between the caller's standard input and output and a master.
#[derive(Debug)]
pub struct Relay<'a> {
    input: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    master: OwnedFd,
    typed: Stream,
    shown: Stream,
}

impl<'a> Relay<'a> {
    /// A relay that has not moved anything yet. The master becomes non-blocking, takes the size of
    /// `input` where that is a terminal, and stops turning line ends into two characters, which the
    /// caller's own terminal does (see [`RawTerminal::enter`]).
    ///
    /// # Errors
    ///
    /// `ENOTTY` if `master` is none.
    pub fn new(input: BorrowedFd<'a>, output: BorrowedFd<'a>, master: OwnedFd) -> Result<Self> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("set up the terminal")?;
        let mut settings = tcgetattr(&master).context("read the terminal's settings")?;
        settings.output_flags &= !OutputFlags::ONLCR;
        tcsetattr(&master, SetArg::TCSANOW, &settings).context("set up the terminal")?;
        let relay =
            Self { input, output, master, typed: Stream::default(), shown: Stream::default() };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of the caller's, if that is one.
    pub fn resize(&self) {
        if let Ok(size) = terminal::size(self.input) {
            // A master that is gone has no size to keep.
            let _best_effort = terminal::set_size(&self.master, size);
        }
    }

    /// What to wait for now: input, master, output. No event at all means not to wait for it, which
    /// matters since a descriptor that hung up is always ready.
    fn interest(&self) -> [PollFlags; 3] {
        let when = |wanted: bool, flag| if wanted { flag } else { PollFlags::empty() };
        let reads = when(self.shown.wants_input(), PollFlags::POLLIN);
        let writes = when(self.typed.wants_output(), PollFlags::POLLOUT);
        [
            when(self.typed.wants_input(), PollFlags::POLLIN),
            reads | writes,
            when(self.shown.wants_output(), PollFlags::POLLOUT),
        ]
    }

    fn handle(&mut self, ready: [PollFlags; 3]) -> Result<()> {
        let [input, master, output] = ready;
        // Hang-ups and errors show in the read or write that follows.
        let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if output.intersects(PollFlags::POLLOUT | over) {
            self.shown.flush(self.output)?;
        }
        if master.intersects(PollFlags::POLLIN | over) && self.shown.wants_input() {
            self.shown.fill(self.master.as_fd())?;
        }
        if master.intersects(PollFlags::POLLOUT | over) && self.typed.wants_output() {
            self.typed.flush(self.master.as_fd())?;
        }
        if input.intersects(PollFlags::POLLIN | over) {
            self.typed.fill(self.input)?;
        }
        Ok(())
    }

    /// Passes on what the program has written before it ended. The kernel hands out all of that before
    /// it says that there is nothing more.
    fn finish(&mut self) -> Result<()> {
        let mut passed = 0;
        loop {
            while self.shown.wants_output() {
                self.shown.flush(self.output)?;
            }
            if self.shown.source_ended || passed > TAIL {
                return Ok(());
            }
            match self.shown.fill(self.master.as_fd())? {
                0 => return Ok(()),
                length => passed += length,
            }
        }
    }
}

/// The signals that a foreground command waits for: all that it can pass on, and `SIGCHLD`.
///
/// To be blocked before the child is made, so that none is missed. Faults of our own are not among them,
/// nor is `SIGPROF`, which is nobody's business.
#[must_use]
pub fn awaited_signals() -> SigSet {
    let mut signals = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGSYS,
        Signal::SIGPROF,
    ] {
        signals.remove(fault);
    }
    signals
}

/// Stays with the child `pid` until it has ended, and says how.
///
/// `signals` is a signalfd of [`awaited_signals`]: `SIGWINCH` resizes the terminal, `SIGCHLD` reaps
/// (every child that has ended: orphans come to a subreaper), `SIGURG` and `SIGPIPE` are dropped, and all
/// others go to the child. With a relay, bytes are passed on meanwhile, and after the end what is left of
/// the output.
///
/// # Errors
///
/// A terminal that fails in other ways than by hanging up.
pub fn accompany(
    pid: Pid,
    signals: &SignalFd,
    mut relay: Option<&mut Relay<'_>>,
) -> Result<WaitStatus> {
    loop {
        if let Some(ended) = reap(pid)? {
            relay.map_or(Ok(()), |relay| relay.finish())?;
            return Ok(ended);
        }
        let mut waiting = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let wanted = relay.as_ref().map_or([PollFlags::empty(); 3], |relay| relay.interest());
        if let Some(relay) = relay.as_deref() {
            let all = [relay.input, relay.master.as_fd(), relay.output];
            let awaited = all.into_iter().zip(wanted).filter(|(_fd, flags)| !flags.is_empty());
            waiting.extend(awaited.map(|(fd, flags)| PollFd::new(fd, flags)));
        }
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for the container"),
        }
        let mut ready = waiting.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let signalled = ready.next().is_some_and(|flags| !flags.is_empty());
        let ready = wanted.map(|flags| {
            if flags.is_empty() { flags } else { ready.next().unwrap_or(PollFlags::empty()) }
        });
        if let Some(relay) = relay.as_deref_mut() {
            relay.handle(ready)?;
        }
        if signalled {
            pass_on(pid, signals, relay.as_deref())?;
        }
    }
}

/// Reaps whoever has ended; says how `pid` did.
fn reap(pid: Pid) -> Result<Option<WaitStatus>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(ended) if ended.pid() == Some(pid) => return Ok(Some(ended)),
            Ok(_another) => {}
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => bail!("wait for the container: process {pid} is not our child"),
            Err(errno) => return Err(errno).context("wait for the container"),
        }
    }
}

fn pass_on(pid: Pid, signals: &SignalFd, relay: Option<&Relay<'_>>) -> Result<()> {
    let Some(info) = signals.read_signal().context("read a signal")? else { return Ok(()) };
    let number = i32::try_from(info.ssi_signo)?;
    match (Signal::try_from(number), relay) {
        (Ok(Signal::SIGCHLD | Signal::SIGURG | Signal::SIGPIPE), _) => {}
        (Ok(Signal::SIGWINCH), Some(relay)) => relay.resize(),
        (Ok(signal), _) => match kill(pid, signal) {
            // Nobody else reaps the child, so the number is still its own.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).with_context(|| format!("pass on {signal}")),
        },
        (Err(_real_time), _) => log::debug!("signal {number} is not passed on"),
    }
    Ok(())
}
