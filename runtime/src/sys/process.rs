//! Processes: `clone3`, pidfds, the sealed copy of our own program, and what comes before exec.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, Pid};

/// Keeps errors from collecting backtraces, which nobody prints and which take milliseconds each, where
/// the caller's environment asks for those of panics. To be called before there is a second thread.
pub fn forgo_backtraces_of_errors() {
    const ASKED: &str = "RUST_BACKTRACE";
    const OF_ERRORS: &str = "RUST_LIB_BACKTRACE";
    if std::env::var_os(ASKED).is_some() && std::env::var_os(OF_ERRORS).is_none() {
        debug_assert_eq!(thread_count(), 1, "others may be reading the environment");
        // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(OF_ERRORS, "0") };
    }
}

/// A child and the descriptor that names it even after its number was given to another.
#[derive(Debug)]
pub struct Child {
    /// Its process ID, as this process sees it.
    pub pid: Pid,
    /// Its pidfd; readable when it has ended.
    pub pidfd: OwnedFd,
}

/// How [`clone`] makes the child.
#[derive(Debug, Default, Clone, Copy)]
pub struct Clone<'a> {
    /// The namespaces to make new; a new user namespace is made first and owns the others.
    pub namespaces: u64,
    /// The child becomes a child of our parent instead (`CLONE_PARENT`).
    pub sibling: bool,
    /// The cgroup v2 directory the child starts in (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Runs `body` in a new process, which ends with the exit code that `body` returns.
///
/// # Errors
///
/// Those of `clone3(2)`: `EPERM` where namespaces may not be made, `ENOSPC` past
/// `user.max_*_namespaces`, `EAGAIN` past the limit of processes.
pub fn clone(how: Clone<'_>, body: impl FnOnce() -> u8) -> Result<Child> {
    debug_assert_eq!(thread_count(), 1, "clone copies one thread and every lock");
    let mut pidfd: RawFd = -1;
    let mut flags = how.namespaces | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    if how.sibling {
        flags |= u64::from(libc::CLONE_PARENT.cast_unsigned());
    }
    if how.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: all-zero is a valid `clone_args`: every field is a number.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = if how.sibling { 0 } else { libc::SIGCHLD.cast_unsigned().into() };
    args.cgroup = how.cgroup.map_or(0, |fd| fd.as_raw_fd().cast_unsigned().into());
    // SAFETY: no stack is given, so this is a fork: the child has its own copy of everything, and
    // this is the only thread, so it inherits no lock held by another. `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match Errno::result(pid)? {
        0 => exit_now(body()),
        pid => {
            let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::ESRCH)?);
            // SAFETY: CLONE_PIDFD stored a new descriptor, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid, pidfd })
        }
    }
}

/// `CLONE_INTO_CGROUP` of `linux/sched.h`; `libc` has it in a type too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Runs `body` in a forked child, which ends with the exit code that `body` returns.
///
/// # Errors
///
/// Those of `fork(2)`.
pub fn fork(body: impl FnOnce() -> u8) -> Result<Pid> {
    debug_assert_eq!(thread_count(), 1, "fork copies one thread and every lock");
    // SAFETY: this is the only thread, so the child inherits no lock held by another.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => exit_now(body()),
    }
}

/// Ends this process without running what was registered to run at exit: in a forked child those
/// things are the parent's.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` takes a number and does not return.
    unsafe { libc::_exit(code.into()) }
}

