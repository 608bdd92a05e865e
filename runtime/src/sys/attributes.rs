//! How a process is scheduled, where its memory lies, what it takes itself for.

#![allow(unsafe_code, reason = "the one place for calls that no library wraps")]

use nix::Result;
use nix::errno::Errno;

/// `struct sched_attr` of `linux/sched/types.h`, in its second form (Linux 5.3, 56 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// Bytes of this structure; set by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_OTHER` and so on.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// 1 to 99 for `SCHED_FIFO` and `SCHED_RR`, else 0.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
    /// The least utilisation that the processor's speed is chosen for.
    pub least_utilisation: u32,
    /// The most.
    pub most_utilisation: u32,
}

/// Sets how the calling thread is scheduled (`sched_setattr(2)`).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_NICE` in the first user namespace, for more than the limits allow; `EINVAL`
/// or `EOPNOTSUPP` for what this kernel does not have; `EBUSY` if no time is left for a deadline.
pub fn set_scheduler(attributes: SchedulerAttributes) -> Result<()> {
    const SIZE: u32 = 56;
    let attributes = SchedulerAttributes { size: SIZE, ..attributes };
    // SAFETY: the kernel reads `size` bytes, as many as the structure has, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(done).map(drop)
}

/// Sets the class and priority of the calling thread's input and output (`ioprio_set(2)`).
///
/// # Errors
///
/// `EPERM` for the real-time class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE` in the first user
/// namespace.
pub fn set_io_priority(value: u32) -> Result<()> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: only numbers are passed.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    Errno::result(done).map(drop)
}

/// Lets the calling thread run on the processors of `mask` alone, one bit each (`sched_setaffinity(2)`).
///
/// # Errors
///
/// `EINVAL` if none of them is there and allowed by the cgroup.
pub fn set_affinity(mask: &[u64]) -> Result<()> {
    // SAFETY: the length is that of the slice, which outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) };
    Errno::result(done).map(drop)
}

/// Sets from which memory nodes the calling thread and its children get memory (`set_mempolicy(2)`);
/// `nodes` has one bit for each.
///
/// # Errors
///
/// `EINVAL` for nodes that are not there, or a mode or flag that this kernel does not have; `ENOSYS`
/// without `CONFIG_NUMA`.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<()> {
    // The kernel looks at one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { size_of_val(nodes) * 8 + 1 };
    let place = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: none, or as many whole words as `bits` less one stands for, which outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, place, bits) };
    Errno::result(done).map(drop)
}

/// Sets what kind of Linux the calling thread takes itself to run on (`personality(2)`).
///
/// # Errors
///
/// None that the kernel gives for the kinds that runtime-spec has.
pub fn set_personality(kind: u32) -> Result<()> {
    // SAFETY: only a number is passed.
    Errno::result(unsafe { libc::personality(kind.into()) }).map(drop)
}
