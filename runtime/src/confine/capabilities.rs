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
    /// not both permitted and inheritable, which the kernel would refuse.
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
            (ambient & !sets.ambient & !lacking, "ambient but not permitted and inheritable"),
        ];
        let refused = refused.into_iter().filter(|(set, _why)| *set != 0);
        (sets, refused.map(|(set, why)| format!("left out {}: {why}", names(set))).collect())
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
