//! Seccomp: the profile of a config becomes one BPF program.
//!
//! It is compiled by the parent, which may allocate and fail with a message, and installed by the
//! container's process with one system call.
//!
//! ```text
//! profile ──► cache: compiled before? ──► Program ──► seccomp(2)
//!                  └──► generate: libseccomp's rules, behind newer's few instructions
//! ```

mod arch;
mod cache;
mod generate;
mod newer;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use libc::sock_filter;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag as Flag};

use crate::process::listener::asks;
use crate::sys::filter;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` of `linux/seccomp.h` (Linux 5.19).
const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// A compiled profile.
#[derive(Clone)]
pub struct Program {
    filters: Vec<sock_filter>,
    flags: u64,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({} instructions, flags {:#x})", self.filters.len(), self.flags)
    }
}

impl Program {
    /// Whether an agent is to answer for some of the calls.
    #[must_use]
    pub fn asks_agent(&self) -> bool {
        self.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }

    /// Puts the program on the calling thread, for ever; returns where an agent is to answer for calls,
    /// if the profile has any for it.
    ///
    /// # Errors
    ///
    /// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN` in the user namespace, `EINVAL` for a flag
    /// or a kernel that does not have it.
    pub fn install(&self) -> Result<Option<OwnedFd>> {
        filter::install_seccomp(&self.filters, self.flags).map_err(|errno| {
            let cure = match errno {
                Errno::EACCES => ": it needs noNewPrivileges or CAP_SYS_ADMIN",
                _ => "",
            };
            anyhow!("install the seccomp filter: {errno}{cure}")
        })
    }
}

/// Compiles `linux.seccomp`, or finds it compiled in the directory `cache`, which is made for it.
///
/// Names of system calls that nobody knows are left out, since a profile serves many kernels. Where the
/// default is to refuse, calls newer than the whole profile fail with `ENOSYS` instead, so that C
/// libraries fall back to older ones (as runc does). An architecture that the profile does not name
/// gets its thread killed.
///
/// # Errors
///
/// What is not supported or makes no sense, with its JSON pointer. That the program cannot be kept
/// is none.
pub fn compile(profile: &LinuxSeccomp, cache: Option<&Path>) -> Result<Program> {
    let flags = flags(profile);
    log::debug!("seccomp filter flags: {flags}");
    let entry = cache.map(|directory| cache::Entry::of(directory, profile)).transpose()?;
    if let Some(filters) = entry.as_ref().and_then(cache::Entry::read) {
        return Ok(Program { filters, flags });
    }
    let filters = generate::generate(profile)?;
    let length = filters.len();
    ensure!(
        length <= MAX_INSTRUCTIONS,
        "/linux/seccomp: {length} instructions, the kernel takes {MAX_INSTRUCTIONS}"
    );
    if let Some(Err(error)) = entry.map(|entry| entry.keep(&filters)) {
        log::debug!("the compiled seccomp profile is not kept: {error:#}");
    }
    Ok(Program { filters, flags })
}

/// Refuses names of system calls that nobody knows, where the annotations want that.
///
/// Source: crun(1), `run.oci.seccomp_fail_unknown_syscall`.
///
/// # Errors
///
/// The first such name, with its JSON pointer.
pub fn refuse_unknown(profile: &LinuxSeccomp, annotations: &HashMap<String, String>) -> Result<()> {
    const KEY: &str = "run.oci.seccomp_fail_unknown_syscall";
    if annotations.get(KEY).is_none_or(|value| value == "0") {
        return Ok(());
    }
    for (rule, call) in profile.syscalls().iter().flatten().enumerate() {
        let mut names = call.names().iter().enumerate();
        let unknown = names.find(|(_, name)| libseccomp::ScmpSyscall::from_name(name).is_err());
        if let Some((at, name)) = unknown {
            let pointer = format!("/linux/seccomp/syscalls/{rule}/names/{at}");
            bail!(
                "{pointer}: no system call is called {name:?}, and annotation {KEY} refuses that"
            );
        }
    }
    Ok(())
}

/// The flags of `seccomp(2)`. The library would keep them as attributes for its own installing only:
/// they are no part of the program that it exports.
fn flags(profile: &LinuxSeccomp) -> u64 {
    let bit = |flag: &Flag| match flag {
        Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        Flag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        Flag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
    };
    let mut flags = match profile.flags() {
        Some(names) => names.iter().fold(0, |flags, flag| flags | bit(flag)),
        // As runc: the mitigation would slow everything down, and the kernel leaves it off by default
        // since 5.16.
        None => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    };
    if asks(profile) {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        if flags & libc::SECCOMP_FILTER_FLAG_TSYNC != 0 {
            // Both return a number: a thread and a descriptor.
            flags |= libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
        }
    }
    flags
}

/// Instructions from a file; none if the last one is cut off.
fn from_bytes(bytes: &[u8]) -> Option<Vec<sock_filter>> {
    let instruction = |[c, d, jt, jf, k @ ..]: &[u8; 8]| sock_filter {
        code: u16::from_ne_bytes([*c, *d]),
        jt: *jt,
        jf: *jf,
        k: u32::from_ne_bytes(*k),
    };
    let (whole, rest) = bytes.as_chunks();
    rest.is_empty().then(|| whole.iter().map(instruction).collect())
}

/// Instructions as `struct sock_filter` has them in memory.
fn to_bytes(program: &[sock_filter]) -> Vec<u8> {
    let bytes = |sock_filter { code, jt, jf, k }: &sock_filter| {
        let ([c, d], [k, l, m, n]) = (code.to_ne_bytes(), k.to_ne_bytes());
        [c, d, *jt, *jf, k, l, m, n]
    };
    program.iter().flat_map(bytes).collect()
}

#[cfg(test)]
mod tests;
