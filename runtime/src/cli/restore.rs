//! `rrun restore`: a container's processes come back from files.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Global;
use super::images::ImagesArgs;
use crate::container::restore::Request;
use crate::container::run::After;
use crate::container::{ContainerId, create};
use crate::plan::overlay::Flags;

/// Bring a container back that checkpoint has saved
///
/// The program criu does the work; it needs root. In the foreground, signals are passed on, the exit
/// code is that of the program, and the container is deleted at the end.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// Name of the new container
    #[arg(value_name = "ID")]
    id: ContainerId,
    #[command(flatten)]
    images: ImagesArgs,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Socket that takes the master side of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File that takes the number of the container's first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// End as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// Do not adopt processes that lose their parent
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for engines that pass it: CRIU knows itself how to change the root
    #[arg(long)]
    no_pivot: bool,
    /// Profile of the security module for the processes
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// Context of the security module for mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
}

impl Restore {
    /// Brings the container back and, in the foreground, waits for its program.
    ///
    /// # Errors
    ///
    /// If CRIU is missing or refuses; nothing is left of the container then.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let creation = create::Request {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            config: None,
            console_socket: self.console_socket.clone(),
            pid_file: self.pid_file.clone(),
            preserve_fds: 0,
            no_pivot: self.no_pivot,
            no_new_keyring: false,
            layers: Flags::default(),
            detached: self.detach,
            activation_fds: 0,
            pidfd_socket: None,
        };
        let request = Request {
            creation,
            images: self.images.images(),
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
        };
        let after = After { detach: self.detach, keep: false, subreaper: !self.no_subreaper };
        let restored = global.runtime()?.restore(&request, after);
        restored.with_context(|| format!("restore {}", self.id))
    }
}
