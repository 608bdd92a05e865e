//! Bytes between the caller's terminal and the container's.

use std::collections::VecDeque;
use std::io::{stdin, stdout};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::termios::{
    LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr,
    tcsetattr,
};
use nix::unistd::{read, write};

use crate::sys::terminal;

/// How much is moved at a time. A pipe or terminal that is ready takes as much without blocking
/// (`PIPE_BUF`), so the caller's descriptors, which others share, need not be made non-blocking.
const CHUNK: usize = 4096;

/// The most output that is still passed on when the program has ended, in bytes: more than a terminal
/// holds, but not for ever if a process that was left behind goes on writing.
const TAIL: usize = 1 << 20;

/// Stops the terminal of `master` from turning each line end into two characters: the caller's own does
/// that, and a pipe should not get it. Engines that take the master decide for themselves.
///
/// To be called before the program starts, lest its first lines be treated otherwise.
///
/// # Errors
///
/// `ENOTTY` if `master` is none.
pub(super) fn keep_line_ends(master: &OwnedFd) -> Result<()> {
    let mut settings = tcgetattr(master).context("read the terminal's settings")?;
    settings.output_flags &= !OutputFlags::ONLCR;
    tcsetattr(master, SetArg::TCSANOW, &settings).context("set up the terminal")
}

/// Readies the terminal of `master` for a program in the foreground: it keeps line ends and has the
/// size of the caller's terminal, if there is one.
///
/// To be called before the program starts, which may ask for the size at once.
///
/// # Errors
///
/// `ENOTTY` if `master` is none.
pub fn suit_caller(master: &OwnedFd) -> Result<()> {
    keep_line_ends(master)?;
    take_size(master, stdin().as_fd(), stdout().as_fd());
    Ok(())
}

/// Gives the terminal of `master` the size of `input` or `output`, whichever is a terminal.
fn take_size(master: &OwnedFd, input: BorrowedFd<'_>, output: BorrowedFd<'_>) {
    if let Ok(size) = terminal::size(input).or_else(|_| terminal::size(output)) {
        // A master that is gone has no size to keep.
        let _best_effort = terminal::set_size(master, size);
    }
}

/// The caller's terminal, raw: every key goes to the container. Dropping it restores the terminal.
#[derive(Debug)]
#[must_use = "dropping it restores the terminal"]
pub(super) struct RawTerminal {
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
    pub(super) fn enter(terminal: BorrowedFd<'_>) -> Result<Option<Self>> {
        let before = match tcgetattr(terminal) {
            Err(Errno::ENOTTY | Errno::EBADF) => return Ok(None),
            before => before.context("read the terminal's settings")?,
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        raw.output_flags |= OutputFlags::OPOST;
        tcsetattr(terminal, SetArg::TCSANOW, &raw).context("make the terminal raw")?;
        let terminal = terminal.try_clone_to_owned().context("keep the terminal")?;
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
///
/// A terminal has no end of file that would last, so the end of the caller's input is typed: as the
/// character that means it. A program that reads a terminal line by line takes it for the end; one that
/// takes every key for itself, such as a shell that edits lines, gets the key that a person would press.
#[derive(Debug)]
pub(super) struct Relay<'a> {
    input: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    master: OwnedFd,
    typed: Stream,
    shown: Stream,
    /// Whether what was typed last ended a line; nothing typed yet is as good.
    at_line_start: bool,
    /// Whether the terminal took whole lines when the end was typed; none if it was not yet.
    end_typed_for_lines: Option<bool>,
}

impl<'a> Relay<'a> {
    /// A relay that has not moved anything yet. The master becomes non-blocking, takes the size of
    /// `input` or `output`, whichever is a terminal, and has its line ends kept (see [`keep_line_ends`]).
    ///
    /// # Errors
    ///
    /// `ENOTTY` if `master` is none.
    pub(super) fn new(
        input: BorrowedFd<'a>,
        output: BorrowedFd<'a>,
        master: OwnedFd,
    ) -> Result<Self> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("set up the terminal")?;
        keep_line_ends(&master)?;
        let (typed, shown) = (Stream::default(), Stream::default());
        let relay = Self {
            input,
            output,
            master,
            typed,
            shown,
            at_line_start: true,
            end_typed_for_lines: None,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of the caller's, if that is one.
    pub(super) fn resize(&self) {
        take_size(&self.master, self.input, self.output);
    }

    /// Input, master and output.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.input, self.master.as_fd(), self.output]
    }

    /// What to wait for now: input, master, output. No event at all means not to wait for it, which
    /// matters since a descriptor that hung up is always ready.
    pub(super) fn interest(&self) -> [PollFlags; 3] {
        let when = |wanted: bool, flag| if wanted { flag } else { PollFlags::empty() };
        let reads = when(self.shown.wants_input(), PollFlags::POLLIN);
        let writes = when(self.typed.wants_output(), PollFlags::POLLOUT);
        [
            when(self.typed.wants_input(), PollFlags::POLLIN),
            reads | writes,
            when(self.shown.wants_output(), PollFlags::POLLOUT),
        ]
    }

    pub(super) fn handle(&mut self, ready: [PollFlags; 3]) -> Result<()> {
        let [input, master, output] = ready;
        // Hang-ups and errors show in the read or write that follows.
        let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if output.intersects(PollFlags::POLLOUT | over) {
            self.shown.flush(self.output)?;
        }
        if master.intersects(PollFlags::POLLIN | over) && self.shown.wants_input() {
            self.shown.fill(self.master.as_fd())?;
            // The program may have changed the terminal before it wrote this.
            self.type_end();
        }
        if master.intersects(PollFlags::POLLOUT | over) && self.typed.wants_output() {
            self.typed.flush(self.master.as_fd())?;
        }
        if input.intersects(PollFlags::POLLIN | over) {
            self.typed.fill(self.input)?;
            if let Some(last) = self.typed.pending.back() {
                self.at_line_start = matches!(last, b'\n' | b'\r');
            }
            self.type_end();
        }
        Ok(())
    }

    /// Types the end of the caller's input, when it has come: once while the terminal takes whole lines
    /// and once more when the program has made it take single keys, which turns an end that was not read
    /// yet into nothing (Linux `n_tty_set_termios()`); and so on.
    fn type_end(&mut self) {
        if !self.typed.source_ended || self.typed.sink_ended {
            return;
        }
        // A terminal that has hung up takes nothing any more.
        let Ok(settings) = tcgetattr(&self.master) else { return };
        let takes_lines = settings.local_flags.contains(LocalFlags::ICANON);
        if self.end_typed_for_lines == Some(takes_lines) {
            return;
        }
        let end = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
        // In the middle of a line the first one only hands over what was typed so far.
        let times = if takes_lines && !self.at_line_start { 2 } else { 1 };
        self.typed.pending.extend(std::iter::repeat_n(end, times));
        self.at_line_start = true;
        self.end_typed_for_lines = Some(takes_lines);
    }

    /// Passes on what the program has written before it ended. The kernel hands out all of that before
    /// it says that there is nothing more.
    pub(super) fn finish(&mut self) -> Result<()> {
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
