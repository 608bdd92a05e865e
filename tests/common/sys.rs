//! The system calls that no safe interface wraps.
#![expect(unsafe_code, reason = "the one place of the tests for it")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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

/// Answers for one system call that waits at `listener` (`seccomp_unotify(2)`): `answer` says for its
/// number with which error it fails, or that it may go on. `false` if nobody will ask any more.
pub(crate) fn answer_call(listener: &OwnedFd, answer: impl Fn(i64) -> Option<i32>) -> bool {
    const RECEIVE: libc::Ioctl = 0xc050_2100;
    const SEND: libc::Ioctl = 0xc018_2101;
    const GO_ON: u32 = 1;
    // SAFETY: all-zero is valid for a structure of numbers, and what the kernel wants.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl fills one such structure, which outlives the call.
    if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) } != 0 {
        return false;
    }
    let error = answer(call.data.nr.into());
    let mut reply = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: error.map_or(0, |errno| -errno),
        flags: if error.is_none() { GO_ON } else { 0 },
    };
    // SAFETY: the ioctl reads one such structure, which outlives the call.
    let _caller_may_have_gone = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut reply) };
    true
}
