//! Create: from a bundle to a container that waits for its start.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use jiff::Timestamp;
use nix::sched::CloneFlags;
use rrun_spec::oci::{Hook, Spec};
use rrun_spec::{Bundle, Problems};

use crate::confine::capabilities::Available;
use crate::confine::cgroup::Cgroup;
use crate::confine::resctrl::{self, Resctrl};
use crate::confine::seccomp;
use crate::console;
use crate::container::delete::poststop;
use crate::container::limits::Undo;
use crate::container::{ContainerId, Runtime};
use crate::handover;
use crate::hooks::Streams;
use crate::host;
use crate::netdevices;
use crate::plan::{self, Given, Plan, landlock, overlay};
use crate::process::listener::Listener;
use crate::process::parent::{self, Made, Order, write_pid_file};
use crate::process::{Site, StateOfHooks, keyring};
use crate::store::containers::{Entry, ProcessIdentity, Record};
use crate::store::layers::KeptLayer;
use crate::sys;
use crate::sys::process::Child;
use crate::userns::subid;

/// The first descriptor after the standard three.
const FIRST: u32 = 3;

/// What the caller of `create` or `run` asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The container's name.
    pub id: ContainerId,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The configuration, if it is not the bundle's `config.json`.
    pub config: Option<PathBuf>,
    /// Where to send the terminal's master side.
    pub console_socket: Option<PathBuf>,
    /// Where to send a pidfd of the first process.
    pub pidfd_socket: Option<PathBuf>,
    /// Where to write the number of the first process.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors after the standard three the program gets.
    pub preserve_fds: u32,
    /// How many sockets of a service manager come before those; the program is told of them.
    pub activation_fds: u32,
    /// Whether to leave the old root without `pivot_root`.
    pub no_pivot: bool,
    /// Whether to stay in the caller's session keyring.
    pub no_new_keyring: bool,
    /// Layers of the root; they override annotations.
    pub layers: overlay::Flags,
    /// Whether nobody will be there to pass the terminal on.
    pub detached: bool,
}

/// A container that was made and whose init waits for its last word.
#[derive(Debug)]
pub struct Created {
    /// Its entry, locked.
    pub entry: Entry,
    /// What is known of it.
    pub record: Record,
    /// Its processes.
    pub made: Made,
    /// Whether its first process waits with the filter of system calls in force.
    is_filtered: bool,
    /// The hooks of its configuration.
    pub hooks: rrun_spec::oci::Hooks,
}

impl Runtime {
    /// Creates a container, which then waits for `start`.
    ///
    /// # Errors
    ///
    /// What failed; nothing is left of the container then.
    pub fn create(&self, request: &Request) -> anyhow::Result<()> {
        let mut created = self.prepare(request, true)?;
        match created.made.leave_to_start(&created.entry, created.is_filtered) {
            Ok(()) => Ok(()),
            Err(error) => self.undo(created).and(Err(error)),
        }
    }

    /// Removes a container that was made and is not to be.
    pub(super) fn undo(&self, created: Created) -> anyhow::Result<()> {
        let Created { entry, record, made, .. } = created;
        drop(made);
        self.end(&record)?;
        self.clean(entry, &record)
    }

    /// Creates a container whose program waits for our last word; with `awaits_start` that may be
    /// to wait for `start`.
    ///
    /// # Errors
    ///
    /// What failed; nothing is left of the container then.
    pub fn prepare(&self, request: &Request, awaits_start: bool) -> anyhow::Result<Created> {
        let bundle = load(request)?;
        let mut plan = self.plan(&bundle, request)?;
        if request.detached && !awaits_start && request.console_socket.is_none() {
            do_without_terminal(&mut plan);
        }
        check_console(&plan, request)?;
        log::debug!("create {} from {}", request.id, bundle.dir.display());
        plan.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        let entry = self.containers.reserve(&request.id)?;
        self.clear_remains(&entry, &request.id)?;
        let mut attempt = Attempt::of(entry);
        attempt.new_layer = self.give_writable_layer(&mut plan, &request.id)?;
        self.make(&bundle, plan, (request, awaits_start), attempt)
    }

