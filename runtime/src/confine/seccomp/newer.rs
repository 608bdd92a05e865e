//! Calls that are newer than a profile do not exist for it.
//!
//! libseccomp gives them the profile's default. A C library that gets `EPERM` for a call that it
//! wants to try first takes that for an answer, where `ENOSYS` would make it fall back to an older
//! one. So a few instructions go before the library's, as in runc; whatever they do not answer is
//! the library's to judge.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ERRNO,
    sock_filter,
};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall};

use super::arch::Target;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

const ENOSYS: u32 = libc::ENOSYS.unsigned_abs();

/// The instructions that answer for calls newer than every one that `profile` names.
///
/// None if its default does not refuse, or refuses in these words already.
pub(super) fn prologue(profile: &LinuxSeccomp, targets: &[Target]) -> Vec<sock_filter> {
    if !refuses(profile) {
        return Vec::new();
    }
    let newest = |target: &Target| {
        let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
        names.filter_map(|name| target.number(name)).max().map(|newest| (*target, newest))
    };
    targets.iter().filter_map(newest).flat_map(|(target, newest)| section(target, newest)).collect()
}

/// Whether the default says no in a way that a C library would take for an answer.
fn refuses(profile: &LinuxSeccomp) -> bool {
    match profile.default_action() {
        Action::ScmpActKill | Action::ScmpActKillThread | Action::ScmpActKillProcess => true,
        Action::ScmpActErrno => profile.default_errno_ret() != Some(ENOSYS),
        _ => false,
    }
}

/// Goes on behind its end unless a call of `target` is newer than `newest`.
///
/// Each section loads the architecture anew, so that x32 needs no care beyond its numbers.
fn section(target: Target, newest: u32) -> [sock_filter; 6] {
    [
        instruction(BPF_LD | BPF_W | BPF_ABS, ARCH, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, target.token, 0, 4),
        instruction(BPF_LD | BPF_W | BPF_ABS, NUMBER, 0, 0),
        instruction(BPF_JMP | BPF_JGT | BPF_K, newest, 0, 2),
        instruction(BPF_JMP | BPF_JGT | BPF_K, target.largest(), 1, 0),
        instruction(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS, 0, 0),
    ]
}

/// One instruction; a jump skips `yes` or `no` of those that follow.
#[expect(clippy::cast_possible_truncation, reason = "every operation of classic BPF has 8 bits")]
const fn instruction(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: yes, jf: no, k }
}
