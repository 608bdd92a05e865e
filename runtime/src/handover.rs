//! Descriptors for engines and agents: one over a socket that they listen at, with a text beside it.

use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;

/// The longest path that a socket address holds, with its NUL.
const SOCKET_PATH: usize = 108;

/// Connects to `socket`, a path of any length, sends `text` with a copy of `fd`, and closes the
/// connection.
///
/// # Errors
///
/// `ENOENT` or `ECONNREFUSED` if nobody listens, `EPIPE` if the listener has gone.
pub fn send(socket: &Path, text: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let mut connection = connect(socket)?;
    let parts = [IoSlice::new(text)];
    let rights = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(connection.as_raw_fd(), &parts, &control, flags, None)?;
    // The descriptor goes with the first byte; a long text may need more than one call.
    connection.write_all(text.get(sent..).unwrap_or_default()).context("send the rest of the text")
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() < SOCKET_PATH {
        UnixStream::connect(path)
    } else {
        connect_through_directory(path)
    }
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
