//! Which process does what.
//!
//! ```text
//! rrun create / run            (a sealed copy of itself, single-threaded)
//!  ├─ usher                    only if namespaces are joined by path: joins them, makes init, ends
//!  ├─ newuidmap, newgidmap     write the ID maps of a new user namespace
//!  ├─ overlay server           only for a layered root: in the container's user namespace and in the
//!  │                           host's other namespaces; ends when the mount is gone
//!  └─ init                     in all of the container's namespaces; becomes the program
//!
//! rrun exec
//!  └─ usher                    joins the container's namespaces, makes the process, ends
//!      └─ (reparented to exec) becomes the program
//! ```
//! `create` ends when init waits for `start`; init and the server then belong to whoever reaps for
//! the caller. `run` in the foreground stays, passes signals and the terminal on, and cleans up.

pub mod channel;
pub mod enter;
mod fusermount;
pub mod guest;
pub mod init;
pub mod keyring;
pub mod listener;
pub mod parent;
pub mod protocol;
pub mod server;

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde::Serialize;

use crate::confine::resctrl::Resctrl;
use crate::container::{ContainerId, Status};
use crate::hooks::{Occasion, Streams};
use crate::netdevices::Device;
use crate::rootfs::cgroup::CgroupView;

/// What a process of ours knows of the container besides its plan.
#[derive(Debug)]
pub struct Site<'a> {
    /// The container's directory in the store.
    pub directory: &'a Path,
    /// The first descriptor that the program does not get.
    pub first_closed: u32,
    /// Whether the container's user namespace is not ours.
    pub own_user_namespace: bool,
    /// The name of its session keyring.
    pub keyring: CString,
    /// The container's class of service for caches and memory bandwidth.
    pub resctrl: Option<Resctrl>,
    /// Devices of the host's network that become the container's.
    pub devices: Vec<Device>,
    /// What a mount of type `cgroup` shows.
    pub cgroups: CgroupView,
    /// What hooks are told.
    pub state: StateOfHooks,
    /// Where the output of hooks goes.
    pub hook_streams: Streams,
}

impl Site<'_> {
    /// For hooks of `kind`, in the bundle and with the runtime's environment.
    #[must_use]
    pub fn occasion<'a>(&'a self, kind: &'static str, state: &'a [u8]) -> Occasion<'a> {
        let (directory, streams) = (&self.state.bundle, &self.hook_streams);
        Occasion { kind, state, directory, environment: None, streams }
    }
}

/// The state that hooks read from standard input (runtime-spec, "State").
#[derive(Debug, Clone)]
pub struct StateOfHooks {
    /// The version of the specification that the bundle follows.
    pub version: String,
    /// The container's name.
    pub id: ContainerId,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The annotations of the configuration.
    pub annotations: HashMap<String, String>,
}

impl StateOfHooks {
    /// The state as JSON, for a container in `status` whose first process is `pid`.
    ///
    /// # Errors
    ///
    /// If the bundle's path is not UTF-8.
    pub fn json(&self, status: Status, pid: Pid) -> anyhow::Result<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct State<'a> {
            oci_version: &'a str,
            id: &'a ContainerId,
            status: Status,
            #[serde(skip_serializing_if = "Option::is_none")]
            pid: Option<i32>,
            bundle: &'a Path,
            #[serde(skip_serializing_if = "HashMap::is_empty")]
            annotations: &'a HashMap<String, String>,
        }
        let state = State {
            oci_version: &self.version,
            id: &self.id,
            status,
            pid: (status != Status::Stopped).then_some(pid.as_raw()),
            bundle: &self.bundle,
            annotations: &self.annotations,
        };
        Ok(serde_json::to_vec(&state)?)
    }
}
