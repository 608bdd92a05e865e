//! Seccomp: the profile of a config becomes one BPF program.
//!
//! It is compiled by the parent, which may allocate and fail with a message, and installed by the
//! container's process with one system call.

mod arch;
mod bpf;

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use libc::sock_filter;
use nix::errno::Errno;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompFilterFlag as Flag, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use self::arch::Target;
use self::bpf::{Answer, Compare, Condition, Section, Verdict, X32_BIT};
use crate::sys::filter;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// The largest value that an action can carry (`MAX_ERRNO`); the kernel cuts off what is above.
const MAX_ERRNO: u32 = 4095;

const ENOSYS: Answer = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

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
    /// Puts the program on the calling thread, for ever.
    ///
    /// # Errors
    ///
    /// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN` in the user namespace, `EINVAL` for a flag
    /// or a kernel that does not have it.
    pub fn install(&self) -> Result<()> {
        filter::install_seccomp(&self.filters, self.flags).map_err(|errno| {
            let cure = match errno {
                Errno::EACCES => ": it needs noNewPrivileges or CAP_SYS_ADMIN",
                _ => "",
            };
            anyhow!("install the seccomp filter: {errno}{cure}")
        })
    }
}

/// Compiles `linux.seccomp`.
///
/// Names of system calls that nobody knows are left out, since a profile serves many kernels. Where the
/// default is to refuse, calls newer than the whole profile fail with `ENOSYS` instead, so that C
/// libraries fall back to older ones (as runc does). An architecture that the profile does not name
/// gets its thread killed.
///
/// # Errors
///
/// What is not supported or makes no sense, with its JSON pointer.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program> {
    refuse_listeners(profile)?;
    let default = answer(profile.default_action(), profile.default_errno_ret())
        .context("/linux/seccomp/defaultAction")?;
    let none = Vec::new();
    let rules = rules(profile.syscalls().as_ref().unwrap_or(&none))?;
    let targets = targets(profile.architectures().as_ref().unwrap_or(&Vec::new()))?;
    let filters = bpf::program(&sections(&targets, &rules, default));
    let length = filters.len();
    ensure!(
        length <= MAX_INSTRUCTIONS,
        "/linux/seccomp: {length} instructions, the kernel takes {MAX_INSTRUCTIONS}"
    );
    Ok(Program { filters, flags: flags(profile)? })
}

fn refuse_listeners(profile: &LinuxSeccomp) -> Result<()> {
    let path = profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    ensure!(!path, "/linux/seccomp/listenerPath is not supported yet");
    let metadata = profile.listener_metadata().as_ref().is_some_and(|text| !text.is_empty());
    ensure!(!metadata, "/linux/seccomp/listenerMetadata is not supported yet");
    Ok(())
}

fn answer(action: Action, errno: Option<u32>) -> Result<Answer> {
    const EPERM: u32 = 1;
    let carries = matches!(action, Action::ScmpActErrno | Action::ScmpActTrace);
    ensure!(carries || errno.is_none(), "{action} takes no errno");
    let value = errno.unwrap_or(EPERM);
    ensure!(value <= MAX_ERRNO, "errno {value} is above {MAX_ERRNO}");
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | value,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | value,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Action::ScmpActNotify => bail!("SCMP_ACT_NOTIFY is not supported yet"),
    })
}

/// The native architecture and those of the profile, each once.
fn targets(names: &[Arch]) -> Result<Vec<Target>> {
    let mut targets = vec![Target::native().context("/linux/seccomp")?];
    for (at, name) in names.iter().enumerate() {
        let target = Target::named(*name)
            .with_context(|| format!("/linux/seccomp/architectures/{at}: {name}"))?;
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// One element of `syscalls`, checked.
struct Rule<'a> {
    names: &'a [String],
    /// All conditions of one list must hold, any list will do.
    alternatives: Vec<Vec<Condition>>,
    answer: Answer,
}

impl<'a> Rule<'a> {
    fn new(call: &'a LinuxSyscall) -> Result<Self> {
        let answer = answer(call.action(), call.errno_ret())?;
        Ok(Self { names: call.names(), alternatives: alternatives(call)?, answer })
    }

    fn is_unconditional(&self) -> bool {
        self.alternatives.iter().any(Vec::is_empty)
    }
}

fn rules(calls: &[LinuxSyscall]) -> Result<Vec<Rule<'_>>> {
    let at = |at| format!("/linux/seccomp/syscalls/{at}");
    let calls = calls.iter().enumerate();
    calls.map(|(index, call)| Rule::new(call).with_context(|| at(index))).collect()
}

