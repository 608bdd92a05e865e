//! Resource limits of a process.

use anyhow::{Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType as Type};

/// One limit, ready to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    resource: Resource,
    soft: u64,
    hard: u64,
}

/// Checks `process.rlimits`.
///
/// # Errors
///
/// A soft limit above the hard one, or a limit named twice, with the JSON pointer.
pub fn resolve(wanted: &[PosixRlimit]) -> Result<Vec<Rlimit>> {
    let mut limits = Vec::<Rlimit>::with_capacity(wanted.len());
    for (at, limit) in wanted.iter().enumerate() {
        let (name, resource) = (limit.typ(), resource(limit.typ()));
        if limit.soft() > limit.hard() {
            let (soft, hard) = (limit.soft(), limit.hard());
            bail!(
                "/process/rlimits/{at}: {name}: the soft limit {soft} is above the hard one, {hard}"
            );
        }
        if limits.iter().any(|earlier| earlier.resource == resource) {
            bail!("/process/rlimits/{at}: {name} is there twice");
        }
        limits.push(Rlimit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(limits)
}

/// Sets `limits` for the calling process. Those not named are left alone.
///
/// # Errors
///
/// `EPERM` for a hard limit above the present one without `CAP_SYS_RESOURCE` in the first user
/// namespace, or `RLIMIT_NOFILE` above `fs.nr_open`.
pub fn apply(limits: &[Rlimit]) -> Result<()> {
    limits.iter().try_for_each(|limit| {
        setrlimit(limit.resource, limit.soft, limit.hard).map_err(|errno| refusal(limit, errno))
    })
}

fn refusal(limit: &Rlimit, errno: Errno) -> anyhow::Error {
    let Rlimit { resource, soft, hard } = *limit;
    let present =
        getrlimit(resource).map_or_else(|_| "?".to_owned(), |(_soft, hard)| hard.to_string());
    match errno {
        Errno::EPERM => anyhow!(
            "set {resource:?} to {soft}:{hard}: {errno}: only CAP_SYS_RESOURCE on the host raises a \
             hard limit (cure: ask for at most {present})"
        ),
        _ => anyhow!("set {resource:?} to {soft}:{hard}: {errno}"),
    }
}

fn resource(name: Type) -> Resource {
    match name {
        Type::RlimitCpu => Resource::RLIMIT_CPU,
        Type::RlimitFsize => Resource::RLIMIT_FSIZE,
        Type::RlimitData => Resource::RLIMIT_DATA,
        Type::RlimitStack => Resource::RLIMIT_STACK,
        Type::RlimitCore => Resource::RLIMIT_CORE,
        Type::RlimitRss => Resource::RLIMIT_RSS,
        Type::RlimitNproc => Resource::RLIMIT_NPROC,
        Type::RlimitNofile => Resource::RLIMIT_NOFILE,
        Type::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        Type::RlimitAs => Resource::RLIMIT_AS,
        Type::RlimitLocks => Resource::RLIMIT_LOCKS,
        Type::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        Type::RlimitNice => Resource::RLIMIT_NICE,
        Type::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        Type::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}
