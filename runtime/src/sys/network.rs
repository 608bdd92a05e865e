//! The one network interface that a new network namespace has.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::Result;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings `lo` up, with its addresses, in the network namespace of this process (netdevice(7)).
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN` in the user namespace that owns it.
pub fn raise_loopback() -> Result<()> {
    let socket: OwnedFd =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero is a valid `ifreq`: a name of NULs and numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, letter) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = letter.cast_signed();
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the request names an interface and its flags, as SIOCSIFFLAGS takes them, and
    // outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop)
}