    /// Decides everything.
    pub(super) fn plan(&self, bundle: &Bundle, request: &Request) -> anyhow::Result<Plan> {
        let spec = &bundle.spec;
        let annotations = spec.annotations().clone().unwrap_or_default();
        let here = std::env::current_dir().context("look where we are")?;
        let needs_user_namespace = self.host.needs_user_namespace();
        let default_maps = plan::needs_default_maps(spec, needs_user_namespace)
            .then(subid::rootless_maps)
            .transpose()?;
        let (default_maps, warning) = default_maps.unzip();
        let mut plan = plan::plan(
            spec,
            &Given {
                bundle: &bundle.dir,
                default_maps,
                capabilities: Available::current()?,
                needs_user_namespace,
                overlay: overlay::plan(&annotations, &request.layers, &bundle.dir, &here)?,
                no_pivot: request.no_pivot,
                no_new_keyring: request.no_new_keyring,
            },
        )?;
        plan.warnings.extend(warning.flatten());
        check_root(&plan)?;
        if request.activation_fds > 0 {
            plan.program.announce_sockets(request.activation_fds);
        }
        plan.program.landlock = landlock_profile(spec, &mut plan.warnings)?;
        plan.program.seccomp = self.filter(spec)?;
        Ok(plan)
    }

    /// The filter of system calls that `spec` wants.
    ///
    /// # Errors
    ///
    /// What is wrong with it, with its JSON pointer.
    pub(super) fn filter(&self, spec: &Spec) -> anyhow::Result<Option<seccomp::Program>> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let cache = self.containers.seccomp_cache();
        if let (Some(profile), Some(annotations)) = (profile, spec.annotations()) {
            seccomp::refuse_unknown(profile, annotations)?;
        }
        profile.map(|profile| seccomp::compile(profile, Some(&cache))).transpose()
    }

    /// The kept layer for a layered root whose configuration names none; returned if it is new.
    fn give_writable_layer(
        &self,
        plan: &mut Plan,
        id: &ContainerId,
    ) -> anyhow::Result<Option<KeptLayer>> {
        let Some(layers) = &mut plan.root.overlay else { return Ok(None) };
        if layers.upperdir.is_some() {
            return Ok(None);
        }
        let kept = KeptLayer::of(id, self.data_root()?);
        layers.upperdir = Some(kept.upperdir());
        layers.workdir = Some(kept.workdir());
        Ok(kept.prepare(plan.maps.as_ref())?.then_some(kept))
    }

    /// Where writable layers are kept.
    ///
    /// # Errors
    ///
    /// If the environment names no place.
    pub fn data_root(&self) -> anyhow::Result<&Path> {
        self.data_root
            .as_deref()
            .context("no place to keep the writable layer: set HOME, XDG_DATA_HOME or RRUN_DATA")
    }

    fn make(
        &self,
        bundle: &Bundle,
        plan: Plan,
        (request, awaits_start): (&Request, bool),
        mut attempt: Attempt,
    ) -> anyhow::Result<Created> {
        let state = state_of_hooks(bundle, &request.id);
        // First of all: it says which cgroups to look for if this process is killed.
        attempt.entry()?.write_config(&bundle.text)?;
        let (cgroups, scope) = self.cgroups(&bundle.spec, &plan, &request.id)?;
        let mut cgroup = Undo(cgroups.cgroup.clone());
        attempt.resctrl = class_of_service(&bundle.spec, &request.id)?;
        attempt.poststop = plan.hooks.poststop().clone().map(|hooks| (hooks, state.clone()));
        let entry = attempt.entry()?;
        let site = Site {
            directory: entry.path(),
            first_closed: FIRST
                .saturating_add(request.activation_fds)
                .saturating_add(request.preserve_fds),
            own_user_namespace: plan.namespaces.has(CloneFlags::CLONE_NEWUSER),
            keyring: keyring::name(&request.id)?,
            devices: netdevices::find(&plan.net_devices)?,
            resctrl: attempt.resctrl.clone(),
            cgroups,
            state: state.clone(),
            hook_streams: Streams::open(&state.annotations)?,
        };
        let listener = Listener::of(&bundle.spec);
        let order = Order { plan: &plan, site: &site, entry, awaits_start, listener };
        let mut made = parent::begin(&order)?;
        if let Some(scope) = &scope {
            cgroup = Undo(Some(self.start_scope(scope, &made, &plan)?));
        }
        made.go()?;
        // While init works. If there is no record because it has ended, it says why.
        let record = self.record(bundle, &plan, &site, &made, cgroup.0.clone());
        let drafted = record.and_then(|record| Ok((entry.draft(&record)?, record)));
        made.until_ready(&order)?;
        let (draft, record) = drafted?;
        hand_on(&mut made, request)?;
        draft.publish()?;
        if let Some(path) = &request.pid_file {
            write_pid_file(path, made.init.pid)?;
            attempt.pid_file = Some(path.clone());
        }
        cgroup.keep();
        let (entry, is_filtered) = (attempt.succeed()?, plan.is_filtered_early());
        Ok(Created { entry, record, made, is_filtered, hooks: plan.hooks })
    }

    fn record(
        &self,
        bundle: &Bundle,
        plan: &Plan,
        site: &Site<'_>,
        made: &Made,
        cgroup: Option<Cgroup>,
    ) -> anyhow::Result<Record> {
        Ok(Record {
            id: site.state.id.clone(),
            init: ProcessIdentity::of(made.init.pid)?,
            boot_id: host::boot_id(),
            bundle: bundle.dir.clone(),
            rootfs: plan.root.path.clone(),
            created: Timestamp::now().to_string(),
            owner: self.host.uid.as_raw(),
            annotations: bundle.spec.annotations().clone().unwrap_or_default(),
            cgroup,
            server: made.server.map(ProcessIdentity::of).transpose()?,
            own_user_namespace: site.own_user_namespace,
            resctrl: site.resctrl.clone(),
            own_keyring: plan.new_keyring,
            own_pid_namespace: plan.namespaces.makes(CloneFlags::CLONE_NEWPID),
            mount_namespace: made.mount_namespace,
            late_hooks: has_late_hooks(&plan.hooks),
        })
    }
}

