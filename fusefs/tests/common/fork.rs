//! Forking, the one unsafe thing that tests do.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Runs `body` in a child, which ends with it. A panic is the exit code 101.
pub(crate) fn child(body: impl FnOnce()) -> Pid {
    // SAFETY: the child uses nothing but memory and the C library, which has handlers that make
    // its own locks usable after a fork; the test harness holds no lock while it runs a test.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let code = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(()) => 0,
                Err(_printed_by_the_hook) => 101,
            };
            end(code)
        }
    }
}

/// Waits for a child and says whether it ended well.
pub(crate) fn succeeded(child: Pid) -> bool {
    matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 0))
}

/// Ends a child without what the harness would do at its end.
fn end(code: i32) -> ! {
    // SAFETY: _exit is always sound; nothing of the parent's is flushed twice.
    unsafe { libc::_exit(code) }
}
