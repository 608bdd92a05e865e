//! The command line: runc's verbs, flags, output and exit codes, because engines call them.
//!
//! One file per verb: arguments and calls, no logic.

mod checkpoint;
mod completion;
mod create;
mod creation;
mod delete;
mod events;
mod exec;
mod features;
mod format;
mod image;
mod images;
mod kill;
mod list;
mod mounts;
pub mod overlay;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::container::{Cgroups, ContainerId, Runtime};
use crate::host::Host;
use crate::log;
use crate::store::{self, containers::Containers};
use crate::sys::regex::Regex;

/// What `--version` prints after the name: engines read the first lines.
const VERSION: &str = concat!(
    "version ",
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("RRUN_COMMIT"),
    "\nspec: 1.3.0"
);

/// A rootless OCI container runtime with its own copy-on-write file system
#[derive(Debug, Parser)]
#[command(name = "rrun", version = VERSION, disable_version_flag = true, max_term_width = 100)]
pub struct Command {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags that stand before the verb.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory of the runtime's state [default: rrun in /run or in `$XDG_RUNTIME_DIR`]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// File that takes errors and warnings, one line each [default: standard error]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of the lines in the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: log::Format,
    /// Log what is done, too
    #[arg(long)]
    debug: bool,
    /// How the container's cgroups are made
    #[arg(long, value_name = "MANAGER", default_value = "cgroupfs")]
    cgroup_manager: CgroupManager,
    /// Let systemd make the container's cgroups, as --cgroup-manager systemd does
    #[arg(long)]
    systemd_cgroup: bool,
    /// Whether a cgroup that may not be made is no error
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    rootless: Rootless,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The values of `--cgroup-manager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupManager {
    /// Directories of the cgroup file system.
    Cgroupfs,
    /// Units of systemd.
    Systemd,
    /// None: containers stay in the cgroups of the caller.
    Disabled,
}

/// The values of `--rootless`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rootless {
    /// If this is not root of the whole machine.
    Auto,
    /// Yes.
    #[value(alias = "1")]
    True,
    /// No.
    #[value(alias = "0")]
    False,
}

// A verb's arguments are described only when it is the one that was given; this line on each is what
// the list of verbs shows.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Verb {
    /// Create a container
    Create(create::Create),
    /// Start a created container
    Start(start::Start),
    /// Show the state of a container, as JSON
    State(state::State),
    /// Send a signal to a container
    Kill(kill::Kill),
    /// Delete a container
    Delete(delete::Delete),
    /// Create and start a container
    Run(run::Run),
    /// Run a program in a container
    Exec(exec::Exec),
    /// Stop every process of a container where it is
    Pause(pause::Pause),
    /// Let the processes of a paused container go on
    Resume(resume::Resume),
    /// Change the limits of a container
    Update(update::Update),
    /// Show what a container uses, and when it runs out of memory
    Events(events::Events),
    /// Save a running container to files
    Checkpoint(checkpoint::Checkpoint),
    /// Bring a container back that checkpoint has saved
    Restore(restore::Restore),
    /// List the containers
    List(list::List),
    /// Show the processes of a container
    Ps(ps::Ps),
    /// Add mounts to a container that runs, or remove them
    Mounts(mounts::Mounts),
    /// Write a new config.json
    Spec(spec::Spec),
    /// Show what this runtime supports, as JSON
    Features(features::Features),
    /// Manage images
    Image(image::Image),
    /// List the images
    Images(image::Ls),
    /// Mount layers as one tree, in the caller's user and mount namespace
    Overlay(overlay::Overlay),
    /// Print a script that completes command lines of rrun
    Completion(completion::Completion),
    /// Write the man pages of rrun into a directory
    Man(completion::Man),
}

impl Command {
    /// Does what the command line says.
    ///
    /// # Errors
    ///
    /// What failed, from the operation down to the cause.
    pub fn run(self) -> anyhow::Result<u8> {
        let global = &self.global;
        match self.verb {
            Verb::Create(verb) => verb.run(global),
            Verb::Start(verb) => verb.run(global),
            Verb::State(verb) => verb.run(global),
            Verb::Kill(verb) => verb.run(global),
            Verb::Delete(verb) => verb.run(global),
            Verb::Run(verb) => verb.run(global),
            Verb::Exec(verb) => verb.run(global),
            Verb::Pause(verb) => verb.run(global),
            Verb::Resume(verb) => verb.run(global),
            Verb::Update(verb) => verb.run(global),
            Verb::Events(verb) => verb.run(global),
            Verb::Checkpoint(verb) => verb.run(global),
            Verb::Restore(verb) => verb.run(global),
            Verb::List(verb) => verb.run(global),
            Verb::Ps(verb) => verb.run(global),
            Verb::Mounts(verb) => verb.run(global),
            Verb::Spec(verb) => verb.run(global),
            Verb::Features(verb) => verb.run(global),
            Verb::Image(verb) => verb.run(global),
            Verb::Images(verb) => verb.run(global),
            Verb::Overlay(verb) => verb.run(global),
            Verb::Completion(verb) => verb.run(global),
            Verb::Man(verb) => verb.run(global),
        }
    }

    /// Sends what is logged where the flags say.
    ///
    /// # Errors
    ///
    /// If the log file cannot be opened.
    pub fn start_log(&self) -> anyhow::Result<()> {
        let tells = matches!(&self.verb, Verb::Overlay(verb) if verb.tells());
        let debug = self.global.debug || tells;
        log::start(self.global.log.as_deref(), self.global.log_format, debug)
    }

    /// The exit code of a failure: that of `exec` is 255, as runc's.
    #[must_use]
    pub fn failure(&self) -> u8 {
        if matches!(self.verb, Verb::Exec(_)) { 255 } else { 1 }
    }
}

impl Global {
    /// The runtime that the flags describe.
    ///
    /// # Errors
    ///
    /// If there is no place for the state.
    fn runtime(&self) -> anyhow::Result<Runtime> {
        let host = Host::probe();
        let root = match &self.root {
            Some(root) => {
                std::path::absolute(root).with_context(|| format!("--root {}", root.display()))?
            }
            None => store::default_root(&host)?,
        };
        store::ensure_private(&root, &host)?;
        Ok(Runtime {
            containers: Containers::at(root),
            data_root: store::data_root(&host).ok(),
            cgroups: match self.cgroup_manager {
                CgroupManager::Disabled => Cgroups::Disabled,
                CgroupManager::Systemd => Cgroups::Systemd,
                CgroupManager::Cgroupfs if self.systemd_cgroup => Cgroups::Systemd,
                CgroupManager::Cgroupfs => Cgroups::Cgroupfs,
            },
            tolerate_cgroups: match self.rootless {
                Rootless::Auto => !host.is_real_root(),
                Rootless::True => true,
                Rootless::False => false,
            },
            host,
        })
    }
}

/// The containers that `names` mean: their names, or if those are regular expressions (crun's
/// `--regex`), every container that one of them fits.
///
/// # Errors
///
/// What no container can be called, or is no regular expression.
fn chosen(runtime: &Runtime, names: &[String], regex: bool) -> anyhow::Result<Vec<ContainerId>> {
    if !regex {
        return names.iter().map(|name| name.parse().map_err(anyhow::Error::msg)).collect();
    }
    let patterns = names.iter().map(|name| Regex::new(name)).collect::<Result<Vec<_>, _>>();
    let patterns = patterns.map_err(anyhow::Error::msg)?;
    let fits = |id: &ContainerId| patterns.iter().any(|pattern| pattern.is_in(id.as_str()));
    Ok(runtime.containers.all()?.into_iter().map(|record| record.id).filter(fits).collect())
}

/// Prints to standard output; a reader that has gone is no error.
///
/// # Errors
///
/// Those of `write(2)`, a full disk for one.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Command as clap::CommandFactory>::command().debug_assert();
    }

    /// What has no help makes a poor man page.
    #[test]
    fn every_flag_has_help() {
        fn missing(command: &clap::Command, path: &str) -> Vec<String> {
            let path = format!("{path}{} ", command.get_name());
            let silent = command.get_arguments().filter(|arg| arg.get_help().is_none());
            let mut all: Vec<_> = silent.map(|arg| format!("{path}{}", arg.get_id())).collect();
            let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
            all.extend(verbs.flat_map(|verb| missing(verb, &path)));
            all
        }
        let mut command = <Command as clap::CommandFactory>::command();
        command.build();
        assert_eq!(missing(&command, ""), Vec::<String>::new());
    }

    #[test]
    fn every_verb_says_what_it_does() {
        let mut command = <Command as clap::CommandFactory>::command();
        let listed: Vec<_> = command
            .get_subcommands()
            .map(|verb| (verb.get_name().to_owned(), verb.get_about().map(ToString::to_string)))
            .collect();
        command.build();
        for (verb, about) in listed {
            let built = command.find_subcommand(&verb).unwrap();
            assert!(about.is_some(), "{verb}: put its first line on the variant of Verb, too");
            assert_eq!(about, built.get_about().map(ToString::to_string), "{verb}");
        }
    }

    #[test]
    fn options_may_follow_the_container() {
        for line in [
            "rrun create --bundle /b --pid-file p ID",
            "rrun create ID --bundle /b --pid-file p",
            "rrun --root /r --log l --log-format json delete --force ID",
            "rrun kill ID 9 --all",
            "rrun kill --all ID KILL",
            "rrun exec --process p --detach --pid-file f ID",
            "rrun exec --cwd / -e A=1 ID sh -c 'exit 1'",
            "rrun update --resources - ID",
            "rrun update --resources=/f ID",
            "rrun update ID --memory -1 --cpu-quota -1 --pids-limit -1 --memory-swap 1g",
            "rrun run --bundle /b --no-pivot --no-new-keyring --preserve-fds 2 ID",
            "rrun checkpoint --image-path i --work-path w --leave-running --file-locks ID",
            "rrun checkpoint --pre-dump --parent-path p --lazy-pages --page-server h:1 ID",
            "rrun restore --image-path i --bundle b --pid-file p --detach --no-subreaper ID",
            "rrun restore --empty-ns network --manage-cgroups-mode ignore ID -d",
        ] {
            let parsed = Command::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
        }
    }
}