/// Whether there are hooks for the commands after `create`.
pub(super) fn has_late_hooks(hooks: &rrun_spec::oci::Hooks) -> bool {
    [hooks.poststart(), hooks.poststop()]
        .into_iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// A creation under way. Dropping it removes what was made outside of processes.
pub(super) struct Attempt {
    entry: Option<Entry>,
    /// Where the first process's number was written.
    pub(super) pid_file: Option<PathBuf>,
    /// Its class of service for caches and memory bandwidth.
    resctrl: Option<Resctrl>,
    new_layer: Option<KeptLayer>,
    /// What is to be run in the end, once the container's processes have been there.
    poststop: Option<(Vec<Hook>, StateOfHooks)>,
}

impl Attempt {
    /// The creation of the container of `entry`.
    pub(super) fn of(entry: Entry) -> Self {
        Self { entry: Some(entry), pid_file: None, resctrl: None, new_layer: None, poststop: None }
    }

    /// The container's directory.
    ///
    /// # Errors
    ///
    /// Never before it has succeeded.
    pub(super) fn entry(&self) -> anyhow::Result<&Entry> {
        self.entry.as_ref().context("the container's directory")
    }

    /// Keeps everything.
    ///
    /// # Errors
    ///
    /// Never.
    pub(super) fn succeed(mut self) -> anyhow::Result<Entry> {
        self.pid_file = None;
        self.resctrl = None;
        self.new_layer = None;
        self.poststop = None;
        self.entry.take().context("the container's directory")
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(path) = self.pid_file.take() {
            let _gone_already = fs::remove_file(path);
        }
        if let Some(Err(error)) = self.resctrl.take().map(|resctrl| resctrl.remove()) {
            log::warn!("{error:#}");
        }
        if let Some(Err(error)) = self.new_layer.take().map(|layer| layer.purge()) {
            log::warn!("{error:#}");
        }
        if let Some(Err(error)) = self.entry.take().map(Entry::remove) {
            log::warn!("{error:#}");
        }
        // After whatever failed, hooks too, the lifecycle goes on at its end.
        if let Some((hooks, state)) = self.poststop.take() {
            poststop(&hooks, &state);
        }
    }
}

pub(super) fn load(request: &Request) -> anyhow::Result<Bundle> {
    let bundle = match &request.config {
        None => rrun_spec::load_bundle(&request.bundle)?,
        Some(config) => rrun_spec::load_bundle_with(&request.bundle, config)?,
    };
    rrun_spec::check(&bundle.spec)?;
    let unsupported = rrun_spec::unsupported(&bundle.spec);
    ensure!(unsupported.is_empty(), "{}", Problems::from(unsupported));
    Ok(bundle)
}

/// As crun, `run --detach` lets the program do without a terminal that nobody would hold.
fn do_without_terminal(plan: &mut Plan) {
    if std::mem::replace(&mut plan.program.terminal, false) {
        let warning = "/process/terminal: nobody holds the terminal of a container in the background: its \
                       program gets our streams; for a terminal give --console-socket";
        plan.warnings.push(warning.to_owned());
    }
}

pub(super) fn check_console(plan: &Plan, request: &Request) -> anyhow::Result<()> {
    match (plan.program.terminal, &request.console_socket) {
        (true, None) if request.detached => bail!(
            "cannot allocate tty if rrun will detach without setting console socket: \
             give --console-socket, or set process.terminal to false"
        ),
        (false, Some(_)) => bail!(
            "cannot use console socket if rrun will not detach or allocate tty: \
             set process.terminal to true, or leave out --console-socket"
        ),
        _ => Ok(()),
    }
}

fn check_root(plan: &Plan) -> anyhow::Result<()> {
    if plan.root.overlay.is_some() {
        return Ok(());
    }
    let path = &plan.root.path;
    let found =
        fs::metadata(path).map_err(|error| anyhow!("/root/path: {}: {error}", path.display()))?;
    ensure!(found.is_dir(), "/root/path: {} is not a directory", path.display());
    Ok(())
}

pub(super) fn state_of_hooks(bundle: &Bundle, id: &ContainerId) -> StateOfHooks {
    StateOfHooks {
        version: bundle.spec.version().clone(),
        id: id.clone(),
        bundle: bundle.dir.clone(),
        annotations: bundle.spec.annotations().clone().unwrap_or_default(),
    }
}

/// The class of service that `spec` wants for the container `id`.
fn class_of_service(spec: &Spec, id: &ContainerId) -> anyhow::Result<Option<Resctrl>> {
    let Some(wanted) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else {
        return Ok(None);
    };
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let root = resctrl::mount_point(&mountinfo).context(
        "/linux/intelRdt: resctrl is not mounted: mount -t resctrl resctrl /sys/fs/resctrl, \
         if this processor has it",
    )?;
    resctrl::prepare(wanted, &root, id).map(Some)
}

/// The Landlock profile of `spec`'s annotations; what is left out of it is added to `warnings`.
///
/// # Errors
///
/// What is wrong with it, or more than this kernel can enforce, with its JSON pointer.
pub fn landlock_profile(
    spec: &Spec,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<landlock::Profile>> {
    let annotations = spec.annotations().as_ref();
    let Some(text) = annotations.and_then(|all| all.get(landlock::LANDLOCK)) else {
        return Ok(None);
    };
    let (profile, left_out) = landlock::plan(text, sys::landlock::version())?;
    warnings.extend(left_out);
    Ok(profile)
}

/// Sends a pidfd of `child` to the engine that listens at `socket`, if one does.
///
/// # Errors
///
/// If nobody listens there.
pub fn hand_on_pidfd(socket: Option<&Path>, child: &Child) -> anyhow::Result<()> {
    let Some(socket) = socket else { return Ok(()) };
    handover::send(socket, b"pidfd", child.pidfd.as_fd())
        .with_context(|| format!("send a pidfd to the socket {}", socket.display()))
}

/// Gives the engine what it wants of the first process: its terminal, its pidfd.
fn hand_on(made: &mut Made, request: &Request) -> anyhow::Result<()> {
    hand_on_pidfd(request.pidfd_socket.as_deref(), &made.init)?;
    let Some(socket) = &request.console_socket else { return Ok(()) };
    let master: OwnedFd = made.console.take().context("the container sent no terminal")?;
    console::send_master(socket, &master)
}
