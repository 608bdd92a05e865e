//! Start: the program of a created container runs.

use std::fs;

use anyhow::{Context as _, bail};
use rrun_spec::oci::Hooks;

use crate::container::{Action, ContainerId, Runtime, Status};
use crate::hooks;
use crate::process::StateOfHooks;
use crate::process::parent::release;
use crate::store::containers::{Entry, Record, START_SOCKET};
use crate::sys::process::pidfd_signal;

impl Runtime {
    /// Starts `id`.
    ///
    /// # Errors
    ///
    /// If it is not waiting for its start, or its program cannot be executed, or a hook failed; in
    /// the latter cases it is stopped.
    pub fn start(&self, id: &ContainerId) -> anyhow::Result<()> {
        let entry = self.containers.lock(id)?;
        let record = self.containers.read(id)?;
        let status = self.status(&record);
        if !status.accepts(Action::Start) {
            match status {
                Status::Stopped => bail!("cannot start a container that has stopped"),
                Status::Running => bail!("cannot start an already running container"),
                other => bail!("cannot start a container in the {other} state"),
            }
        }
        let hooks = match record.late_hooks {
            true => self.containers.config(id)?.hooks().clone().unwrap_or_default(),
            false => Hooks::default(),
        };
        let released = release(&entry);
        forget_socket(&entry)?;
        released?;
        self.poststart(&record, &hooks)
    }

    /// Runs the poststart hooks; a failing one ends the container (runtime-spec 1.3, "Lifecycle").
    ///
    /// # Errors
    ///
    /// Which hook failed.
    pub fn poststart(&self, record: &Record, hooks: &Hooks) -> anyhow::Result<()> {
        let list = hooks.poststart().as_deref().unwrap_or_default();
        if list.is_empty() {
            return Ok(());
        }
        let state = self.state_of_hooks(record)?.json(Status::Running, record.init.pid())?;
        let result = hooks::run(list, "poststart", &state, &record.bundle);
        if result.is_err()
            && let Some(pidfd) = self.pidfd(record)
        {
            let _ended_already = pidfd_signal(std::os::fd::AsFd::as_fd(&pidfd), libc::SIGKILL);
        }
        result
    }

    /// What the hooks of later operations are told of the container.
    ///
    /// # Errors
    ///
    /// If its configuration cannot be read.
    pub fn state_of_hooks(&self, record: &Record) -> anyhow::Result<StateOfHooks> {
        Ok(StateOfHooks {
            version: self.containers.config(&record.id)?.version().clone(),
            id: record.id.clone(),
            bundle: record.bundle.clone(),
            annotations: record.annotations.clone(),
        })
    }
}

/// Removes the socket: init no longer waits.
///
/// # Errors
///
/// Those of `unlink(2)`.
fn forget_socket(entry: &Entry) -> anyhow::Result<()> {
    let path = entry.path().join(START_SOCKET);
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
}
