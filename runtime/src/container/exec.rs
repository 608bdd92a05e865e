//! Exec: a further program in a container that exists.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use nix::sched::CloneFlags;
use rrun_spec::oci::{Capability, LinuxCapabilities, Process, Spec};

use crate::confine::capabilities::Available;
use crate::confine::cgroup::Cgroup;
use crate::console;
use crate::container::create::{hand_on_pidfd, landlock_profile};
use crate::container::{Action, ContainerId, Runtime, Status};
use crate::namespaces::Namespaces;
use crate::plan::identity::{Means, Program, keeps_groups, no_capabilities};
use crate::process::guest::{self, Made, Order};
use crate::process::keyring;
use crate::process::listener::Listener;
use crate::process::parent::write_pid_file;
use crate::store::containers::Record;

/// The first descriptor after the standard three.
const FIRST: u32 = 3;

/// What the caller of `exec` asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The process as a file holds it; else the container's own with what follows changed.
    pub process: Option<PathBuf>,
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// `--user UID[:GID]`
    pub user: Option<(u32, Option<u32>)>,
    /// `--additional-gids`
    pub groups: Vec<u32>,
    /// `--cwd`
    pub directory: Option<PathBuf>,
    /// `--env`, added to the container's own.
    pub environment: Vec<String>,
    /// `--cap`, added to the container's own.
    pub capabilities: Vec<Capability>,
    /// `--tty`
    pub terminal: bool,
    /// `--no-new-privs`
    pub no_new_privileges: bool,
    /// `--apparmor`
    pub apparmor: Option<String>,
    /// `--process-label`
    pub selinux: Option<String>,
    /// `--ignore-paused`
    pub ignore_paused: bool,
    /// Where to send the terminal's master side.
    pub console_socket: Option<PathBuf>,
    /// Where to send a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Where to write the number of the process.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors after the standard three the program gets.
    pub preserve_fds: u32,
    /// Whether we end when it runs.
    pub detach: bool,
    /// `--cgroup`: where below the container's cgroup it goes.
    pub cgroups: Vec<String>,
}

impl Runtime {
    /// Runs a program in `id`. It runs when this returns, and is a child of ours.
    ///
    /// # Errors
    ///
    /// If the container does not run, or the program cannot, in runc's words.
    pub fn exec(&self, id: &ContainerId, request: &Request) -> anyhow::Result<Made> {
        let record = self.containers.read(id)?;
        check_status(self.status(&record), request)?;
        let spec = self.containers.config(id)?;
        let process = process(&spec, request)?;
        let mut program = program(&spec, &process, &record, request)?;
        program.seccomp = self.filter(&spec)?;
        let listener = Listener::of(&spec);
        let init = self.pidfd(&record).context("container not running")?;
        let cgroup = record.cgroup.as_ref();
        let within = |cgroup: &Cgroup| cgroup.within(&request.cgroups, record.init.pid());
        let cgroup = cgroup.map(within).transpose()?;
        ensure!(
            cgroup.is_some() || request.cgroups.is_empty(),
            "--cgroup: the container has no cgroup"
        );
        let order = Order {
            program: &program,
            init: init.as_fd(),
            namespaces: namespaces(&spec, &record),
            cgroup: cgroup.as_ref(),
            keyring: record.own_keyring.then(|| keyring::name(id)).transpose()?,
            first_closed: FIRST + request.preserve_fds,
            asks_agent: listener.is_some(),
            at_once: request.pid_file.is_none()
                && request.pidfd_socket.is_none()
                && cgroup.as_ref().is_none_or(|cgroup| !cgroup.moves_by_itself())
                && record.resctrl.is_none()
                && !program.terminal,
        };
        let mut made = guest::make(&order)?;
        hand_on(&mut made, &record, request)?;
        made.start(&order, &mut |asked| match &listener {
            Some(listener) => {
                let state = self.state_of_hooks(&record)?;
                listener.tell(asked, &state, Status::Running, record.init.pid())
            }
            None => Ok(()),
        })?;
        Ok(made)
    }
}

fn check_status(status: Status, request: &Request) -> anyhow::Result<()> {
    match status {
        status if status.accepts(Action::Exec) => Ok(()),
        Status::Paused if request.ignore_paused => Ok(()),
        Status::Paused => bail!(
            "cannot exec in a paused container (use --ignore-paused to override): it would wait for \
             `rrun resume`"
        ),
        _ => bail!("cannot exec in a stopped container: container not running"),
    }
}

