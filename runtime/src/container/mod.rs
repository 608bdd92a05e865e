//! The life of a container: what may happen when, and in what order.
//!
//! Each operation of the specification is a file. All work on the container's entry in the store,
//! locked while it changes.

pub mod checkpoint;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
mod id;
pub mod kill;
mod limits;
pub mod mounts;
pub mod pause;
pub mod processes;
pub mod restore;
pub mod run;
pub mod start;
pub mod state;
mod status;
pub mod update;

pub use id::ContainerId;
pub use status::{Action, Status};

use std::path::PathBuf;

use crate::host::Host;
use crate::store::containers::Containers;

/// What every operation works with.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The user and the machine.
    pub host: Host,
    /// The containers below `--root`.
    pub containers: Containers,
    /// Where writable layers are kept; `None` if the environment names no place.
    pub data_root: Option<PathBuf>,
    /// Whether containers get cgroups.
    pub cgroups: Cgroups,
    /// Whether a cgroup that may not be made is no error.
    pub tolerate_cgroups: bool,
}

/// `--cgroup-manager`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Cgroups {
    /// The runtime makes and removes directories of the cgroup file system.
    #[default]
    Cgroupfs,
    /// systemd makes and removes transient scopes.
    Systemd,
    /// Containers stay in the cgroups of the caller.
    Disabled,
}
