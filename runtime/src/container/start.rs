//! Start: the program of a created container runs.

use std::fs;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};
use rrun_spec::oci::Hooks;

use crate::container::{Action, ContainerId, Runtime, Status};
use crate::hooks::{HookFailed, Occasion, Streams};
use crate::process::StateOfHooks;
use crate::process::parent::release;
use crate::store::containers::{Entry, Record, START_SOCKET};
use crate::sys::process::pidfd_signal;

impl Runtime {
    /// Starts `id`.
    ///
    /// # Errors
    ///
    /// If it is not waiting for its start; if its program cannot be executed: it is stopped then;
    /// if a hook failed: nothing is left of the container then.
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
        if released.is_err() {
            // What could not become its program has ended, or is not to go on.
            self.kill_init(&record);
        }
        match released.and_then(|()| self.poststart(&record, &hooks)) {
            Err(failure) if failure.is::<HookFailed>() => {
                self.end(&record)?;
                self.clean(entry, &record)?;
                Err(failure)
            }
            result => result,
        }
    }

    fn kill_init(&self, record: &Record) {
        if let Some(pidfd) = self.pidfd(record) {
            let _ended_already = pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }

    /// Runs the poststart hooks.
    ///
    /// # Errors
    ///
    /// [`HookFailed`]: the container must be ended and removed then.
    pub fn poststart(&self, record: &Record, hooks: &Hooks) -> anyhow::Result<()> {
        let list = hooks.poststart().as_deref().unwrap_or_default();
        if list.is_empty() {
            return Ok(());
        }
        let state = self.state_of_hooks(record)?.json(Status::Running, record.init.pid())?;
        let occasion = Occasion {
            kind: "poststart",
            state: &state,
            directory: &record.bundle,
            environment: None,
            streams: &Streams::open(&record.annotations)?,
        };
        occasion.run(list).map_err(|error| HookFailed(format!("{error:#}")).into())
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
