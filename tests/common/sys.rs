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
