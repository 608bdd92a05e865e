//! Descriptors that a runtime sends over a socket.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::sys;

/// The text of a message and the descriptor beside it.
pub(crate) fn receive(stream: &UnixStream) -> (String, OwnedFd) {
    let mut text = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message =
        recvmsg::<()>(stream.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
    let length = message.bytes;
    let mut descriptors = message.cmsgs().unwrap().filter_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    let descriptor = sys::own(descriptors.next().expect("the message carries a descriptor"));
    (String::from_utf8(text[..length].to_vec()).unwrap(), descriptor)
}
