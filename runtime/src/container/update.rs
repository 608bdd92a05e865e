//! Update: other limits for a container that exists.

mod merge;

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use rrun_spec::oci::LinuxResources;
use serde_json::Value;

use crate::confine::cgroup::Limits;
use crate::container::{ContainerId, Runtime, Status};
use crate::store::containers::Entry;

impl Runtime {
    /// Changes the limits of `id` to what `asked` says; what it does not speak of stays. The kept
    /// configuration has them afterwards, for later commands. `schemata` are those of Intel RDT, for the
    /// cache and for the memory bandwidth.
    ///
    /// # Errors
    ///
    /// "container not running"; a value that makes no sense or that the kernel refuses, with the file
    /// and the cure. Then the limits and the configuration are as they were.
    pub fn update(
        &self,
        id: &ContainerId,
        asked: &LinuxResources,
        schemata: [Option<&str>; 2],
    ) -> anyhow::Result<()> {
        let entry = self.containers.lock(id)?;
        let record = self.containers.read(id)?;
        if self.status(&record) == Status::Stopped {
            bail!("container not running");
        }
        let shares = schemata.iter().flatten().copied().collect::<Vec<_>>();
        ensure!(
            shares.is_empty() || record.resctrl.is_some(),
            "updating a non-existent Intel RDT configuration is not supported"
        );
        let config = Kept::read(&entry)?;
        let merged = config.merged(asked)?;
        rrun_spec::check_resources(asked)?;
        rrun_spec::check_resources(&merged)?;
        let limits = Limits::change(&merged, asked)?;
        limits.warnings().iter().for_each(|warning| log::warn!("{warning}"));
        match &record.cgroup {
            Some(cgroup) => cgroup.change(&limits)?,
            None => limits.refuse_without_cgroup()?,
        }
        if let (Some(resctrl), false) = (&record.resctrl, shares.is_empty()) {
            resctrl.change(&shares)?;
        }
        config.write(&entry, &merged, schemata)
    }
}

/// The kept configuration as it is written, with fields that we do not know.
struct Kept(Value);

impl Kept {
    fn read(entry: &Entry) -> anyhow::Result<Self> {
        let text = entry.config_text()?;
        Ok(Self(serde_json::from_slice(&text).context("the kept configuration is damaged")?))
    }

    /// The container's resources with the changes of `asked`.
    fn merged(&self, asked: &LinuxResources) -> anyhow::Result<LinuxResources> {
        let mut resources = self.0.pointer("/linux/resources").cloned().unwrap_or_default();
        merge::merge(&mut resources, serde_json::to_value(asked)?);
        let text = serde_json::to_vec(&resources)?;
        Ok(rrun_spec::parse_resources(&text, Path::new("the changed resources"))?)
    }

    fn write(
        mut self,
        entry: &Entry,
        resources: &LinuxResources,
        [cache, bandwidth]: [Option<&str>; 2],
    ) -> anyhow::Result<()> {
        let config = self.0.as_object_mut().context("the kept configuration is no object")?;
        let linux = config.entry("linux").or_insert_with(|| Value::Object(Default::default()));
        ensure!(linux.is_object(), "the kept configuration's /linux is no object");
        linux["resources"] = serde_json::to_value(resources)?;
        if let Some(rdt) = linux.get_mut("intelRdt").and_then(Value::as_object_mut) {
            let new = [("l3CacheSchema", cache), ("memBwSchema", bandwidth)];
            rdt.extend(
                new.into_iter().filter_map(|(name, new)| Some((name.to_owned(), new?.into()))),
            );
        }
        entry.write_config(&serde_json::to_vec(&self.0)?)
    }
}
