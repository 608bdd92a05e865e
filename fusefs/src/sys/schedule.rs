//! The scheduler's class of a thread.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// The text of `/proc/loadavg`; nothing where that cannot be read.
pub(crate) fn loadavg() -> Option<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = open("/proc/loadavg", flags, Mode::empty()).ok()?;
    let mut text = [0; 128];
    let length = nix::unistd::read(&file, &mut text).ok()?;
    Some(String::from_utf8_lossy(text.get(..length)?).into_owned())
}

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
