//! The agent that answers for the system calls of a container (`seccomp_unotify(2)`): it gets the
//! descriptor on which they arrive, before the program runs.
//!
//! ```text
//! program-to-be                    the command that starts it              the agent
//! installs the filter, which
//! gives it the descriptor
//! SeccompListener { fd } ----->    takes a copy, pidfd_getfd(2)  ----->    state and descriptor
//!                        <-----    ListenerSent
//! becomes the program
//! ```
//! From the first step on the filter holds for the process too. It writes by write(2), for which no
//! profile may ask the agent; the answer it may be the agent's to let it read.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;
use rrun_spec::oci::{LinuxSeccomp, LinuxSeccompAction, Spec};
use serde::Serialize;
use serde_json::Value;

use crate::container::Status;
use crate::handover;
use crate::process::StateOfHooks;
use crate::sys::process::take_descriptor;

/// Where the agent listens, and what it is told of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    path: PathBuf,
    metadata: Option<String>,
}

/// The process whose calls are asked about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its number, as the command sees it.
    pub pid: Pid,
    /// Its pidfd.
    pub pidfd: BorrowedFd<'a>,
    /// The number that the descriptor has in it.
    pub fd: i32,
}

/// "The Container Process State" of runtime-spec's config-linux.md.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: Value,
}

impl Listener {
    /// The agent of `spec`'s profile, if that has anything to ask.
    #[must_use]
    pub fn of(spec: &Spec) -> Option<Self> {
        let profile = spec.linux().as_ref()?.seccomp().as_ref()?;
        let path = profile.listener_path().clone().filter(|_path| asks(profile))?;
        Some(Self { path, metadata: profile.listener_metadata().clone() })
    }

    /// Gives the agent the descriptor of `asked`, whose container is in `status` and has the first
    /// process `init`.
    ///
    /// # Errors
    ///
    /// If nobody listens, or the descriptor cannot be taken.
    pub fn tell(
        &self,
        asked: Asked<'_>,
        state: &StateOfHooks,
        status: Status,
        init: Pid,
    ) -> Result<()> {
        let send = || {
            let fd = take_descriptor(asked.pidfd, asked.fd).context("take the descriptor")?;
            let message = ContainerProcessState {
                oci_version: &state.version,
                fds: ["seccompFd"],
                pid: asked.pid.as_raw(),
                metadata: self.metadata.as_deref(),
                state: serde_json::from_slice(&state.json(status, init)?)?,
            };
            handover::send(&self.path, &serde_json::to_vec(&message)?, fd.as_fd())
        };
        send().with_context(|| {
            // The words of runc.
            let at = self.path.display();
            format!("/linux/seccomp/listenerPath: failed to connect with seccomp agent at {at}")
        })
    }
}

/// Whether a rule of `profile` leaves the answer to an agent.
#[must_use]
pub fn asks(profile: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    profile.syscalls().iter().flatten().any(|rule| rule.action() == notify)
}