/// How many threads this process has.
fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// A pidfd for the process `pid`.
///
/// # Errors
///
/// `ESRCH` if there is none.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: only numbers are passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the system call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of the descriptor that has the number `fd` in the process behind `pidfd`
/// (`pidfd_getfd(2)`, Linux 5.6).
///
/// # Errors
///
/// `EBADF` if it has none, `EPERM` if the caller may not trace it, `ESRCH` if it has ended.
pub fn take_descriptor(pidfd: BorrowedFd<'_>, fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: only numbers are passed.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    let copy = i32::try_from(Errno::result(copy)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the system call succeeded, so `copy` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Sends signal number `signal` to the process behind `pidfd`; 0 only asks whether it is there.
///
/// # Errors
///
/// `ESRCH` if it has ended, `EPERM` if it is another's, `EINVAL` for no signal.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: no siginfo is passed, the rest are numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Whether the process behind `pidfd` has ended (a zombie has).
///
/// Waits up to `milliseconds` for it; -1 waits for ever.
///
/// # Errors
///
/// Those of `poll(2)`, but not `EINTR`.
pub fn has_ended(pidfd: BorrowedFd<'_>, milliseconds: i32) -> Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(milliseconds).map_err(|_| Errno::EINVAL)?;
    loop {
        let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

/// Marks every descriptor from `first` upwards close-on-exec (`close_range(2)`).
///
/// # Errors
///
/// `ENOSYS` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC.cast_signed())
}

/// Closes every descriptor from `first` upwards that is not in `keep`.
///
/// # Errors
///
/// Those of `close_range(2)`.
pub fn close_all_but(first: u32, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).filter(|fd| *fd >= first).collect();
    keep.sort_unstable();
    let mut next = first;
    for fd in keep {
        if fd > next {
            close_span(next, fd - 1)?;
        }
        next = fd + 1;
    }
    close_span(next, u32::MAX)
}

fn close_span(first: u32, last: u32) -> Result<()> {
    // SAFETY: only numbers are passed; the caller gives up every descriptor in the range.
    Errno::result(unsafe { libc::close_range(first, last, 0) }).map(drop)
}

fn close_range(first: u32, flags: i32) -> Result<()> {
    // SAFETY: only numbers are passed; no descriptor is closed, only marked.
    Errno::result(unsafe { libc::close_range(first, u32::MAX, flags) }).map(drop)
}

/// Gives every signal its default action and unblocks all: what a new program expects.
///
/// Rust's start-up code ignores `SIGPIPE`; that would be inherited.
///
/// # Errors
///
/// Those of `sigprocmask(2)`.
pub fn reset_signals() -> Result<()> {
    for number in 1..libc::SIGRTMIN() {
        let Ok(name) = Signal::try_from(number) else { continue };
        if matches!(name, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default action runs no code of ours.
        unsafe { signal(name, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Lets the signals that end other programs end this process too, by the exit code 128 + number: the first
/// process of a process namespace gets only those that it handles (`pid_namespaces(7)`). A program that
/// is executed afterwards starts with their default actions.
///
/// # Errors
///
/// Those of `sigaction(2)`.
pub fn end_on_signals() -> Result<()> {
    extern "C" fn end(number: libc::c_int) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(128 + number) }
    }
    for name in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGTERM,
    ] {
        // SAFETY: the handler only ends the process.
        unsafe { signal(name, SigHandler::Handler(end)) }?;
    }
    Ok(())
}

/// The number of a key or keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(i64);

impl Key {
    /// `KEY_SPEC_SESSION_KEYRING`: the session keyring of the calling process.
    pub const SESSION: Self = Self(-3);
}

/// Leaves the caller's session keyring for the one named `name`, which is made if there is none that
/// may be searched; without a name always for a new one (`keyctl(2)`).
///
/// # Errors
///
/// `ENOSYS` without key retention in the kernel, `EDQUOT` past the user's quota of keys.
pub fn join_session_keyring(name: Option<&CStr>) -> Result<Key> {
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: `name` is none, or ends with NUL and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
    Errno::result(result).map(Key)
}

/// What the kernel says of `key`: `type;uid;gid;permissions;description`, the IDs as seen from the
/// caller's user namespace.
///
/// # Errors
///
/// `EACCES` if the caller may not look at it.
pub fn describe_key(key: Key) -> Result<String> {
    // The longest name of a container and some numbers fit many times.
    let mut text = [0_u8; 512];
    let (place, room) = (text.as_mut_ptr(), text.len());
    // SAFETY: the kernel writes at most `room` bytes to `text`, which outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_DESCRIBE, key.0, place, room) };
    Errno::result(result)?;
    let text = CStr::from_bytes_until_nul(&text).map_err(|_too_long| Errno::ENAMETOOLONG)?;
    Ok(text.to_string_lossy().into_owned())
}

/// Sets who may do what with `key` (`keyctl_setperm(3)`).
///
/// # Errors
///
/// `EACCES` if it is another's.
pub fn set_key_permissions(key: Key, permissions: u32) -> Result<()> {
    // SAFETY: only numbers are passed.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key.0, permissions) };
    Errno::result(result).map(drop)
}

/// Joins the namespaces in `flags` of the process behind `pidfd` (`setns(2)`, Linux 5.8).
///
/// # Errors
///
/// `EPERM` without the capabilities, `ESRCH` if the process has ended, `EINVAL` for the user
/// namespace one is in already.
pub fn join_namespaces(pidfd: BorrowedFd<'_>, flags: CloneFlags) -> Result<()> {
    nix::sched::setns(pidfd, flags)
}

/// Takes charge of a descriptor that a message brought.
#[must_use]
pub fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel installed `fd` for this process when it received the message; it is
    // passed here once, straight from the control message.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets the NIS domain name of the UTS namespace (`setdomainname(2)`).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN` in the user namespace that owns it, `EINVAL` past 64 bytes.
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: the pointer and the length are those of `name`, which outlives the call.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// A copy of the descriptor with the given number, which may not be open at all; closed on exec.
///
/// # Errors
///
/// `EBADF` if it is not open.
pub fn duplicate_number(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: only numbers are passed; a number that is not open is refused.
    let copy = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the system call succeeded, so `copy` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Looks at the descriptor with the given number, which may not be open at all.
///
/// # Errors
///
/// `EBADF` if it is not open.
pub fn stat_number(fd: RawFd) -> Result<nix::sys::stat::FileStat> {
    // SAFETY: it is borrowed for one system call, which refuses a number that is not open.
    nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// The identity of the mount namespace that `namespace` stands for, which no other ever has while the
/// machine runs; its inode number goes to the next one as soon as it has ended.
///
/// # Errors
///
/// `ENOTTY` before Linux 6.11, `EINVAL` if it is a namespace of another kind.
pub fn mount_namespace_identity(namespace: BorrowedFd<'_>) -> Result<u64> {
    let mut identity = 0_u64;
    let fd = namespace.as_raw_fd();
    // SAFETY: NS_GET_MNTNS_ID writes one u64, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::NS_GET_MNTNS_ID, &raw mut identity) })?;
    Ok(identity)
}

/// Gives what the descriptor with the given number refers to to `uid`, and to `gid` if there is one.
///
/// # Errors
///
/// `EBADF` if it is not open, `EPERM` or `EINVAL` if it may not be given away.
pub fn chown_number(fd: RawFd, uid: nix::unistd::Uid, gid: Option<nix::unistd::Gid>) -> Result<()> {
    // SAFETY: it is borrowed for one system call, which refuses a number that is not open.
    nix::unistd::fchown(unsafe { BorrowedFd::borrow_raw(fd) }, Some(uid), gid)
}
