//! What a config asks of cgroups: checked before anything is made, then written.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use oci_spec::runtime::{LinuxMemory, LinuxResources};

use super::devices::{self, Rule};
use super::resources::{Zero, settings};
use super::setting::{Form, Setting};
use super::{Cgroup, files};

/// What a config asks of cgroups, checked, in the order in which it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    settings: Vec<Setting>,
    devices: Vec<Rule>,
    /// The new limit of memory that must be above what is used now.
    above_usage: Option<u64>,
    warnings: Vec<String>,
}

impl Limits {
    /// Checks `linux.resources`.
    ///
    /// Zeros and empty objects, as engines write them for "not given", ask for nothing.
    ///
    /// # Errors
    ///
    /// A value that makes no sense, with its JSON pointer.
    pub fn new(resources: Option<&LinuxResources>) -> Result<Self> {
        let Some(resources) = resources else { return Ok(Self::default()) };
        Ok(Self {
            settings: settings(resources, Zero::Nothing)?,
            devices: devices::rules(resources.devices().as_deref().unwrap_or_default())?,
            above_usage: None,
            warnings: warnings(resources),
        })
    }

    /// Checks what a container with all of `merged` is to be changed to by `asked`: the sections in which
    /// `asked` says something, with all that `merged` has there, since limits depend on each other.
    ///
    /// # Errors
    ///
    /// A value that makes no sense, with its JSON pointer.
    pub fn change(merged: &LinuxResources, asked: &LinuxResources) -> Result<Self> {
        let sections = sections(asked);
        let is_asked = |setting: &Setting| {
            let section = setting.field.split('/').next().unwrap_or_default();
            sections.contains(&section)
        };
        let settings = settings(merged, Zero::Reset)?.into_iter().filter(is_asked).collect();
        Ok(Self {
            settings,
            devices: devices::rules(asked.devices().as_deref().unwrap_or_default())?,
            above_usage: above_usage(merged.memory().as_ref()),
            warnings: warnings(asked),
        })
    }

    /// What is valid but has no effect.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    pub(super) fn devices(&self) -> &[Rule] {
        &self.devices
    }

    /// For a container that gets no cgroup at all.
    ///
    /// # Errors
    ///
    /// The first limit that would have needed one, with the cure; device rules alone are none.
    pub fn refuse_without_cgroup(&self) -> Result<()> {
        let Some(setting) = self.settings.first() else { return Ok(()) };
        let controller = &setting.controller;
        // The words of runc.
        let what =
            format!("cannot set {controller} limit: container could not join or create cgroup");
        Err(setting.nowhere().context(what))
    }

    /// Writes everything. What the kernel refuses because of another limit is tried again after that.
    pub(super) fn apply(&self, cgroup: &Cgroup) -> Result<()> {
        let mut postponed = Vec::new();
        for setting in &self.settings {
            match setting.write(cgroup) {
                Err(refusal) if refusal.may_pass_later() => postponed.push(setting),
                written => written.map_err(|refusal| refusal.explain(setting))?,
            }
        }
        let again =
            |setting: &Setting| setting.write(cgroup).map_err(|refusal| refusal.explain(setting));
        postponed.into_iter().try_for_each(again)
    }

    /// Writes everything to a cgroup in use. If something is refused, what was written before is what
    /// it was again, as far as a file holds one value.
    pub(super) fn replace(&self, cgroup: &Cgroup) -> Result<()> {
        self.refuse_below_usage(cgroup)?;
        let before = self.settings.iter().filter_map(|setting| saved(setting, cgroup));
        let before = before.collect::<Vec<_>>();
        self.apply(cgroup).inspect_err(|_| {
            // Twice, for what depends on each other.
            for (path, text) in before.iter().rev().chain(before.iter().rev()) {
                if let Err(error) = files::write(path, text) {
                    log::debug!("write {text:?} to {} again: {error}", path.display());
                }
            }
        })
    }

    /// `checkBeforeUpdate`: version 2 would kill for memory that is used already; version 1 refuses by
    /// itself.
    fn refuse_below_usage(&self, cgroup: &Cgroup) -> Result<()> {
        let (Some(limit), None) = (self.above_usage, cgroup.v1("memory")) else { return Ok(()) };
        let Some(unified) = &cgroup.unified else { return Ok(()) };
        let current = unified.read("memory.current").unwrap_or_default();
        match current.trim().parse::<u64>() {
            Ok(used) if used >= limit => Err(anyhow!(
                "/linux/resources/memory/limit: {limit} is not above what is used, {used} bytes, \
                 and checkBeforeUpdate is set"
            )),
            _ => Ok(()),
        }
    }
}

/// The file that `setting` will change, and what it holds, if that is one value.
fn saved(setting: &Setting, cgroup: &Cgroup) -> Option<(PathBuf, String)> {
    let (Form::Files(files), directory) = setting.place(cgroup)? else { return None };
    files.iter().find_map(|(file, _)| {
        let path = directory.path.join(file.as_ref());
        let text = files::read(&path).ok()?.trim_end().to_owned();
        let is_one_value = !text.is_empty() && !text.contains(['\n', ':', '=']);
        is_one_value.then_some((path, text))
    })
}

fn sections(asked: &LinuxResources) -> Vec<&'static str> {
    let all = [
        ("memory", asked.memory().is_some()),
        ("cpu", asked.cpu().is_some()),
        ("pids", asked.pids().is_some()),
        ("blockIO", asked.block_io().is_some()),
        ("hugepageLimits", asked.hugepage_limits().is_some()),
        ("network", asked.network().is_some()),
        ("rdma", asked.rdma().is_some()),
        ("unified", asked.unified().is_some()),
    ];
    all.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect()
}

fn above_usage(memory: Option<&LinuxMemory>) -> Option<u64> {
    let memory = memory.filter(|memory| memory.check_before_update() == Some(true))?;
    memory.limit().and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
}

/// Kernels since 5.4 count kernel memory with all other; runc and crun warn, too.
fn warnings(resources: &LinuxResources) -> Vec<String> {
    let memory = resources.memory().as_ref();
    let kernel = memory.is_some_and(|memory| {
        memory.kernel().unwrap_or(0) > 0 || memory.kernel_tcp().unwrap_or(0) > 0
    });
    let text = "/linux/resources/memory: kernel and kernelTCP have no effect: the kernel counts \
                such memory with all other";
    kernel.then(|| text.to_owned()).into_iter().collect()
}

#[cfg(test)]
mod tests;
