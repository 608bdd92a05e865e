//! Capabilities: the five sets of a process.
//!
//! They are set in two steps, as the kernel wants it: the bounding set while the process may still
//! change it, the others after its user has changed.

use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::sys::filter::{self, CapabilitySets};

/// How many bits a set has, whatever the kernel knows.
const BITS: u8 = 64;

/// What the process that makes a container can hand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// Every capability that the kernel knows.
    known: u64,
    /// Those that may be in a bounding set.
    bounding: u64,
    /// Those that may be permitted.
    permitted: u64,
}

impl Available {
    /// What the calling process has. One prctl(2) per capability (3 µs in all), no file is read.
    ///
    /// # Errors
    ///
    /// What capget(2) gives.
    pub fn current() -> Result<Self> {
        let (mut known, mut bounding) = (0, 0);
        for number in 0..BITS {
            let Some(has) = filter::in_bounding_set(number) else { break };
            known |= 1 << number;
            bounding |= u64::from(has) << number;
        }
        let permitted = filter::capget().context("read our capabilities")?.permitted;
        Ok(Self { known, bounding, permitted })
    }

    /// What the first process of a new user namespace has: everything, since it rules there only.
    #[must_use]
    pub fn in_new_user_namespace(self) -> Self {
        Self { bounding: self.known, permitted: self.known, ..self }
    }
}

/// The five sets, one bit per capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
    /// The bounding set to start from, so that only what is to go has to be dropped.
    dropped_from: u64,
}

impl Sets {
    /// The sets that `wanted` asks for, and a warning for each thing in it that cannot be had.
    ///
    /// A capability that the kernel does not know or that is not `available` is left out (runtime-spec
    /// 1.1: warn, do not fail); so is an effective one that is not permitted and an ambient one that is
    /// not both permitted and inheritable, which the kernel would refuse. buildah asks for everything
    /// ambient and nothing inheritable: that is worth no warning.
    #[must_use]
    pub fn new(wanted: &LinuxCapabilities, available: Available) -> (Self, Vec<String>) {
        let bounding = bits(wanted.bounding().as_ref());
        let permitted = bits(wanted.permitted().as_ref());
        let (effective, inheritable, ambient) = (
            bits(wanted.effective().as_ref()),
            bits(wanted.inheritable().as_ref()),
            bits(wanted.ambient().as_ref()),
        );
        let asked = permitted | effective | inheritable | ambient;
        let lacking = (bounding & !available.bounding) | (asked & !available.permitted);
        let mut sets = Self { dropped_from: available.bounding, ..Self::default() };
        sets.bounding = bounding & available.bounding;
        sets.permitted = permitted & available.permitted;
        sets.effective = effective & sets.permitted;
        // capset(2) takes nothing inheritable from outside of the bounding set.
        sets.inheritable = inheritable & available.permitted & sets.bounding;
        sets.ambient = ambient & sets.permitted & sets.inheritable;

        let refused = [
            (lacking & !available.known, "unknown to this kernel"),
            (lacking & available.known, "not ours to give"),
            (effective & !sets.effective & !lacking, "effective but not permitted"),
            (inheritable & !sets.inheritable & !lacking, "inheritable but not bounding"),
        ];
        let refused = refused.into_iter().filter(|(set, _why)| *set != 0);
        let mut warnings: Vec<_> =
            refused.map(|(set, why)| format!("left out {}: {why}", names(set))).collect();
        let not_raised = ambient & !sets.ambient & !lacking;
        if not_raised != 0 && inheritable != 0 {
            let names = names(not_raised);
            let why = "ambient but not permitted and inheritable";
            warnings.push(format!("can't raise ambient capability {names}: {why}"));
        }
        (sets, warnings)
    }

