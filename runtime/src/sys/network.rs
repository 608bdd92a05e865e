//! Network interfaces, by the ioctls of netdevice(7).

#![allow(unsafe_code, reason = "the one place for calls that no library wraps")]

use std::os::fd::AsRawFd as _;

use nix::Result;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The interface that every network namespace has from the start, switched off.
const LOOPBACK: [libc::c_char; 2] = [b'l'.cast_signed(), b'o'.cast_signed()];

/// Switches the loopback interface of this network namespace on.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN` in the user namespace that owns the network namespace.
pub fn switch_loopback_on() -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let up = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: all of `ifreq` is plain numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..LOOPBACK.len()].copy_from_slice(&LOOPBACK);
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop)
}
