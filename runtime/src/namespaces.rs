//! Which namespaces a container has: made new, joined by path, or the caller's own.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use rrun_spec::oci::{Linux, LinuxNamespace, LinuxNamespaceType};

/// `CLONE_NEWTIME`, for which the library has no name.
pub const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// A namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// What kind it must be.
    pub kind: CloneFlags,
    /// The file that stands for it.
    pub path: PathBuf,
}

/// The namespaces of a container; of every other kind it has the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Those to make.
    pub new: CloneFlags,
    /// Those to join.
    pub join: Vec<Join>,
}

impl Namespaces {
    /// What `linux.namespaces` asks for.
    #[must_use]
    pub fn of(wanted: &[LinuxNamespace]) -> Self {
        let mut namespaces = Self { new: CloneFlags::empty(), join: Vec::new() };
        for namespace in wanted {
            let kind = kind(namespace.typ());
            match namespace.path() {
                Some(path) => namespaces.join.push(Join { kind, path: path.clone() }),
                None => namespaces.new |= kind,
            }
        }
        namespaces
    }

    /// Whether a namespace of this kind is made for the container.
    #[must_use]
    pub fn makes(&self, kind: CloneFlags) -> bool {
        self.new.contains(kind)
    }

    /// Whether the container has a namespace of this kind that is not simply the caller's.
    #[must_use]
    pub fn has(&self, kind: CloneFlags) -> bool {
        self.makes(kind) || self.join.iter().any(|join| join.kind == kind)
    }

    /// The flags for `clone3`; the cgroup namespace is made later, when the process is in its
    /// cgroup, which becomes the root of it, and the time namespace when nobody is in it yet, since its
    /// clocks can be set only then.
    #[must_use]
    pub fn at_clone(&self) -> u64 {
        let flags = self.new - CloneFlags::CLONE_NEWCGROUP - NEWTIME;
        u64::from(flags.bits().cast_unsigned())
    }
}

fn kind(name: LinuxNamespaceType) -> CloneFlags {
    match name {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => NEWTIME,
    }
}

/// Makes a time namespace, sets its clocks to `offsets` and enters it (`time_namespaces(7)`).
///
/// To be called while `/proc` is the host's and this process is dumpable, or its files there would be
/// root's.
///
/// # Errors
///
/// `ERANGE` for offsets that lead to a time before 0 or after 146 years, `EPERM` without `CAP_SYS_ADMIN`
/// and `CAP_SYS_TIME` in the user namespace.
pub fn enter_new_time(offsets: &str) -> anyhow::Result<()> {
    unshare(NEWTIME).context("make a time namespace")?;
    if !offsets.is_empty() {
        std::fs::write("/proc/self/timens_offsets", offsets)
            .with_context(|| format!("/linux/timeOffsets: set {}", offsets.trim_end()))?;
    }
    let new = File::open("/proc/self/ns/time_for_children").context("open the time namespace")?;
    setns(&new, NEWTIME).context("enter the time namespace")
}

/// The clocks of `linux.timeOffsets` as `/proc/self/timens_offsets` takes them.
#[must_use]
pub fn time_offsets(linux: &Linux) -> String {
    let mut lines: Vec<_> = linux
        .time_offsets()
        .iter()
        .flatten()
        .map(|(clock, offset)| {
            let (seconds, nanoseconds) =
                (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            format!("{clock} {seconds} {nanoseconds}\n")
        })
        .collect();
    lines.sort();
    lines.concat()
}

/// A namespace that is open, hence still there when it is joined.
#[derive(Debug)]
pub struct Opened {
    file: File,
    join: Join,
}

/// Opens the namespaces to join, as the caller sees their paths.
///
/// # Errors
///
/// Which path could not be opened, and why.
pub fn open(joins: &[Join]) -> anyhow::Result<Vec<Opened>> {
    let open = |join: &Join| {
        let file = File::open(&join.path)
            .with_context(|| format!("open namespace {}", join.path.display()))?;
        Ok(Opened { file, join: join.clone() })
    };
    joins.iter().map(open).collect()
}

/// Joins all of `namespaces`.
///
/// A namespace belongs either to the user namespace we come from or to the one we join: those that
/// may be joined now are, then the user namespace, then the rest.
///
/// # Errors
///
/// `EINVAL` if a path is a namespace of another kind, `EPERM` if it may not be joined.
pub fn join(namespaces: &[Opened]) -> anyhow::Result<()> {
    let (user, others): (Vec<_>, Vec<_>) =
        namespaces.iter().partition(|one| one.join.kind == CloneFlags::CLONE_NEWUSER);
    let mut later = Vec::new();
    for namespace in others {
        match enter(namespace) {
            Err(Errno::EPERM) if !user.is_empty() => later.push(namespace),
            result => result.with_context(|| describe(namespace))?,
        }
    }
    for namespace in user.into_iter().chain(later) {
        enter(namespace).with_context(|| describe(namespace))?;
    }
    Ok(())
}

fn enter(namespace: &Opened) -> nix::Result<()> {
    setns(&namespace.file, namespace.join.kind)
}

fn describe(namespace: &Opened) -> String {
    format!("join namespace {}", namespace.join.path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(kind: LinuxNamespaceType, path: Option<&str>) -> LinuxNamespace {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path.map(PathBuf::from));
        namespace
    }

    #[test]
    fn without_a_path_a_namespace_is_new() {
        let namespaces = Namespaces::of(&[
            namespace(LinuxNamespaceType::Pid, None),
            namespace(LinuxNamespaceType::Cgroup, None),
            namespace(LinuxNamespaceType::Network, Some("/run/netns/a")),
        ]);
        assert!(namespaces.makes(CloneFlags::CLONE_NEWPID));
        assert!(!namespaces.makes(CloneFlags::CLONE_NEWNET));
        assert!(namespaces.has(CloneFlags::CLONE_NEWNET));
        assert!(!namespaces.has(CloneFlags::CLONE_NEWUSER));
        let at_clone = u64::from(libc::CLONE_NEWPID.cast_unsigned());
        assert_eq!(namespaces.at_clone(), at_clone, "the cgroup namespace comes later");
    }

    #[test]
    fn a_namespace_of_another_kind_is_refused() {
        let path = PathBuf::from("/proc/self/ns/net");
        let opened = open(&[Join { kind: CloneFlags::CLONE_NEWUTS, path }]).unwrap();
        let error = format!("{:#}", join(&opened).unwrap_err());
        assert!(error.contains("EINVAL") && error.contains("/proc/self/ns/net"), "{error}");
    }
}
