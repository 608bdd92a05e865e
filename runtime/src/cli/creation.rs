//! The flags that `create` and `run` share.

use std::env;
use std::path::PathBuf;

use clap::Args;

use crate::container::ContainerId;
use crate::container::create::Request;
use crate::plan::overlay::Flags;

/// Which container to make, and out of what.
#[derive(Debug, Clone, Args)]
pub(super) struct Creation {
    /// Name of the new container
    #[arg(value_name = "ID")]
    pub(super) id: ContainerId,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Configuration to use in place of the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket that takes the master side of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Socket that takes a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// File that takes the number of the container's first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Descriptors after the standard three that the program gets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Change the root as a ramdisk needs it, where it cannot be pivoted
    #[arg(long)]
    no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Read-only layers of the root, topmost first, separated by colons
    #[arg(long, value_name = "DIR[:DIR...]")]
    lowerdir: Option<String>,
    /// Writable layer; without it one is kept for the container
    #[arg(long, value_name = "DIR")]
    upperdir: Option<String>,
    /// Work directory beside the writable layer, on the same file system
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
}

/// How many sockets a service manager has handed over, from descriptor 3 on, for the container.
///
/// As with crun, they may be for whoever gets them; only those for another process are not.
///
/// Source: `sd_listen_fds(3)`.
fn activation_fds() -> u32 {
    let variable = |name| env::var(name).ok();
    let for_us = variable("LISTEN_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let count = variable("LISTEN_FDS").and_then(|count| count.parse().ok());
    count.filter(|_| for_us).unwrap_or(0)
}

impl Creation {
    /// The request; `detached` says whether nobody will pass the terminal on.
    pub(super) fn request(&self, detached: bool) -> Request {
        Request {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            config: self.config.clone(),
            console_socket: self.console_socket.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            pid_file: self.pid_file.clone(),
            preserve_fds: self.preserve_fds,
            activation_fds: activation_fds(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            layers: Flags {
                lowerdir: self.lowerdir.clone(),
                upperdir: self.upperdir.clone(),
                workdir: self.workdir.clone(),
            },
            detached,
        }
    }
}
