//! Delete: nothing of the container remains but, on purpose, its writable layer.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, bail};
use nix::unistd::Pid;
use rrun_spec::oci::Hook;

use crate::container::processes::{Pin, mount_namespace};
use crate::container::{Action, ContainerId, Runtime, Status};
use crate::hooks::{Occasion, Streams};
use crate::host::hierarchies;
use crate::process::StateOfHooks;
use crate::store::containers::{Entry, ProcessIdentity, Record};
use crate::store::layers::KeptLayer;
use crate::sys::process::{has_ended, pidfd_open, pidfd_signal};

/// How long, in milliseconds, a killed process may take to be gone. The kernel may have to write
/// out much before; nobody waits that long without reason.
const KILL_PATIENCE: i32 = 10_000;

/// How long, in milliseconds, the overlay's server may take to see that its mount is gone.
const SERVER_PATIENCE: i32 = 5_000;

impl Runtime {
    /// Removes `id`; with `force` also if it still runs, and without complaint if there is none.
    ///
    /// # Errors
    ///
    /// If it runs, or something of it cannot be removed.
    pub fn delete(&self, id: &ContainerId, force: bool) -> anyhow::Result<()> {
        let entry = match self.containers.lock(id) {
            Err(_) if force && !self.containers.path(id).exists() => return Ok(()),
            entry => entry?,
        };
        match entry.read() {
            Ok(Some(record)) => self.delete_entry(entry, &record, force),
            Ok(None) => {
                self.clear_remains(&entry, id)?;
                entry.remove()
            }
            // As runc does, force removes what cannot be understood.
            Err(error) if force => {
                log::warn!("{error:#}");
                entry.remove()
            }
            Err(error) => Err(error),
        }
    }

    fn delete_entry(&self, entry: Entry, record: &Record, force: bool) -> anyhow::Result<()> {
        let status = self.status(record);
        // A created container has no program yet that could lose something: runc and crun remove it.
        if force || status == Status::Created {
            self.end(record)?;
        } else if !status.accepts(Action::Delete) {
            bail!(
                "cannot delete container that is not stopped: {status} \
                 (kill it first, or give --force)"
            );
        }
        self.clean(entry, record)
    }

    /// Removes what a creation that died has left of `id`. Its processes have ended with it.
    ///
    /// # Errors
    ///
    /// What could not be removed.
    pub fn clear_remains(&self, entry: &Entry, id: &ContainerId) -> anyhow::Result<()> {
        // Without a configuration it did not come as far as to make cgroups.
        if let Ok(spec) = self.containers.config(id)
            && let Some(remains) = self.cgroup_plan(&hierarchies()?, &spec, id)?
        {
            remains.remove_remains()?;
        }
        entry.clear()
    }

    /// Kills everything in the container and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If something does not end.
    pub fn end(&self, record: &Record) -> anyhow::Result<()> {
        if let Some(cgroup) = &record.cgroup
            && record.is_alive()
        {
            cgroup.kill_all()?;
        }
        let pin = self.pin_mount_namespace(record);
        if let Some(pidfd) = self.pidfd(record) {
            end_process(record.init.pid(), pidfd.as_fd())?;
        }
        if matches!(pin, Pin::TooLate) {
            return Ok(());
        }
        // They may make others until the last one is gone.
        loop {
            let stragglers = self.stragglers(record);
            if stragglers.is_empty() {
                return Ok(());
            }
            for pid in stragglers {
                let Ok(pidfd) = pidfd_open(pid) else { continue };
                // Its number may have gone to another meanwhile.
                if mount_namespace(pid) == record.mount_namespace {
                    end_process(pid, pidfd.as_fd())?;
                }
            }
        }
    }

    /// Removes what a stopped container has left, and forgets it.
    ///
    /// # Errors
    ///
    /// What could not be removed; the container is then still known.
    pub fn clean(&self, entry: Entry, record: &Record) -> anyhow::Result<()> {
        if let Some(cgroup) = &record.cgroup
            && !cgroup.remove_if_empty()?
        {
            // Processes that were left by init in a process namespace of others.
            cgroup.kill_all()?;
            cgroup.remove()?;
        }
        if let Some(resctrl) = &record.resctrl {
            resctrl.remove()?;
        }
        if let Some(server) = record.server {
            end_server(server)?;
        }
        if !record.late_hooks {
            return entry.remove();
        }
        let hooks = self.containers.config(&record.id).ok().and_then(|spec| spec.hooks().clone());
        let state = self.state_of_hooks(record);
        entry.remove()?;
        match (hooks.as_ref().and_then(|hooks| hooks.poststop().as_deref()), state) {
            (Some(list), Ok(state)) => poststop(list, &state),
            (Some(_), Err(error)) => log::warn!("poststop hooks: {error:#}"),
            (None, _) => {}
        }
        Ok(())
    }

    /// Removes the writable layer of `id` and says whether there was one.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn purge(&self, id: &ContainerId) -> anyhow::Result<bool> {
        KeptLayer::of(id, self.data_root()?).purge()
    }
}

/// Runs the poststop hooks of a container that is gone; their failures are warnings.
///
/// Source: runtime-spec `runtime.md`, "Lifecycle", 13.
pub fn poststop(hooks: &[Hook], state: &StateOfHooks) {
    let run = || -> anyhow::Result<()> {
        let text = state.json(Status::Stopped, Pid::from_raw(0))?;
        let occasion = Occasion {
            kind: "poststop",
            state: &text,
            directory: &state.bundle,
            environment: None,
            streams: &Streams::open(&state.annotations)?,
        };
        occasion.run_all(hooks);
        Ok(())
    };
    if !hooks.is_empty()
        && let Err(error) = run()
    {
        log::warn!("poststop hooks: {error:#}");
    }
}

fn end_process(pid: Pid, pidfd: BorrowedFd<'_>) -> anyhow::Result<()> {
    let _ended_already = pidfd_signal(pidfd, libc::SIGKILL);
    if has_ended(pidfd, KILL_PATIENCE)? {
        return Ok(());
    }
    bail!("process {pid} does not end")
}

/// Waits until the overlay's server has seen the end of its mount; then ends it.
fn end_server(server: ProcessIdentity) -> anyhow::Result<()> {
    let Ok(pidfd) = pidfd_open(server.pid()) else { return Ok(()) };
    if !server.is_there() || has_ended(pidfd.as_fd(), SERVER_PATIENCE)? {
        return Ok(());
    }
    log::warn!("the overlay's server {} did not end with its mount: killing it", server.pid);
    pidfd_signal(pidfd.as_fd(), libc::SIGKILL).context("kill the overlay's server")?;
    has_ended(pidfd.as_fd(), KILL_PATIENCE)?;
    Ok(())
}