    /// These sets and `CAP_SYS_ADMIN`, which installs a filter for system calls where
    /// `no_new_privs` is not set (seccomp(2)).
    #[must_use]
    pub fn with_sys_admin(self) -> Self {
        let bit = caps::Capability::CAP_SYS_ADMIN.bitmask();
        Self { effective: self.effective | bit, permitted: self.permitted | bit, ..self }
    }

    /// The first step, before the user changes: drops from the bounding set what is not wanted in it.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SETPCAP`.
    pub fn apply_bounding(&self) -> Result<()> {
        for number in numbers(self.dropped_from & !self.bounding) {
            filter::drop_from_bounding_set(number)
                .map_err(describe)
                .with_context(|| format!("drop {} from the bounding set", names(1 << number)))?;
        }
        Ok(())
    }

    /// Keeps the permitted set when the user changes from 0 to another, until execve(2).
    ///
    /// Called between the two steps, before setresuid(2).
    ///
    /// # Errors
    ///
    /// `EPERM` if a security bit forbids it.
    pub fn keep_on_user_change(&self) -> Result<()> {
        nix::sys::prctl::set_keepcaps(true).context("keep capabilities across the change of user")
    }

    /// The second step, after the user has changed: all the other sets.
    ///
    /// # Errors
    ///
    /// `EPERM` for what this process does not have.
    pub fn apply(&self) -> Result<()> {
        let Self { effective, permitted, inheritable, .. } = *self;
        filter::capset(&CapabilitySets { effective, permitted, inheritable })
            .map_err(describe)
            .with_context(|| format!("set capabilities to {}", names(permitted)))?;
        filter::clear_ambient_set().context("empty the ambient capabilities")?;
        for number in numbers(self.ambient) {
            filter::raise_in_ambient_set(number)
                .map_err(describe)
                .with_context(|| format!("make {} ambient", names(1 << number)))?;
        }
        Ok(())
    }
}

fn describe(errno: Errno) -> anyhow::Error {
    match errno {
        Errno::EPERM => anyhow::Error::new(errno).context("this process lacks them itself"),
        _ => errno.into(),
    }
}

fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().fold(0, |bits, capability| bits | bit(*capability))
}

fn bit(capability: Capability) -> u64 {
    // Both crates know the capabilities up to Linux 5.9's last one, by the same names.
    caps::Capability::from_str(&format!("CAP_{capability}")).map_or(0, |known| known.bitmask())
}

fn numbers(set: u64) -> impl Iterator<Item = u8> {
    (0..BITS).filter(move |number| set >> number & 1 == 1)
}

