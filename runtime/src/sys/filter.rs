//! What a process may still do: capabilities, seccomp filters, device programs.

#![allow(unsafe_code, reason = "the one place for calls that no library wraps")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::Result;
use nix::errno::Errno;

/// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The three sets of capset(2), one bit per capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// Those in force.
    pub effective: u64,
    /// Those that may be put in force.
    pub permitted: u64,
    /// Those that execve(2) keeps for a file that asks for them.
    pub inheritable: u64,
}

/// Reads the calling thread's sets.
///
/// # Errors
///
/// None that a kernel since 2.6.26 gives.
pub fn capget() -> Result<CapabilitySets> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut halves = [CapabilityHalf::default(); 2];
    // SAFETY: version 3 reads one header and writes two halves, which both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    Errno::result(done)?;
    let join = |half: fn(&CapabilityHalf) -> u32| {
        u64::from(half(&halves[0])) | u64::from(half(&halves[1])) << 32
    };
    Ok(CapabilitySets {
        effective: join(|half| half.effective),
        permitted: join(|half| half.permitted),
        inheritable: join(|half| half.inheritable),
    })
}

/// Replaces the calling thread's sets.
///
/// # Errors
///
/// `EPERM` for a permitted capability that the thread lacks, an effective one that is not permitted,
/// or an inheritable one outside of the bounding set.
pub fn capset(sets: &CapabilitySets) -> Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let half = |shift: u32| CapabilityHalf {
        effective: low(sets.effective >> shift),
        permitted: low(sets.permitted >> shift),
        inheritable: low(sets.inheritable >> shift),
    };
    let halves = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two halves, which both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    Errno::result(done).map(drop)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn low(bits: u64) -> u32 {
    bits as u32
}

fn prctl(option: i32, first: u64, second: u64) -> Result<i32> {
    // SAFETY: the callers in this file pass options that take numbers only, no pointers.
    Errno::result(unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) })
}

/// Whether capability number `capability` is in the bounding set; none if the kernel has no such one.
#[must_use]
pub fn in_bounding_set(capability: u8) -> Option<bool> {
    prctl(libc::PR_CAPBSET_READ, u64::from(capability), 0).ok().map(|value| value != 0)
}

/// Takes `capability` out of the bounding set, for ever.
///
/// # Errors
///
/// `EPERM` without `CAP_SETPCAP`, `EINVAL` for a capability that the kernel does not know.
pub fn drop_from_bounding_set(capability: u8) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0).map(drop)
}

/// Empties the ambient set.
///
/// # Errors
///
/// `EINVAL` before Linux 4.3.
pub fn clear_ambient_set() -> Result<()> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs();
    prctl(libc::PR_CAP_AMBIENT, u64::from(clear), 0).map(drop)
}

/// Puts `capability` into the ambient set.
///
/// # Errors
///
/// `EPERM` if it is not permitted and inheritable.
pub fn raise_in_ambient_set(capability: u8) -> Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE.unsigned_abs();
    prctl(libc::PR_CAP_AMBIENT, u64::from(raise), u64::from(capability)).map(drop)
}

/// Whether the file carries capabilities of its own (`security.capability`).
#[must_use]
pub fn has_file_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let name = c"security.capability";
    // SAFETY: both strings end with NUL; a size of 0 asks for the length and writes nothing.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Puts a seccomp filter on the calling thread, for ever.
