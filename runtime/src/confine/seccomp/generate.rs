//! From a profile to instructions: libseccomp's work, apart from the few of [`newer`].

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read as _, Seek as _};

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use libc::sock_filter;
use libseccomp::error::{SeccompErrno, SeccompError};
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::arch::Target;
use super::{from_bytes, newer};

/// `SCMP_FLTATR_CTL_OPTIMIZE`: calls are found by a binary search. The kernel tries every call when
/// it takes a filter, so that this saves 0.4 ms per container with docker's default profile.
const BINARY_TREE: u32 = 2;

/// The largest errno that libseccomp takes.
const MAX_ERRNO: u32 = 4094;

/// The instructions of `profile`.
///
/// # Errors
///
/// What is not supported or makes no sense, with its JSON pointer.
pub(super) fn generate(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>> {
    let targets = targets(profile.architectures().as_deref().unwrap_or_default())?;
    let default = action(profile.default_action(), profile.default_errno_ret())
        .and_then(|action| Ok((action, ScmpFilterContext::new(action)?)));
    let (default, mut context) = default.context("/linux/seccomp/defaultAction")?;
    context.set_ctl_optimize(BINARY_TREE).context("/linux/seccomp: ask for a binary tree")?;
    // The library has put the native one there.
    for target in &targets[1..] {
        context.add_arch(target.arch).map_err(|error| not_together(*target, &error))?;
    }
    for (at, call) in profile.syscalls().iter().flatten().enumerate() {
        add(&mut context, call, default)
            .with_context(|| format!("/linux/seccomp/syscalls/{at}"))?;
    }
    let mut program = newer::prologue(profile, &targets);
    program.extend(export(&context).context("/linux/seccomp")?);
    Ok(program)
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

fn not_together(target: Target, error: &SeccompError) -> Error {
    let arch = target.arch;
    match error.errno() {
        Some(SeccompErrno::EDOM) => anyhow!(
            "/linux/seccomp/architectures: {arch:?} has another byte order than this machine: \
             remove it"
        ),
        _ => anyhow!("/linux/seccomp/architectures: {arch:?}: {error}"),
    }
}

fn action(action: Action, errno: Option<u32>) -> Result<ScmpAction> {
    const EPERM: u32 = 1;
    let carries = matches!(action, Action::ScmpActErrno | Action::ScmpActTrace);
    ensure!(carries || errno.is_none(), "{action} takes no errno");
    let value = errno.unwrap_or(EPERM);
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => {
            ensure!(value <= MAX_ERRNO, "errno {value} is above {MAX_ERRNO}");
            ScmpAction::Errno(value.cast_signed())
        }
        Action::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(value).context("a tracer's message has 16 bits")?)
        }
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActNotify => ScmpAction::Notify,
    })
}

/// Adds one element of `syscalls`.
///
/// Names that nobody knows are left out, since a profile serves many kernels, and so are rules that
/// say what the default says, as in runc.
fn add(context: &mut ScmpFilterContext, call: &LinuxSyscall, default: ScmpAction) -> Result<()> {
    let action = action(call.action(), call.errno_ret())?;
    let alternatives = alternatives(call)?;
    if action == default {
        return Ok(());
    }
    for name in call.names() {
        let Ok(number) = ScmpSyscall::from_name(name) else { continue };
        for conditions in &alternatives {
            context
                .add_rule_conditional(action, number, conditions)
                .map_err(|error| contradiction(name, &error))?;
        }
    }
    Ok(())
}

fn contradiction(name: &str, error: &SeccompError) -> Error {
    match error.errno() {
        Some(SeccompErrno::EEXIST) => anyhow!(
            "{name}: another rule gives the same arguments another action: remove one of them"
        ),
        _ => anyhow!("{name}: {error}"),
    }
}

/// All conditions of one list must hold, any list will do.
///
/// A rule can look at each argument once. Where the profile names one twice, each condition stands
/// for itself, as in runc.
fn alternatives(call: &LinuxSyscall) -> Result<Vec<Vec<ScmpArgCompare>>> {
    let arguments = call.args().as_deref().unwrap_or_default();
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

fn condition(argument: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    const ARGUMENTS: usize = 6;
    let (index, value) = (argument.index(), argument.value());
    ensure!(index < ARGUMENTS, "index {index}: a system call has six arguments, 0 to 5");
    let (operator, value) = match argument.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        Operator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(value), argument.value_two().unwrap_or_default())
        }
    };
    Ok(ScmpArgCompare::new(u32::try_from(index)?, operator, value))
}

/// The library gives its program to a file only.
fn export(context: &ScmpFilterContext) -> Result<Vec<sock_filter>> {
    let memory = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).context("memfd_create")?;
    let mut file = File::from(memory);
    context.export_bpf(&file).context("generate the filter")?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("read the filter")?;
    from_bytes(&bytes).context("libseccomp gave a piece of an instruction")
}
