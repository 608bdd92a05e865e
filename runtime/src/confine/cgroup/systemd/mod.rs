//! The systemd driver: systemd makes the cgroup, as a transient scope with the container's first process
//! in it, and knows the limits, so that it does not set others when it is reloaded.
//!
//! ```text
//! plan        before the first fork   names and properties; bad input is refused
//! start       while init waits        StartTransientUnit; init is in the scope then
//! adopt                               where that is, in every hierarchy
//! change, stop, attach                update, delete, exec
//! ```
//! What systemd has no property for is written into the files, as by the other driver. Each call is one
//! connection to the bus, on the calling thread, gone when the call returns.

mod bus;
mod name;
mod properties;
mod value;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use self::bus::Bus;
use self::name::Names;
use self::value::Value;
use super::{Cgroup, Directory, Hierarchies, Limits, plan};

/// A property of a unit.
type Property = (String, Value);

/// Which systemd has the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instance {
    /// That of the machine.
    System,
    /// That of the user with this ID, outside of all user namespaces.
    User(u32),
}

/// A scope that a container lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scope {
    /// The unit's name, with `.scope`.
    unit: String,
    instance: Instance,
}

/// A scope that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopePlan {
    scope: Scope,
    properties: Vec<Property>,
}

/// Decides everything about the scope of container `id`: from `cgroups_path`, which is
/// `slice:prefix:name`, from the annotations `org.systemd.property.*`, and from its limits.
///
/// # Errors
///
/// A path of another form, a name that no unit can have, an annotation that is no property.
pub fn scope(
    id: &str,
    cgroups_path: Option<&Path>,
    annotations: impl Iterator<Item = (String, String)>,
    limits: &Limits,
    (instance, hierarchies): (Instance, &Hierarchies),
) -> Result<ScopePlan> {
    let names = Names::new(id, cgroups_path, instance)?;
    let mut own = value::annotated(annotations)?;
    let mut properties = properties::of_a_container(id, &names.slice, hierarchies.is_unified());
    properties.extend(properties::of_limits(limits, hierarchies.is_unified())?);
    properties.retain(|(name, _)| !own.iter().any(|(other, _)| other == name));
    properties.append(&mut own);
    Ok(ScopePlan { scope: Scope { unit: names.unit, instance }, properties })
}

impl ScopePlan {
    /// Lets systemd make the scope with the process `init` in it, and returns the cgroup.
    ///
    /// # Errors
    ///
    /// No bus, or what systemd says; the scope is not there then.
    pub fn start(&self, init: Pid, privileged: bool) -> Result<Cgroup> {
        let Scope { unit, instance } = &self.scope;
        let number = u32::try_from(init.as_raw())?;
        let mut properties = vec![("PIDs".to_owned(), Value::Numbers(vec![number]))];
        properties.extend(self.properties.iter().cloned());
        Bus::of(*instance)
            .start(unit, &properties)
            .with_context(|| format!("let systemd start {unit}"))?;
        self.scope.adopt(init, privileged).inspect_err(|_| {
            if let Err(error) = self.scope.stop() {
                log::warn!("{error:#}");
            }
        })
    }
}

impl Scope {
    /// The unit's name.
    pub(super) fn unit(&self) -> &str {
        &self.unit
    }

    /// The cgroup in which systemd has put `init`. Where version 1 is in use, `init` is put into the
    /// same place of the hierarchies that systemd leaves alone.
    fn adopt(&self, init: Pid, privileged: bool) -> Result<Cgroup> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let own = read(&format!("/proc/{init}/cgroup"))?;
        let found = Hierarchies::parse(&read("/proc/self/mountinfo")?, &own);
        let mut cgroup = Cgroup { privileged, scope: Some(self.clone()), ..Cgroup::default() };
        let below = found.all().find_map(|hierarchy| {
            let is_ours = hierarchy.own.ends_with(&self.unit);
            is_ours.then(|| hierarchy.own.strip_prefix(&hierarchy.mount).ok())?
        });
        let Some(below) = below else {
            bail!("systemd started {}, but process {init} is not in it: {}", self.unit, own.trim());
        };
        for hierarchy in found.all() {
            let path = hierarchy.mount.join(below);
            if hierarchy.own != path {
                plan::make_with_parents(&path, hierarchy)?;
                let text = init.to_string();
                super::files::write(&path.join("cgroup.procs"), &text)
                    .with_context(|| format!("move process {init} into {}", path.display()))?;
            }
            cgroup.add(Directory {
                controllers: hierarchy.controllers.clone(),
                mount: hierarchy.mount.clone(),
                path,
            });
        }
        Ok(cgroup)
    }

    /// Tells systemd the limits, until the scope ends.
    ///
    /// # Errors
    ///
    /// No bus, or what systemd says.
    pub(super) fn change(&self, limits: &Limits, unified: bool) -> Result<()> {
        let properties = properties::of_limits(limits, unified)?;
        if properties.is_empty() {
            return Ok(());
        }
        Bus::of(self.instance)
            .set_properties(&self.unit, &properties)
            .with_context(|| format!("let systemd change {}", self.unit))
    }

    /// Lets systemd end the scope, if it is still there, and forget it.
    ///
    /// # Errors
    ///
    /// No bus; systemd that does not answer.
    pub(super) fn stop(&self) -> Result<()> {
        Bus::of(self.instance)
            .stop(&self.unit)
            .with_context(|| format!("let systemd stop {}", self.unit))
    }

    /// Whether processes get into the scope by systemd's hand only: a user may not move one from his
    /// session into it, since the session's cgroup is root's.
    pub(super) fn moves_by_itself(&self) -> bool {
        self.instance != Instance::System
    }

    /// Lets systemd move `pid` into the scope, or to `below` it.
    ///
    /// # Errors
    ///
    /// No bus, or what systemd says.
    pub(super) fn attach(&self, pid: Pid, below: &Path) -> Result<()> {
        let below = below.to_str().context("the cgroup's name is not UTF-8")?;
        ensure!(pid.as_raw() > 0, "no process");
        Bus::of(self.instance)
            .attach(&self.unit, &format!("/{below}"), u32::try_from(pid.as_raw())?)
            .with_context(|| format!("let systemd move process {pid} into {}", self.unit))
    }
}
