//! The system calls that no safe interface wraps.
#![expect(unsafe_code, reason = "the one place of the tests for it")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Makes this process the parent of orphans among its descendants, so that it sees them.
pub(crate) fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

/// Takes a descriptor that the kernel has just put into this process.
pub(crate) fn own(received: RawFd) -> OwnedFd {
    // SAFETY: recvmsg installed this descriptor for the caller alone, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// Leaves the session keyring for one named `name`, which shows itself to who possesses it alone
/// (keyctl(2)).
pub(crate) fn join_session_keyring(name: &str) {
    const POSSESSOR_ALONE: u32 = 0x3f00_0000;
    let name = std::ffi::CString::new(name).unwrap();
    let join = libc::KEYCTL_JOIN_SESSION_KEYRING;
    // SAFETY: `name` ends with NUL and outlives the call.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, join, name.as_ptr()) };
    assert!(key > 0, "{}", std::io::Error::last_os_error());
    // SAFETY: only numbers are passed.
    let set =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key, POSSESSOR_ALONE) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
