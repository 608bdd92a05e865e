//! CRIU, the program that saves processes and brings them back.
//!
//! ```text
//! criu swrk FD                   we
//!                      <-----    Dump, PreDump or Restore, with options
//! Notify { script }    ----->    does its part of that turn; some bring a descriptor
//!                      <-----    Notify, success
//! the answer           ----->    the conversation is over, criu ends
//! ```
//! Each message is one datagram of protocol buffers ([`rpc`]). The library that exists for it,
//! `rust-criu`, has no pre-dump, no status of lazy pages and none of the settings of security modules,
//! cgroup roots and namespaces to join; what is needed of the protocol is one file.

pub mod rpc;

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::unistd::Pid;
use prost::Message as _;

use self::rpc::{Kind, Notice, Request, Response};
use crate::process::channel::receive_datagram;

/// The longest message that CRIU sends, in bytes: one with a path and a sentence.
const LONGEST: usize = 64 * 1024;

/// How much of a log is searched for its first error, in bytes.
const LONGEST_LOG: u64 = 16 << 20;

/// A process of CRIU that waits for its request.
#[derive(Debug)]
pub struct Criu {
    socket: OwnedFd,
    child: Child,
    /// Where it will say more.
    log: PathBuf,
}

/// What CRIU gets for its standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Ours: they become those of what it restores.
    Ours,
    /// Nothing, and its complaints come to us.
    None,
}

impl Criu {
    /// Starts CRIU with the descriptors `inherited` beside its socket; its log will be `log`.
    ///
    /// # Errors
    ///
    /// If it is not installed.
    pub fn start(inherited: &[BorrowedFd<'_>], streams: Streams, log: PathBuf) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .context("make a socket for criu")?;
        for fd in inherited.iter().copied().chain([there.as_fd()]) {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).context("hand a descriptor to criu")?;
        }
        let mut command = Command::new("criu");
        command.arg("swrk").arg(there.as_raw_fd().to_string());
        if streams == Streams::None {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        }
        let child =
            crate::hooks::spawn_unblocked(&mut command).map_err(|error| match error.kind() {
                ErrorKind::NotFound => anyhow!(
                    "criu is not installed, or not in $PATH \
                     (cure: apt-get install criu, or dnf install criu)"
                ),
                _ => anyhow!(error).context("run criu"),
            })?;
        Ok(Self { socket: here, child, log })
    }

    /// Its process.
    ///
    /// # Errors
    ///
    /// Never: a process ID fits.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// Has `request` carried out. At each turn `take_part` is called, with the descriptor that came.
    ///
    /// # Errors
    ///
    /// Why it was not done: what CRIU says, the first error in its log, and where that is.
    pub fn carry_out(
        mut self,
        request: &Request,
        mut take_part: impl FnMut(&Notice, Option<OwnedFd>) -> Result<()>,
    ) -> Result<()> {
        let talked = self.talk(request, &mut take_part);
        // It ends when nobody is left to talk to; after a pre-dump it would wait for the dump.
        drop(self.socket);
        let mut complaints = String::new();
        if let Some(errors) = self.child.stderr.take() {
            let _whatever_is_text = errors.take(LONGEST as u64).read_to_string(&mut complaints);
        }
        let ended = self.child.wait().context("wait for criu")?;
        let explained = |error: anyhow::Error| explain(&error, &self.log, &complaints);
        talked.map_err(explained)?;
        if ended.success() || request.kind() == Kind::PreDump {
            return Ok(());
        }
        Err(explain(&anyhow!("criu failed: {ended}"), &self.log, &complaints))
    }

    fn talk(
        &self,
        request: &Request,
        take_part: &mut impl FnMut(&Notice, Option<OwnedFd>) -> Result<()>,
    ) -> Result<()> {
        self.send(request)?;
        loop {
            let (response, fd) = self.receive()?;
            log::debug!("criu says: {response:?}");
            if !response.success {
                bail!(refusal(request.kind(), &response));
            }
            match (response.kind(), response.notice) {
                (Kind::Notify, Some(notice)) => {
                    take_part(&notice, fd)?;
                    let kind = Kind::Notify.into();
                    let done = Request { kind, notify_success: Some(true), ..Request::default() };
                    self.send(&done)?;
                }
                (kind, _) if kind == request.kind() => return Ok(()),
                (kind, _) => bail!("criu answered {kind:?} to {:?}", request.kind()),
            }
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), &request.encode_to_vec(), MsgFlags::MSG_NOSIGNAL);
        match sent {
            Err(Errno::EPIPE | Errno::ECONNRESET) => bail!("criu ended without a word"),
            sent => sent.map(drop).context("talk to criu"),
        }
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut bytes = vec![0; LONGEST];
        // With MSG_TRUNC the length is that of the whole message, even if not all of it fitted.
        let received = receive_datagram(self.socket.as_fd(), &mut bytes, MsgFlags::MSG_TRUNC);
        let (length, fd) = received.context("listen to criu")?;
        ensure!(length > 0, "criu ended without a word");
        let message = bytes.get(..length).context("criu's answer is too long")?;
        Ok((Response::decode(message).context("understand criu's answer")?, fd))
    }
}

fn refusal(wanted: Kind, response: &Response) -> String {
    let what = match wanted {
        Kind::Restore => "restore",
        _ => "dump",
    };
    let why = match (response.complaint.as_deref(), response.errno) {
        (Some(complaint), _) if !complaint.is_empty() => format!(": {complaint}"),
        (_, Some(errno)) => format!(": errno {errno} ({})", Errno::from_raw(errno)),
        _ => String::new(),
    };
    format!("criu cannot {what}{why}")
}

/// `error`, with the first error of CRIU's log, or else the last of its complaints, and where to read on.
fn explain(error: &anyhow::Error, log: &Path, complaints: &str) -> anyhow::Error {
    let first = first_error(log);
    let last = complaints.lines().rev().find(|line| !line.trim().is_empty());
    let said = first.as_deref().or(last).map(|line| format!(": {}", line.trim()));
    let more = if log.exists() { format!(" (see {})", log.display()) } else { String::new() };
    anyhow!("{error:#}{}{more}", said.unwrap_or_default())
}

/// The first line of `log` that tells of an error, without its time.
fn first_error(log: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(log).ok()?.take(LONGEST_LOG).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains("Error"))?;
    let without_time = line.split_once(") ").filter(|(time, _)| time.starts_with('('));
    Some(without_time.map_or(line, |(_, rest)| rest).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_a_log_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("dump.log");
        assert_eq!(first_error(&log), None);
        std::fs::write(&log, "(00.1) fine\n(00.2) Error (criu/a.c:3): no\n(00.3) Error: 2\n")
            .unwrap();
        assert_eq!(first_error(&log).as_deref(), Some("Error (criu/a.c:3): no"));
        let text = explain(&anyhow!("criu cannot dump"), &log, "nothing").to_string();
        assert!(text.starts_with("criu cannot dump: Error (criu/a.c:3): no (see /"), "{text}");
        let text = explain(&anyhow!("criu ended"), Path::new("/none"), "a\nb\n\n").to_string();
        assert_eq!(text, "criu ended: b");
    }
}
