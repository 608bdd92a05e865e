//! The conversation with the kernel through `/dev/fuse`.
//!
//! ```text
//! kernel                         server
//! INIT: what it offers   ----->  handshake: what of it we use, once
//! request                ----->  request: bytes → types
//!                        <-----  reply: types → bytes
//!                        <-----  notification, unasked: what it knows is out of date
//! ENODEV                 ----->  the mount is gone everywhere
//! ```
//!
//! One buffer receives all requests and one holds all replies: file contents are written from the
//! first and read into the second, without a copy in between.

pub(crate) mod handshake;
pub(crate) mod reply;
pub(crate) mod request;
mod wire;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{read, write};

use crate::inode::Ino;
use handshake::{LARGEST_WRITE, Wishes};
use reply::Reply;
use request::{Malformed, Operation, Request, decode};

/// Who answers.
pub(crate) trait Answer {
    /// Does what `request` asks and writes the body of the reply.
    ///
    /// # Errors
    ///
    /// What the asking process is told instead; `ENOSYS` if such requests need not come again.
    fn answer(
        &self,
        request: &Request<'_>,
        reply: &mut Reply,
        kernel: &Kernel<'_>,
    ) -> nix::Result<()>;
}

/// The conversation of one mount.
#[derive(Debug)]
pub(crate) struct Session {
    device: OwnedFd,
    /// Where requests are received.
    buffer: Vec<u8>,
    reply: Reply,
}

impl Session {
    /// A conversation through `device`, in which nothing was said yet.
    pub(crate) fn new(device: OwnedFd, wishes: &Wishes) -> Self {
        let size = handshake::size_of_buffer(LARGEST_WRITE);
        Self { device, buffer: vec![0; size], reply: Reply::new(wishes.validity) }
    }

    /// Agrees with the kernel on how to talk, and answers until the mount is gone.
    ///
    /// # Errors
    ///
    /// `EPERM` if nothing is mounted on the device; [`io::ErrorKind::Unsupported`] if the kernel
    /// is too old; those of the device.
    pub(crate) fn run(mut self, wishes: &Wishes, server: &impl Answer) -> io::Result<()> {
        if self.agree(wishes)? {
            while let Some(length) = self.receive()? {
                self.serve(length, server);
            }
        }
        Ok(())
    }

    /// The handshake; `false` if the mount is gone before it is over.
    fn agree(&mut self, wishes: &Wishes) -> io::Result<bool> {
        while let Some(length) = self.receive()? {
            let Self { device, buffer, reply } = self;
            let kernel = Kernel(device.as_fd());
            reply.clear();
            let Ok(request) = decode(buffer.get(..length).unwrap_or_default()) else { continue };
            let Operation::Init(offer) = &request.operation else {
                kernel.send(reply.finish(request.unique, Err(Errno::EIO)));
                continue;
            };
            let is_final = handshake::agree(offer, wishes, reply)?;
            kernel.send(reply.finish(request.unique, Ok(())));
            if is_final {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Answers the request in the buffer.
    fn serve(&mut self, length: usize, server: &impl Answer) {
        let Self { device, buffer, reply } = self;
        let kernel = Kernel(device.as_fd());
        reply.clear();
        match decode(buffer.get(..length).unwrap_or_default()) {
            Ok(request) => {
                let done = server.answer(&request, reply, &kernel);
                if request.operation.wants_reply() {
                    kernel.send(reply.finish(request.unique, done));
                }
            }
            Err(Malformed::Body { unique, opcode }) => {
                log::warn!("request of kind {opcode} is malformed");
                kernel.send(reply.finish(unique, Err(Errno::EIO)));
            }
            Err(Malformed::Header) => log::warn!("request of {length} bytes is malformed"),
        }
    }

    /// Receives one request; `None` once the mount is gone.
    fn receive(&mut self) -> io::Result<Option<usize>> {
        loop {
            match read(&self.device, &mut self.buffer) {
                Ok(length) => return Ok(Some(length)),
                // `ENOENT`: whoever asked was interrupted before the request was read.
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
                Err(Errno::ENODEV | Errno::ENOTCONN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The kernel's side of the conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel<'fd>(BorrowedFd<'fd>);

impl Kernel<'_> {
    /// Makes the kernel ask for the metadata of `node` again.
    pub(crate) fn forget_attributes(self, node: Ino) {
        self.send(&reply::forget_attributes(node));
    }

    fn send(self, message: &[u8]) {
        match write(self.0, message) {
            // `ENOENT`: whoever asked has gone, or the kernel does not know the node.
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => log::warn!("reply of {} bytes is lost: {errno}", message.len()),
        }
    }
}