/// Puts the process into its class of service, and gives the caller what it wants of it: its terminal, its
/// pidfd, its number.
fn hand_on(made: &mut Made, record: &Record, request: &Request) -> anyhow::Result<()> {
    if let Some(resctrl) = &record.resctrl {
        resctrl.add(made.child.pid)?;
    }
    if let Some(socket) = &request.console_socket {
        let master = made.console.take().context("the process sent no terminal")?;
        console::send_master(socket, &master)?;
    }
    hand_on_pidfd(request.pidfd_socket.as_deref(), &made.child)?;
    if let Some(path) = &request.pid_file {
        write_pid_file(path, made.child.pid)?;
    }
    if let Some(master) = &made.console {
        console::suit_caller(master)?;
    }
    Ok(())
}

/// The namespaces of the container that are not ours.
pub(super) fn namespaces(spec: &Spec, record: &Record) -> CloneFlags {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone());
    let namespaces = Namespaces::of(wanted.as_deref().unwrap_or_default());
    let mut flags = namespaces.new;
    namespaces.join.iter().for_each(|join| flags |= join.kind);
    flags.set(CloneFlags::CLONE_NEWUSER, record.own_user_namespace);
    flags
}

fn program(
    spec: &Spec,
    process: &Process,
    record: &Record,
    request: &Request,
) -> anyhow::Result<Program> {
    match (process.terminal().unwrap_or(false), &request.console_socket) {
        (true, None) if request.detach => bail!(
            "cannot allocate tty if rrun will detach without setting console socket: \
             give --console-socket"
        ),
        (false, Some(_)) => {
            bail!("cannot use console socket if rrun will not detach or allocate tty: give --tty")
        }
        _ => {}
    }
    let available = Available::current()?;
    let means = Means {
        capabilities: if record.own_user_namespace {
            available.in_new_user_namespace()
        } else {
            available
        },
        maps: None,
        linux: spec.linux().as_ref(),
        keep_groups: keeps_groups(&record.annotations),
    };
    let mut warnings = Vec::new();
    let mut program = Program::plan(process, means, &mut warnings)?;
    program.landlock = landlock_profile(spec, &mut warnings)?;
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    Ok(program)
}

/// The process of the request's file, or the container's own with the request's changes.
fn process(spec: &Spec, request: &Request) -> anyhow::Result<Process> {
    let process = match &request.process {
        Some(path) => rrun_spec::load_process(path)?,
        None => changed(spec.process().clone().context("/process: want a process")?, request),
    };
    rrun_spec::check_process(&process)?;
    Ok(process)
}

fn changed(mut process: Process, request: &Request) -> Process {
    process.set_args(Some(request.arguments.clone()));
    process.set_terminal(Some(request.terminal));
    process.set_console_size(None);
    if let Some(directory) = &request.directory {
        process.set_cwd(directory.clone());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(request.environment.iter().cloned());
    process.set_env(Some(environment));
    let mut user = process.user().clone();
    if let Some((uid, gid)) = request.user {
        user.set_uid(uid);
        user.set_gid(gid.unwrap_or(user.gid()));
    }
    if !request.groups.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&request.groups);
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    if let Some(profile) = &request.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &request.selinux {
        process.set_selinux_label(Some(label.clone()));
    }
    if request.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    let capabilities = process.capabilities().clone().unwrap_or_else(no_capabilities);
    process.set_capabilities(Some(with_more(capabilities, &request.capabilities)));
    process
}

/// Adds to the bounding, permitted and effective sets, and never to the inheritable one
/// (CVE-2022-29162); as with runc, what is inheritable already becomes ambient.
fn with_more(mut capabilities: LinuxCapabilities, more: &[Capability]) -> LinuxCapabilities {
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(more);
        Some(set)
    };
    let inheritable = capabilities.inheritable().clone().unwrap_or_default();
    let mut ambient = capabilities.ambient().clone().unwrap_or_default();
    ambient.extend(more.iter().filter(|capability| inheritable.contains(capability)));
    capabilities.set_ambient(Some(ambient));
    capabilities.set_bounding(with(capabilities.bounding()));
    capabilities.set_permitted(with(capabilities.permitted()));
    capabilities.set_effective(with(capabilities.effective()));
    capabilities
}
