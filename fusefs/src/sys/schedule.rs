//! The scheduler's class of a thread.

use nix::errno::Errno;

/// Puts the calling thread into the class that runs only when a processor has nothing else to do
/// (`SCHED_IDLE`).
///
/// # Errors
///
/// `EPERM` where a security module forbids it.
///
/// Source: sched(7).
pub(crate) fn enter_idle_class() -> nix::Result<()> {
    let no_priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: `no_priority` outlives the call, and 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const no_priority) };
    Errno::result(result).map(drop)
}
