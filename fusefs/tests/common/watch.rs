//! Every system call by which a server asks for or changes something on disk: counted, and one of them
//! refused if a test wants that.
//!
//! A seccomp filter in the server has each of its calls put to this process, which answers "go on" or
//! with an error. Nothing in what is tested knows of it, and no call can be forgotten.
//!
//! Source: `seccomp_unotify(2)`.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::unistd::Pid;

/// The calls that are put to us: number, name, whether it changes something on disk.
#[rustfmt::skip]
const CALLS: [(libc::c_long, &str, bool); 36] = [
    (libc::SYS_openat, "openat", false), // true with O_CREAT
    (libc::SYS_newfstatat, "newfstatat", false),
    (libc::SYS_fstat, "fstat", false),
    (libc::SYS_fstatfs, "fstatfs", false),
    (libc::SYS_statx, "statx", false),
    (libc::SYS_getdents64, "getdents64", false),
    (libc::SYS_readlinkat, "readlinkat", false),
    (libc::SYS_name_to_handle_at, "name_to_handle_at", false),
    (libc::SYS_lseek, "lseek", false),
    (libc::SYS_ioctl, "ioctl", false),
    (libc::SYS_pread64, "pread64", false),
    (libc::SYS_getxattr, "getxattr", false),
    (libc::SYS_lgetxattr, "lgetxattr", false),
    (libc::SYS_listxattr, "listxattr", false),
    (libc::SYS_llistxattr, "llistxattr", false),
    (libc::SYS_pwrite64, "pwrite64", true),
    (libc::SYS_copy_file_range, "copy_file_range", true),
    (libc::SYS_fallocate, "fallocate", true),
    (libc::SYS_ftruncate, "ftruncate", true),
    (libc::SYS_fsync, "fsync", true),
    (libc::SYS_fdatasync, "fdatasync", true),
    (libc::SYS_syncfs, "syncfs", true),
    (libc::SYS_mkdirat, "mkdirat", true),
    (libc::SYS_mknodat, "mknodat", true),
    (libc::SYS_symlinkat, "symlinkat", true),
    (libc::SYS_linkat, "linkat", true),
    (libc::SYS_unlinkat, "unlinkat", true),
    (libc::SYS_renameat, "renameat", true), // renameat2(2) without flags, to the C library
    (libc::SYS_renameat2, "renameat2", true),
    (libc::SYS_fchmodat, "fchmodat", true),
    (libc::SYS_fchownat, "fchownat", true),
    (libc::SYS_utimensat, "utimensat", true),
    (libc::SYS_setxattr, "setxattr", true),
    (libc::SYS_lsetxattr, "lsetxattr", true),
    (libc::SYS_removexattr, "removexattr", true),
    (libc::SYS_lremovexattr, "lremovexattr", true),
];

/// What threads that answer no request are called; theirs are not counted.
const BESIDES: [&str; 2] = ["rrun-awake\n", "rrun-complete\n"];

/// What is counted.
#[derive(Debug, Default)]
struct Book {
    /// The calls made since [`Watch::begin`].
    made: Vec<&'static str>,
    /// Which call to refuse, counted from 0 among those that it is about.
    fault: Option<Fault>,
    /// The call that was refused.
    refused: Option<&'static str>,
}

/// A call to refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// How many are let pass before.
    pub(crate) after: usize,
    /// With what.
    pub(crate) errno: Errno,
    /// Whether only those count that change something on disk.
    pub(crate) changes_only: bool,
}

/// What has happened between [`Watch::begin`] and [`Watch::end`].
#[derive(Debug)]
pub(crate) struct Seen {
    /// The calls that were made, by name.
    pub(crate) made: Vec<&'static str>,
    /// The one that was refused, if it came to that.
    pub(crate) refused: Option<&'static str>,
}

/// Answers for one server, until that ends.
#[derive(Debug)]
pub(crate) struct Watch {
    book: Arc<Mutex<Book>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Answers for the server `server`, in which [`put_calls_to_others`] returned `listener`.
    pub(crate) fn over(server: Pid, listener: RawFd) -> Self {
        let listener = taken_from(server, listener);
        let book = Arc::<Mutex<Book>>::default();
        let of_thread = Arc::clone(&book);
        let thread = thread::spawn(move || answer_all(&listener, &of_thread));
        Self { book, thread: Some(thread) }
    }