/// A filter can look at each argument once. Where the profile names one twice, each condition stands
/// for itself, as in runc.
fn alternatives(call: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let none = Vec::new();
    let arguments = call.args().as_ref().unwrap_or(&none);
    let conditions = arguments
        .iter()
        .enumerate()
        .map(|(at, argument)| condition(argument).with_context(|| format!("args/{at}")))
        .collect::<Result<Vec<_>>>()?;
    let indices = arguments.iter().map(LinuxSeccompArg::index).collect::<HashSet<_>>();
    Ok(if indices.len() == arguments.len() {
        vec![conditions]
    } else {
        conditions.into_iter().map(|condition| vec![condition]).collect()
    })
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition> {
    const ARGUMENTS: usize = 6;
    let (index, value) = (argument.index(), argument.value());
    ensure!(index < ARGUMENTS, "index {index}: a system call has six arguments, 0 to 5");
    let (compare, value) = match argument.op() {
        Operator::ScmpCmpNe => (Compare::NotEqual, value),
        Operator::ScmpCmpLt => (Compare::Less, value),
        Operator::ScmpCmpLe => (Compare::LessOrEqual, value),
        Operator::ScmpCmpEq => (Compare::Equal, value),
        Operator::ScmpCmpGe => (Compare::GreaterOrEqual, value),
        Operator::ScmpCmpGt => (Compare::Greater, value),
        Operator::ScmpCmpMaskedEq => {
            (Compare::Masked(value), argument.value_two().unwrap_or_default())
        }
    };
    Ok(Condition { argument: u8::try_from(index)?, compare, value, half: false })
}

/// One section per token; x32 is a part of that of x86-64.
fn sections(targets: &[Target], rules: &[Rule<'_>], default: Answer) -> Vec<Section> {
    let x32 = targets.iter().find(|target| target.is_x32());
    let section = |target: &Target| {
        let mut ranges = ranges(*target, rules, default);
        if target.is_x86_64() {
            let foreign = x32.map(|x32| self::ranges(*x32, rules, default));
            let kill = || vec![(0, plain(libc::SECCOMP_RET_KILL_THREAD))];
            let foreign = foreign.unwrap_or_else(kill).into_iter();
            ranges.extend(foreign.map(|(first, verdict)| (first | X32_BIT, verdict)));
            // The number -1 is no call: a tracer has put it there to skip one.
            ranges.push((u32::MAX, plain(default)));
        }
        Section { token: target.token, ranges }
    };
    targets.iter().filter(|target| !target.is_x32()).map(section).collect()
}

fn plain(otherwise: Answer) -> Verdict {
    Verdict { alternatives: Vec::new(), otherwise }
}

/// What each number gets, from 0 on without a gap.
fn ranges(target: Target, rules: &[Rule<'_>], default: Answer) -> Vec<bpf::Range> {
    let Calls { known, newest } = calls(target, rules, default);
    let mut ranges = Vec::<bpf::Range>::new();
    let mut add = |first: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|(_first, last)| *last != verdict) {
            ranges.push((first, verdict));
        }
    };
    let mut end = 0;
    for (number, call) in known {
        if number > end {
            add(end, plain(default));
        }
        add(number, call.verdict(default));
        end = number + 1;
    }
    add(end, plain(default));
    if let Some(newest) = newest.filter(|_| is_refusal(default)) {
        // The gap up to the newest call, which may itself have the default, is there already.
        ranges.retain(|(first, _verdict)| *first <= newest);
        ranges.push((newest + 1, plain(ENOSYS)));
    }
    ranges
}

/// Whether the default says no in a way that a C library would take for an answer.
fn is_refusal(default: Answer) -> bool {
    let action = default & libc::SECCOMP_RET_ACTION_FULL;
    let kills = [libc::SECCOMP_RET_KILL_THREAD, libc::SECCOMP_RET_KILL_PROCESS];
    kills.contains(&action) || action == libc::SECCOMP_RET_ERRNO && default != ENOSYS
}

/// What the rules say about the calls of one architecture.
#[derive(Default)]
struct Calls {
    known: BTreeMap<u32, Call>,
    /// The largest number of a call that a rule names, whatever it says.
    newest: Option<u32>,
}

/// What the rules say about one call.
#[derive(Default)]
struct Call {
    /// From the first rule without conditions, which makes all others pointless.
    always: Option<Answer>,
    sometimes: Vec<(Vec<Condition>, Answer)>,
}

impl Call {
    fn verdict(self, default: Answer) -> Verdict {
        match self.always {
            Some(answer) => plain(answer),
            None => Verdict { alternatives: self.sometimes, otherwise: default },
        }
    }

    fn add(&mut self, conditions: Vec<Condition>, answer: Answer) {
        if conditions.is_empty() {
            self.always.get_or_insert(answer);
        } else {
            self.sometimes.push((conditions, answer));
        }
    }
}

/// Rules that say what the default says are left out, as in runc.
fn calls(target: Target, rules: &[Rule<'_>], default: Answer) -> Calls {
    let mut calls = Calls::default();
    let seen = |condition: &Condition| Condition { half: target.is_half(), ..*condition };
    for rule in rules {
        for name in rule.names {
            let Some(number) = target.number(name) else { continue };
            calls.newest = calls.newest.max(Some(number));
            if rule.answer == default {
                continue;
            }
            for conditions in &rule.alternatives {
                let conditions = conditions.iter().map(seen).collect();
                calls.known.entry(number).or_default().add(conditions, rule.answer);
            }
        }
        let multiplexed = rule.answer != default && rule.is_unconditional();
        for name in rule.names.iter().filter(|_| multiplexed) {
            let Some((through, selector)) = target.multiplexed(name) else { continue };
            calls.known.entry(through).or_default().add(vec![selects(selector)], rule.answer);
        }
    }
    calls
}

/// The condition that a call through `socketcall` or `ipc` is the one meant. Its arguments lie in memory,
/// where a filter cannot look: rules with conditions do not reach it.
fn selects(selector: u64) -> Condition {
    Condition { argument: 0, compare: Compare::Equal, value: selector, half: true }
}

fn flags(profile: &LinuxSeccomp) -> Result<u64> {
    let Some(names) = profile.flags() else {
        // As runc: the mitigation would slow everything down, and the kernel leaves it off by default
        // since 5.16.
        return Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    };
    names.iter().enumerate().try_fold(0, |flags, (at, flag)| {
        let bit = match flag {
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            Flag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                bail!("/linux/seccomp/flags/{at}: {flag} makes sense only with SCMP_ACT_NOTIFY")
            }
        };
        Ok(flags | bit)
    })
}

#[cfg(test)]
mod tests;