///
/// `flags` are those of `SECCOMP_SET_MODE_FILTER`; with `SECCOMP_FILTER_FLAG_NEW_LISTENER` the
/// descriptor on which an agent answers for calls is returned.
///
/// # Errors
///
/// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`, `EINVAL` for a filter that the kernel does not
/// take, an unknown flag, or a kernel without filters; `ENOMEM` for too many instructions.
pub fn install_seccomp(filters: &[libc::sock_filter], flags: u64) -> Result<Option<OwnedFd>> {
    let len = u16::try_from(filters.len()).map_err(|_too_long| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: filters.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` describes a slice that outlives the call; the kernel copies it and does not
    // write through `filter`.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    let done = Errno::result(done)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(done).map_err(|_no_descriptor| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// One instruction of eBPF.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BpfInstruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high ones.
    pub registers: u8,
    /// Offset of a jump or a load.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of one cgroup are all asked, and all must agree.
const BPF_F_ALLOW_MULTI: u32 = 2;
/// The program takes the place of another at once (Linux 5.6).
const BPF_F_REPLACE: u32 = 4;
/// `BPF_CGROUP_MAX_PROGS`: programs that one cgroup can have.
const MAX_PROGRAMS: usize = 64;

/// `union bpf_attr` as far as `BPF_PROG_LOAD` reads it.
#[repr(C)]
struct BpfLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// `union bpf_attr` as far as `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` read it.
#[repr(C)]
#[derive(Default)]
struct BpfAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

/// `union bpf_attr` as far as `BPF_PROG_QUERY` reads it, and writes `count`.
#[repr(C)]
struct BpfQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

/// `union bpf_attr` as far as `BPF_PROG_GET_FD_BY_ID` reads it.
#[repr(C)]
struct BpfGetById {
    id: u32,
    next: u32,
    open_flags: u32,
}

fn bpf<T>(command: i32, attributes: &mut T) -> Result<i64> {
    // SAFETY: `attributes` is one of the structures above, which outlives the call, with its true
    // size; the pointers in it are to memory of the said length that the callers keep.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    Errno::result(done)
}

/// A call that makes a descriptor.
fn bpf_open<T>(command: i32, attributes: &mut T) -> Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attributes)?).map_err(|_no_descriptor| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// Loads a program that decides about device access and attaches it to the cgroup `directory`.
///
/// # Errors
///
/// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`) in the first user namespace,
/// `EINVAL` for a program that the verifier refuses or a kernel without `CONFIG_CGROUP_BPF`.
pub fn attach_device_program(directory: impl AsFd, program: &[BpfInstruction]) -> Result<()> {
    attach(&directory, &load(program)?, None)
}

/// Loads a program that decides about device access and attaches it to the cgroup `directory` in place of
/// those that are there. At no moment is there none.
///
/// # Errors
///
/// As [`attach_device_program`].
pub fn replace_device_programs(directory: impl AsFd, program: &[BpfInstruction]) -> Result<()> {
    let loaded = load(program)?;
    let old = attached(&directory)?;
    if let [only] = &old[..] {
        match attach(&directory, &loaded, Some(only)) {
            // A kernel before 5.6, or one that is not attached with our flags.
            Err(Errno::EINVAL) => {}
            replaced => return replaced,
        }
    }
    attach(&directory, &loaded, None)?;
    for program in old {
        let mut detach = BpfAttach {
            target: number(&directory),
            program: number(&program),
            attach_type: BPF_CGROUP_DEVICE,
            ..BpfAttach::default()
        };
        bpf(BPF_PROG_DETACH, &mut detach)?;
    }
    Ok(())
}

fn load(program: &[BpfInstruction]) -> Result<OwnedFd> {
    let mut load = BpfLoad {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_too_long| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    bpf_open(BPF_PROG_LOAD, &mut load)
}

fn attach(directory: impl AsFd, program: &OwnedFd, replaced: Option<&OwnedFd>) -> Result<()> {
    let flags = if replaced.is_some() { BPF_F_REPLACE } else { 0 };
    let mut attach = BpfAttach {
        target: number(directory),
        program: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI | flags,
        replaced: replaced.map_or(0, number),
    };
    bpf(BPF_PROG_ATTACH, &mut attach).map(drop)
}

/// The programs of this kind on the cgroup itself.
fn attached(directory: impl AsFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut query = BpfQuery {
        target: number(directory),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: u32::try_from(ids.len()).map_err(|_too_long| Errno::E2BIG)?,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut query)?;
    let count = usize::try_from(query.count).unwrap_or_default().min(ids.len());
    let open = |id: &u32| {
        bpf_open(BPF_PROG_GET_FD_BY_ID, &mut BpfGetById { id: *id, next: 0, open_flags: 0 })
    };
    ids[..count].iter().map(open).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    /// Runs `body` in a forked child, where it may give up what it cannot get back.
    pub(crate) fn in_child(body: impl FnOnce()) {
        // SAFETY: tests run one to a process; the other thread of the harness only waits for this one
        // and holds no lock that the child takes.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
                // SAFETY: ends the process; nothing of the harness may run in it.
                unsafe { libc::_exit(if passed { 0 } else { 1 }) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
    }
}
