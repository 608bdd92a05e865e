//! One datagram per message, over a pair of connected sockets that close on exec.
//!
//! Messages are JSON: they are few, and a person can read them in a trace. Descriptors travel
//! beside them.

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message, in bytes: an error with its whole chain fits many times.
const LONGEST: usize = 64 * 1024;

/// What nearly every message fits into, in bytes.
const USUAL: usize = 512;

/// Sends `Out`, receives `In`.
#[derive(Debug)]
pub struct Channel<Out, In> {
    socket: OwnedFd,
    messages: PhantomData<fn(Out) -> In>,
}

/// The other side has closed its end: it has ended, or become another program.
#[derive(Debug, thiserror::Error)]
#[error("the other process has gone")]
pub struct Gone;

/// Two ends of a new channel: what one sends, the other receives.
///
/// `pair::<Here, There>()`: the first end sends `Here` and receives `There`.
///
/// # Errors
///
/// Those of `socketpair(2)`.
pub fn pair<Here, There>() -> anyhow::Result<(Channel<Here, There>, Channel<There, Here>)> {
    let (here, there) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .context("make a channel")?;
    Ok((Channel::over(here), Channel::over(there)))
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// Sends one message.
    ///
    /// # Errors
    ///
    /// [`Gone`] if nobody is there to receive it.
    pub fn send(&self, message: &Out) -> anyhow::Result<()> {
        self.send_parts(message, &[])
    }

    /// Sends one message; if nobody is there to receive it, what was said last can still be received.
    ///
    /// # Errors
    ///
    /// Those of `sendmsg(2)`.
    pub fn send_if_there(&self, message: &Out) -> anyhow::Result<()> {
        self.send(message).or_else(|error| if error.is::<Gone>() { Ok(()) } else { Err(error) })
    }

    /// Sends one message by `write(2)`, the one call that every filter of system calls has to allow.
    ///
    /// # Errors
    ///
    /// Those of `write(2)`.
    pub fn write(&self, message: &Out) -> anyhow::Result<()> {
        let text = serde_json::to_vec(message)?;
        nix::unistd::write(&self.socket, &text).map(drop).context("write a message")
    }

    /// Waits for one message by `read(2)`, which an agent can answer for.
    ///
    /// # Errors
    ///
    /// [`Gone`] if none will come.
    pub fn read(&self) -> anyhow::Result<In> {
        let mut text = [0; 256];
        let length = nix::unistd::read(&self.socket, &mut text).context("read a message")?;
        match text.get(..length) {
            None | Some([]) => bail!(Gone),
            Some(text) => Ok(serde_json::from_slice(text).context("understand a message")?),
        }
    }

    /// Sends one message with a descriptor, of which the receiver gets a copy.
    ///
    /// # Errors
    ///
    /// [`Gone`] if nobody is there to receive it.
    pub fn send_with(&self, message: &Out, fd: BorrowedFd<'_>) -> anyhow::Result<()> {
        self.send_parts(message, &[fd.as_raw_fd()])
    }

    fn send_parts(&self, message: &Out, fds: &[i32]) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(message)?;
        ensure!(text.len() <= LONGEST, "a message of {} bytes is too long", text.len());
        if text.is_empty() {
            text.push(b' ');
        }
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let parts = [IoSlice::new(&text)];
        match sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)
        {
            Err(Errno::EPIPE | Errno::ECONNRESET) => bail!(Gone),
            sent => sent.map(drop).context("send a message"),
        }
    }

    /// Waits for one message.
    ///
    /// # Errors
    ///
    /// [`Gone`] if none will come.
    pub fn receive(&self) -> anyhow::Result<In> {
        Ok(self.receive_with()?.0)
    }

    /// Waits for one message, which may bring a descriptor.
    ///
    /// # Errors
    ///
    /// [`Gone`] if none will come.
    pub fn receive_with(&self) -> anyhow::Result<(In, Option<OwnedFd>)> {
        // Nearly all messages are a word: only for a longer one is room made, and filled with zeros.
        let mut text = vec![0; USUAL];
        if self.length_of_next()? > text.len() {
            text.resize(LONGEST, 0);
        }
        let received = receive_datagram(self.socket.as_fd(), &mut text, MsgFlags::empty());
        let (length, fd) = received.context("receive a message")?;
        match text.get(..length) {
            None | Some([]) => bail!(Gone),
            Some(text) => Ok((serde_json::from_slice(text).context("understand a message")?, fd)),
        }
    }

    /// How long the next message is, which is waited for.
    ///
    /// Whoever ends without having read all makes the kernel tell us `ECONNRESET`, once, before what it
    /// said itself (Linux `net/unix/af_unix.c`, `unix_release_sock()`).
    fn length_of_next(&self) -> anyhow::Result<usize> {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        loop {
            match recv(self.socket.as_raw_fd(), &mut [0], flags) {
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                length => return length.context("receive a message"),
            }
        }
    }
}

/// Waits for one datagram, whose first bytes go into `text`. Returns its length, with `MSG_TRUNC` in
/// `flags` even if it did not fit, and the descriptor that it brought.
///
/// # Errors
///
/// Those of `recvmsg(2)`, but not that the other side has gone without reading all: what it said before
/// that is still there.
pub fn receive_datagram(
    socket: BorrowedFd<'_>,
    text: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([i32; 1]);
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    loop {
        let mut parts = [IoSliceMut::new(text)];
        let control = Some(&mut control[..]);
        let received = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, control, flags) {
            Err(Errno::EINTR | Errno::ECONNRESET) => continue,
            received => received?,
        };
        let mut fd = None;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                fd = fds.into_iter().map(crate::sys::process::received).next_back();
            }
        }
        return Ok((received.bytes, fd));
    }
}

impl<Out, In> Channel<Out, In> {
    /// A channel over a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, messages: PhantomData }
    }
}

impl<Out, In> AsFd for Channel<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_bring_descriptors() {
        let (here, there) = pair::<String, u32>().unwrap();
        here.send(&"one".to_owned()).unwrap();
        here.send_with(&"two".to_owned(), here.as_fd()).unwrap();
        assert!(matches!(there.receive_with().unwrap(), (text, None) if text == "one"));
        let (text, fd) = there.receive_with().unwrap();
        assert_eq!((text.as_str(), fd.is_some()), ("two", true));
        let long = "x".repeat(LONGEST / 2);
        here.send_with(&long, here.as_fd()).unwrap();
        assert!(matches!(there.receive_with().unwrap(), (text, Some(_)) if text == long));
        drop(fd);
        drop(there);
        assert!(here.send(&String::new()).unwrap_err().is::<Gone>());
        assert!(here.receive().unwrap_err().is::<Gone>());
    }

    #[test]
    fn last_words_are_heard_though_ours_were_not() {
        let (here, there) = pair::<String, u32>().unwrap();
        here.send(&"unread".to_owned()).unwrap();
        there.send(&7).unwrap();
        drop(there);
        assert_eq!(here.receive().unwrap(), 7);
        assert!(here.receive().unwrap_err().is::<Gone>());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (here, there) = pair::<String, u32>().unwrap();
        here.send(&"text".to_owned()).unwrap();
        let numbers = Channel::<(), u32>::over(there.socket.try_clone().unwrap());
        assert!(numbers.receive().unwrap_err().to_string().contains("understand"));
    }
}
