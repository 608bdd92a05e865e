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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::filter::tests::in_child;

    fn limits(list: &[(&str, u64, u64)]) -> Result<Vec<Rlimit>> {
        let limit = |(name, soft, hard): &(&str, u64, u64)| {
            let json = format!(r#"{{"type": "RLIMIT_{name}", "soft": {soft}, "hard": {hard}}}"#);
            serde_json::from_str(&json).unwrap()
        };
        resolve(&list.iter().map(limit).collect::<Vec<_>>())
    }

    #[test]
    fn limits_are_set_as_asked() {
        in_child(|| {
            apply(&limits(&[("NOFILE", 64, 128), ("CORE", 0, 0)]).unwrap()).unwrap();
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((64, 128)));
            assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
        });
    }

    #[test]
    fn nonsense_is_refused_before() {
        for (list, complaint) in [
            (
                vec![("CPU", 1, 1), ("NOFILE", 5, 4)],
                "/process/rlimits/1: RLIMIT_NOFILE: the soft limit 5",
            ),
            (vec![("CPU", 1, 1), ("CPU", 1, 1)], "/process/rlimits/1: RLIMIT_CPU is there twice"),
        ] {
            let error = limits(&list).unwrap_err().to_string();
            assert!(error.starts_with(complaint), "{error:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_limit_and_the_cure() {
        in_child(|| {
            apply(&limits(&[("NPROC", 10, 100)]).unwrap()).unwrap();
            caps::clear(None, caps::CapSet::Effective).unwrap();
            let error = apply(&limits(&[("NPROC", 10, 101)]).unwrap()).unwrap_err().to_string();
            let expected = "set RLIMIT_NPROC to 10:101: EPERM: Operation not permitted: only";
            assert!(error.starts_with(expected), "{error}");
            assert!(error.ends_with("ask for at most 100)"), "{error}");
        });
    }

    #[test]
    fn every_name_has_its_resource() {
        for name in [
            "AS",
            "CORE",
            "CPU",
            "DATA",
            "FSIZE",
            "LOCKS",
            "MEMLOCK",
            "MSGQUEUE",
            "NICE",
            "NOFILE",
            "NPROC",
            "RSS",
            "RTPRIO",
            "RTTIME",
            "SIGPENDING",
            "STACK",
        ] {
            let resource = limits(&[(name, 1, u64::MAX)]).unwrap()[0].resource;
            assert_eq!(format!("{resource:?}"), format!("RLIMIT_{name}"));
        }
    }
}