/// The names of a set for a message, such as `CAP_CHOWN, CAP_KILL`.
fn names(set: u64) -> String {
    let mut known = caps::all().into_iter().collect::<Vec<_>>();
    known.sort_by_key(caps::Capability::index);
    let name = |number: u8| {
        let found = known.iter().find(|capability| capability.index() == number);
        found.map_or_else(|| format!("capability {number}"), ToString::to_string)
    };
    let names = numbers(set).map(name).collect::<Vec<_>>();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::sys::filter::tests::in_child;

    const CHOWN: u64 = 1;
    const KILL: u64 = 1 << 5;
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;

    fn wanted(json: &str) -> LinuxCapabilities {
        serde_json::from_str(json).unwrap()
    }

    fn available(set: u64) -> Available {
        Available { known: (1 << 38) - 1, bounding: set, permitted: set }
    }

    #[test]
    fn what_cannot_be_had_is_left_out_with_a_warning() {
        let have = available(CHOWN | KILL);
        let all = |names: &str| {
            let sets =
                ["bounding", "effective", "permitted"].map(|set| format!(r#""{set}": {names}"#));
            wanted(&format!("{{{}}}", sets.join(",")))
        };
        let (sets, warnings) = Sets::new(&all(r#"["CAP_CHOWN", "CAP_KILL"]"#), have);
        let both = CHOWN | KILL;
        let expected = Sets { bounding: both, effective: both, permitted: both, ..Sets::default() };
        assert_eq!(sets, Sets { dropped_from: both, ..expected });
        assert_eq!(warnings, Vec::<String>::new());

        let (fewer, warnings) =
            Sets::new(&all(r#"["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_BPF"]"#), have);
        assert_eq!(fewer, sets);
        assert_eq!(
            warnings,
            [
                "left out CAP_BPF: unknown to this kernel",
                "left out CAP_SYS_ADMIN: not ours to give"
            ]
        );
    }

    #[test]
    fn what_the_kernel_would_refuse_is_left_out() {
        let have = available(CHOWN | KILL | SYS_ADMIN | BPF);
        let (sets, warnings) = Sets::new(
            &wanted(
                r#"{"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
                    "effective": ["CAP_SYS_ADMIN"], "inheritable": ["CAP_CHOWN", "CAP_KILL"],
                    "ambient": ["CAP_CHOWN", "CAP_KILL"]}"#,
            ),
            have,
        );
        assert_eq!((sets.effective, sets.inheritable, sets.ambient), (0, CHOWN, CHOWN));
        assert_eq!(sets.permitted, CHOWN | KILL);
        assert_eq!(
            warnings,
            [
                "left out CAP_SYS_ADMIN: effective but not permitted",
                "left out CAP_KILL: inheritable but not bounding",
                "can't raise ambient capability CAP_KILL: ambient but not permitted and inheritable",
            ]
        );
    }

    #[test]
    fn the_sets_that_buildah_writes_are_worth_no_warning() {
        let json = r#"{"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}"#;
        let (sets, warnings) = Sets::new(&wanted(json), available(CHOWN));
        assert_eq!((sets.permitted, sets.ambient), (CHOWN, 0));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_new_user_namespace_has_all_that_the_kernel_knows() {
        let have = Available::current().unwrap();
        assert_eq!(have.known & (CHOWN | SYS_ADMIN), CHOWN | SYS_ADMIN);
        assert_eq!(have.bounding & !have.known, 0);
        let inside = have.in_new_user_namespace();
        assert_eq!((inside.bounding, inside.permitted), (have.known, have.known));
    }

    #[test]
    fn every_capability_of_a_config_has_its_number() {
        for capability in caps::all() {
            let json = format!(r#"{{"bounding": ["{capability}"]}}"#);
            assert_eq!(bits(wanted(&json).bounding().as_ref()), capability.bitmask());
        }
    }

    /// Status lines of this process, such as `CapBnd`.
    fn shown(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn both_steps_leave_what_was_asked_for() {
        in_child(|| {
            // Root of a namespace of his own may do it, whoever runs the test.
            unshare(CloneFlags::CLONE_NEWUSER).unwrap();
            let have = Available::current().unwrap();
            assert_eq!(have, have.in_new_user_namespace());
            let (sets, warnings) = Sets::new(
                &wanted(
                    r#"{"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
                        "effective": ["CAP_CHOWN"], "inheritable": ["CAP_KILL"],
                        "ambient": ["CAP_KILL"]}"#,
                ),
                have,
            );
            assert_eq!(warnings, Vec::<String>::new());
            sets.apply_bounding().unwrap();
            sets.keep_on_user_change().unwrap();
            sets.apply().unwrap();
            assert_eq!(shown("CapBnd"), CHOWN | KILL);
            assert_eq!(shown("CapPrm"), CHOWN | KILL);
            assert_eq!(shown("CapEff"), CHOWN);
            assert_eq!(shown("CapInh"), KILL);
            assert_eq!(shown("CapAmb"), KILL);
            let (more, _) = Sets::new(
                &wanted(r#"{"bounding": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]}"#),
                have,
            );
            let error = format!("{:#}", more.apply().unwrap_err());
            assert!(
                error.starts_with("set capabilities to CAP_SYS_ADMIN: this process lacks"),
                "{error}"
            );
        });
    }
}
