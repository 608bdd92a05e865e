//! The cgroup of a container that is being made, by whichever manager.

use anyhow::Context as _;
use nix::sched::CloneFlags;
use rrun_spec::oci::Spec;

use crate::confine::cgroup::{self, Cgroup, CgroupPlan, Hierarchies, Instance, ScopePlan};
use crate::container::{Cgroups, ContainerId, Runtime};
use crate::host::hierarchies;
use crate::plan::Plan;
use crate::process::parent::Made;
use crate::rootfs::cgroup::CgroupView;

impl Runtime {
    /// Makes the container's cgroups and sets their limits. systemd makes its own when there is a
    /// process to put there: then this is only the plan.
    pub(super) fn cgroups(
        &self,
        spec: &Spec,
        plan: &Plan,
        id: &ContainerId,
    ) -> anyhow::Result<(CgroupView, Option<ScopePlan>)> {
        let hierarchies = hierarchies()?;
        let own_namespace = plan.namespaces.has(CloneFlags::CLONE_NEWCGROUP);
        let by_systemd = self.cgroups == Cgroups::Systemd;
        let (cgroup, scope) = if by_systemd {
            (None, Some(self.scope_plan(&hierarchies, spec, plan, id)?))
        } else {
            (self.make_cgroup(&hierarchies, spec, plan, id)?, None)
        };
        Ok((CgroupView { hierarchies, cgroup, own_namespace, by_systemd }, scope))
    }

    fn make_cgroup(
        &self,
        hierarchies: &Hierarchies,
        spec: &Spec,
        plan: &Plan,
        id: &ContainerId,
    ) -> anyhow::Result<Option<Cgroup>> {
        let Some(wanted) = self.cgroup_plan(hierarchies, spec, id)? else {
            plan.limits.refuse_without_cgroup()?;
            return Ok(None);
        };
        let Some(cgroup) = wanted.create(&plan.limits)? else { return Ok(None) };
        let mut made = Undo(Some(cgroup));
        made.0.as_ref().map_or(Ok(()), |cgroup| equip(cgroup, plan))?;
        Ok(made.0.take())
    }

    /// Where the cgroups of `id` are to be, if it gets any of ours.
    ///
    /// # Errors
    ///
    /// A path that leads elsewhere.
    pub fn cgroup_plan(
        &self,
        hierarchies: &Hierarchies,
        spec: &Spec,
        id: &ContainerId,
    ) -> anyhow::Result<Option<CgroupPlan>> {
        if self.cgroups != Cgroups::Cgroupfs {
            return Ok(None);
        }
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        cgroup::plan(hierarchies, id.as_str(), path, !self.tolerate_cgroups)
    }

    fn scope_plan(
        &self,
        hierarchies: &Hierarchies,
        spec: &Spec,
        plan: &Plan,
        id: &ContainerId,
    ) -> anyhow::Result<ScopePlan> {
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let annotations = spec.annotations().clone().unwrap_or_default().into_iter();
        let instance = if self.host.is_real_root() {
            Instance::System
        } else {
            Instance::User(self.host.uid_outside())
        };
        cgroup::scope(id.as_str(), path, annotations, &plan.limits, (instance, hierarchies))
    }

    /// Lets systemd put init into its scope, and sets what systemd has no property for.
    pub(super) fn start_scope(
        &self,
        scope: &ScopePlan,
        made: &Made,
        plan: &Plan,
    ) -> anyhow::Result<Cgroup> {
        let cgroup = scope.start(made.init.pid, !self.tolerate_cgroups)?;
        let mut started = Undo(Some(cgroup));
        started.0.as_ref().map_or(Ok(()), |cgroup| equip(cgroup, plan))?;
        started.0.take().context("the cgroup was started")
    }
}

/// Sets the limits, and gives the cgroup to the container's root where that is to have it.
fn equip(cgroup: &Cgroup, plan: &Plan) -> anyhow::Result<()> {
    cgroup.apply(&plan.limits)?;
    plan.cgroup_owner.map_or(Ok(()), |owner| cgroup.give_to(owner))
}

/// Removes a cgroup, with what is in it, unless it is kept.
#[must_use = "dropping it removes the cgroup"]
pub(super) struct Undo(pub(super) Option<Cgroup>);

impl Undo {
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(cgroup) = self.0.take() else { return };
        if let Err(error) = cgroup.kill_all().and_then(|()| cgroup.remove()) {
            log::warn!("{error:#}");
        }
    }
}
