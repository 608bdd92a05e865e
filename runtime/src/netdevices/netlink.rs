//! Requests to the kernel's routing socket (`rtnetlink(7)`): only what moving a device needs.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bytes of `struct rtattr`.
const ATTRIBUTE: usize = 4;

/// Everything is aligned to so many bytes.
const ALIGN: usize = 4;

/// The longest answer that the kernel gives at once, in bytes (`netlink(7)`: 32 KiB or a page).
const LONGEST: usize = 32 * 1024;

/// A connection to the kernel, for the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// One message of an answer: its type, and what follows its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) payload: Vec<u8>,
}

impl Netlink {
    /// Connects.
    ///
    /// # Errors
    ///
    /// `EPROTONOSUPPORT` without networking in the kernel.
    pub(super) fn new() -> Result<Self> {
        let kind = SockType::Raw;
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Sends a request and returns the answer, up to the acknowledgement.
    ///
    /// # Errors
    ///
    /// What the kernel says to it; `EBADMSG` for an answer that is not well-formed.
    pub(super) fn request(&self, kind: u16, flags: i32, payload: &[u8]) -> Result<Vec<Message>> {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let length = u32::try_from(HEADER + payload.len()).map_err(|_too_long| Errno::EMSGSIZE)?;
        let flags = u16::try_from(flags).map_err(|_no_flags| Errno::EINVAL)?;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Neither a sequence number nor a sender: there is one request at a time.
        bytes.extend([0; 8]);
        bytes.extend(payload);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty())?;
        self.answer()
    }

    fn answer(&self) -> Result<Vec<Message>> {
        let mut answer = Vec::new();
        let mut buffer = vec![0; LONGEST];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            for message in messages(buffer.get(..length).unwrap_or_default())? {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(answer),
                    libc::NLMSG_ERROR => return error(&message.payload).map(|()| answer),
                    _ => answer.push(message),
                }
            }
        }
    }
}

/// What `NLMSG_ERROR` says; 0 is the acknowledgement.
fn error(payload: &[u8]) -> Result<()> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(code.saturating_neg())),
        None => Err(Errno::EBADMSG),
    }
}

/// The messages in what was received at once.
fn messages(mut bytes: &[u8]) -> Result<Vec<Message>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Errno::EBADMSG)?;
        let [a, b, c, d, e, f, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]);
        let length = usize::try_from(length).map_err(|_too_long| Errno::EBADMSG)?;
        let payload = bytes.get(HEADER..length).ok_or(Errno::EBADMSG)?.to_vec();
        found.push(Message { kind: u16::from_ne_bytes([e, f]), payload });
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    Ok(found)
}

/// The attributes in `bytes`, with their types; none if they are not well-formed.
pub(super) fn attributes(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let [a, b, c, d] = *bytes.first_chunk::<ATTRIBUTE>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        found.push((u16::from_ne_bytes([c, d]), bytes.get(ATTRIBUTE..length)?));
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    Some(found)
}

/// Adds an attribute to a request.
///
/// # Errors
///
/// `EMSGSIZE` beyond 64 KiB.
pub(super) fn add_attribute(request: &mut Vec<u8>, kind: u16, value: &[u8]) -> Result<()> {
    let length = u16::try_from(ATTRIBUTE + value.len()).map_err(|_too_long| Errno::EMSGSIZE)?;
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(value);
    request.resize(request.len().next_multiple_of(ALIGN), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut bytes = Vec::new();
        add_attribute(&mut bytes, 3, b"eth0\0").unwrap();
        add_attribute(&mut bytes, 19, &7_u32.to_ne_bytes()).unwrap();
        assert_eq!(bytes.len(), 12 + 8);
        let seven = 7_u32.to_ne_bytes();
        assert_eq!(attributes(&bytes).unwrap(), [(3, &b"eth0\0"[..]), (19, &seven[..])]);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut bytes = Vec::new();
        add_attribute(&mut bytes, 3, b"eth0").unwrap();
        for length in 1..bytes.len() {
            assert_eq!(attributes(&bytes[..length]), None, "{length}");
        }
        let mut message = 20_u32.to_ne_bytes().to_vec();
        message.extend([0; 16]);
        assert_eq!(messages(&message).unwrap().len(), 1);
        for length in 1..message.len() {
            assert_eq!(messages(&message[..length]), Err(Errno::EBADMSG), "{length}");
        }
        assert_eq!(messages(&[0; 16]), Err(Errno::EBADMSG), "shorter than its header");
        assert_eq!(attributes(&[0; 4]), None, "shorter than its header");
    }

    #[test]
    fn the_kernel_answers() {
        let netlink = Netlink::new().unwrap();
        let mut request = vec![0; 16];
        add_attribute(&mut request, libc::IFLA_IFNAME, b"lo\0").unwrap();
        let answer = netlink.request(libc::RTM_GETLINK, 0, &request).unwrap();
        assert_eq!(answer.first().unwrap().kind, libc::RTM_NEWLINK);
        let mut request = vec![0; 16];
        add_attribute(&mut request, libc::IFLA_IFNAME, b"rrun-none\0").unwrap();
        assert_eq!(netlink.request(libc::RTM_GETLINK, 0, &request), Err(Errno::ENODEV));
    }
}