    /// From now on calls count, and `fault` is made to happen.
    pub(crate) fn begin(&self, fault: Option<Fault>) {
        *self.book.lock().unwrap() = Book { fault, ..Book::default() };
    }

    /// From now on all is well.
    pub(crate) fn end(&self) -> Seen {
        let Book { made, refused, .. } = std::mem::take(&mut *self.book.lock().unwrap());
        Seen { made, refused }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread ends with the server, which a failed test may have left behind.
        if let Some(thread) = self.thread.take()
            && !thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

impl Book {
    /// The errno to refuse the call with, if that is to be.
    fn note(&mut self, name: &'static str, changes: bool) -> Option<Errno> {
        self.made.push(name);
        let fault = self.fault.as_mut().filter(|fault| changes || !fault.changes_only)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        self.refused = Some(name);
        self.fault.take().map(|fault| fault.errno)
    }
}

/// Has the calls of this thread and of those that it starts put to whoever holds the returned descriptor.
pub(crate) fn put_calls_to_others() -> RawFd {
    let op = |code: u32, jt: usize, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: u8::try_from(jt).unwrap(),
        jf,
        k,
    };
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (at, (number, ..)) in CALLS.iter().enumerate() {
        // Those before the last jump over the rest and over "go on".
        let number = u32::try_from(*number).unwrap();
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, CALLS.len() - at, 0, number));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the program outlives the call, which copies it.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    RawFd::try_from(Errno::result(listener).unwrap()).unwrap()
}

/// A copy of a descriptor of another process.
fn taken_from(process: Pid, descriptor: RawFd) -> OwnedFd {
    // SAFETY: both calls take numbers only.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let process = owned(process);
    let raw = process.as_raw_fd();
    // SAFETY: see above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, raw, descriptor, 0) })
}

fn owned(returned: libc::c_long) -> OwnedFd {
    let raw = RawFd::try_from(Errno::result(returned).unwrap()).unwrap();
    // SAFETY: the kernel has just made this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Answers until nobody is left who could ask.
fn answer_all(listener: &OwnedFd, book: &Mutex<Book>) {
    let mut names: HashMap<u32, bool> = HashMap::new();
    while let Some(asked) = next(listener) {
        let call = CALLS.iter().find(|call| call.0 == libc::c_long::from(asked.data.nr)).unwrap();
        let creates = call.1 == "openat" && asked.data.args[2] & CREATES != 0;
        let counts = *names.entry(asked.pid).or_insert_with(|| answers_requests(asked.pid));
        let refused =
            counts.then(|| book.lock().unwrap().note(call.1, call.2 || creates)).flatten();
        answer(listener, asked.id, refused);
    }
}

/// What in the flags of openat(2) makes something.
const CREATES: u64 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;

fn answers_requests(thread: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
    !BESIDES.contains(&name.as_str())
}

fn next(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    let raw = listener.as_raw_fd();
    loop {
        let mut waiting = libc::pollfd { fd: raw, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure is read and written.
        let ready = unsafe { libc::poll(&raw mut waiting, 1, -1) };
        if ready > 0 && waiting.revents & libc::POLLIN == 0 {
            return None; // the last process with the filter has ended
        }
        let mut asked = std::mem::MaybeUninit::<libc::seccomp_notif>::zeroed();
        // SAFETY: the kernel writes one structure, which must be zero before.
        let done = unsafe { libc::ioctl(raw, libc::SECCOMP_IOCTL_NOTIF_RECV, asked.as_mut_ptr()) };
        if done == 0 {
            // SAFETY: the kernel has filled it, and zeros were valid too.
            return Some(unsafe { asked.assume_init() });
        }
        // `ENOENT`: whoever asked was killed.
        assert!(matches!(Errno::last(), Errno::ENOENT | Errno::EINTR), "{}", Errno::last());
    }
}

fn answer(listener: &OwnedFd, id: u64, refused: Option<Errno>) {
    let go_on = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap();
    let mut answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: refused.map_or(0, |errno| -(errno as i32)),
        flags: if refused.is_some() { 0 } else { go_on },
    };
    // SAFETY: the kernel reads one structure. That somebody was killed meanwhile is no matter.
    unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer);
    }
}
