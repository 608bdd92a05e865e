//! The flags that `checkpoint` and `restore` share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::container::checkpoint::Images;
use crate::criu::rpc::CgroupMode;

/// Where CRIU's images are when nobody says so, as with runc.
const DEFAULT: &str = "checkpoint";

/// The images, and how they are made and read.
#[derive(Debug, Clone, Args)]
pub(super) struct ImagesArgs {
    /// Directory of the images
    #[arg(long, value_name = "DIR", default_value = DEFAULT)]
    image_path: PathBuf,
    /// Directory of CRIU's log and other files [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Take open TCP connections along
    #[arg(long)]
    tcp_established: bool,
    /// Allow unix sockets whose other end is outside of the container
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session and terminal of a shell outside of the container
    #[arg(long)]
    shell_job: bool,
    /// Take file locks along
    #[arg(long)]
    file_locks: bool,
    /// Let memory follow when it is touched
    #[arg(long)]
    lazy_pages: bool,
    /// Remove pages that newer images have, too, from those that they build on
    #[arg(long)]
    auto_dedup: bool,
    /// What is done about cgroups [default: soft]
    #[arg(long, value_name = "MODE")]
    manage_cgroups_mode: Option<Mode>,
    /// Make this namespace, but do not fill it; that is always done with the network's
    #[arg(long, value_name = "NAMESPACE")]
    empty_ns: Vec<Emptied>,
}

/// The values of `--manage-cgroups-mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Restore the properties of cgroups that were not there
    Soft,
    /// Restore all properties
    Full,
    /// Restore all, and refuse if one is there
    Strict,
    /// Do nothing
    Ignore,
}

/// The values of `--empty-ns`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Emptied {
    /// The network namespace, whose interfaces are the engine's
    Network,
}

impl ImagesArgs {
    /// What they ask for.
    pub(super) fn images(&self) -> Images {
        // The only one there is, is always made empty.
        self.empty_ns.iter().for_each(|Emptied::Network| ());
        Images {
            directory: self.image_path.clone(),
            work: self.work_path.clone(),
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            lazy_pages: self.lazy_pages,
            auto_dedup: self.auto_dedup,
            cgroups: match self.manage_cgroups_mode {
                None => CgroupMode::Default,
                Some(Mode::Soft) => CgroupMode::Soft,
                Some(Mode::Full) => CgroupMode::Full,
                Some(Mode::Strict) => CgroupMode::Strict,
                Some(Mode::Ignore) => CgroupMode::Ignore,
            },
        }
    }
}
