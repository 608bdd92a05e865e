//! Pause and resume: the processes of a container stand still, and go on.

use anyhow::{Context as _, bail};

use crate::confine::cgroup::Cgroup;
use crate::container::{Action, ContainerId, Runtime};

impl Runtime {
    /// Stops every process of `id` where it is, until [`Self::resume`].
    ///
    /// # Errors
    ///
    /// "container not running"; no cgroup with a freezer; processes that do not stop within 2 s.
    pub fn pause(&self, id: &ContainerId) -> anyhow::Result<()> {
        self.turn(id, Action::Pause, "container not running", Cgroup::freeze)
    }

    /// Lets the processes of `id` go on.
    ///
    /// # Errors
    ///
    /// "container not paused".
    pub fn resume(&self, id: &ContainerId) -> anyhow::Result<()> {
        self.turn(id, Action::Resume, "container not paused", Cgroup::thaw)
    }

    fn turn(
        &self,
        id: &ContainerId,
        action: Action,
        refusal: &'static str,
        change: fn(&Cgroup) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let _locked = self.containers.lock(id)?;
        let record = self.containers.read(id)?;
        if !self.status(&record).accepts(action) {
            bail!(refusal);
        }
        let cgroup = record.cgroup.as_ref().context(
            "the container has no cgroup that could be frozen \
             (cure: create it as root, or on cgroup v2 in a delegated cgroup)",
        )?;
        change(cgroup)
    }
}
