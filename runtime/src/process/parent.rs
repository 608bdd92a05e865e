//! The command's side of making a container: everything that init cannot do for itself.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use rrun_spec::oci::Hook;

use crate::confine::cgroup::Cgroup;
use crate::container::Status;
use crate::container::processes::mount_namespace;
use crate::hooks::HookFailed;
use crate::namespaces;
use crate::netdevices;
use crate::plan::Plan;
use crate::process::channel::{Channel, Gone, pair};
use crate::process::guest::ADD;
use crate::process::init::{self, Ends};
use crate::process::listener::{Asked, Listener};
use crate::process::protocol::{FromServer, ToInit, ToParent, ToServer, chain};
use crate::process::{Site, server};
use crate::rootfs::{nodes, sources};
use crate::store::containers::{Entry, START_SOCKET};
use crate::sys::process::{Child, Clone, clone, fork, pidfd_open, pidfd_signal};
use crate::userns::write::{explain_userns_refusal, write_maps};

/// What is to be made, and for whom.
#[derive(Debug)]
pub struct Order<'a> {
    /// Everything that was decided.
    pub plan: &'a Plan,
    /// Where and for which container.
    pub site: &'a Site<'a>,
    /// The container's directory.
    pub entry: &'a Entry,
    /// Whether init is to wait for `start` rather than for us.
    pub awaits_start: bool,
    /// The agent that answers for system calls of its program.
    pub listener: Option<Listener>,
}

/// A container whose init waits for its last word. Dropping it undoes everything.
#[derive(Debug)]
#[must_use = "dropping it kills the container"]
pub struct Made {
    /// Init, a child of ours.
    pub init: Child,
    /// The server of a layered root, a child of ours.
    pub server: Option<Pid>,
    /// The master side of its terminal.
    pub console: Option<OwnedFd>,
    /// The identity of its mount namespace.
    pub mount_namespace: u64,
    channel: Channel<ToInit, ToParent>,
    keep: bool,
}

/// Makes the container's processes. Init waits for [`Made::go`].
///
/// # Errors
///
/// What failed; nothing is left of the container then.
pub fn begin(order: &Order<'_>) -> anyhow::Result<Made> {
    let (channel, to_parent) = pair()?;
    let layered = order.plan.root.overlay.as_ref();
    let (to_server, to_init) = layered.map(|_| pair()).transpose()?.unzip();
    let listener = order.awaits_start.then(|| listen_for_start(order.entry)).transpose()?;
    let entrance = order.site.cgroups.cgroup.as_ref().map(|cgroup| cgroup.entrance(false));
    let entrance = entrance.transpose()?;
    let sources = sources::open(&order.plan.root.mounts, order.plan.root.propagation)?;
    // Who needs a user namespace is not root of this one.
    let maps = order.plan.maps.as_ref().filter(|_| geteuid().is_root());
    let nodes = maps.map(|maps| nodes::make(&order.plan.root.devices, maps)).transpose()?.flatten();
    let ends = Ends { parent: to_parent, server: to_server, listener, entrance, sources, nodes };
    log::debug!("nsexec container setup: {:?}", order.plan.namespaces);
    let init = spawn(order, ends)?;
    log::debug!("child process in init(): {}", init.pid);
    // Now, since init is going to close itself to others.
    let mount_namespace = mount_namespace(init.pid);
    let mut made =
        Made { init, server: None, console: None, mount_namespace, channel, keep: false };
    made.equip(order, to_init)?;
    if let Some(resctrl) = &order.site.resctrl {
        resctrl.add(made.init.pid)?;
    }
    netdevices::hand_over(&order.site.devices, made.init.pid)?;
    Ok(made)
}

/// The socket on which init will wait for `start`.
fn listen_for_start(entry: &Entry) -> anyhow::Result<OwnedFd> {
    let make = || -> nix::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(socket.as_raw_fd(), &start_address(entry)?)?;
        listen(&socket, Backlog::new(1)?)?;
        Ok(socket)
    };
    let socket = make().with_context(|| format!("make a socket in {}", entry.path().display()))?;
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(entry.path().join(START_SOCKET), permissions)?;
    Ok(socket)
}

/// The socket's name through the directory's descriptor: a whole path may be too long for one.
fn start_address(entry: &Entry) -> nix::Result<UnixAddr> {
    let directory = entry.directory().as_raw_fd();
    UnixAddr::new(format!("/proc/self/fd/{directory}/{START_SOCKET}").as_str())
}

/// Lets the program of a created container run.
///
/// # Errors
///
/// What init says, in runc's words for a program that cannot be executed.
pub fn release(entry: &Entry) -> anyhow::Result<()> {
    let channel = reach_init(entry)?;
    channel.send(&ToInit::Start)?;
    await_exec(&channel, &mut told_before)
}

/// An agent is told of init when that is created.
fn told_before(_fd: i32) -> anyhow::Result<()> {
    Err(anyhow!("the agent was to be told before"))
}

/// To an init that waits for `start`.
fn reach_init(entry: &Entry) -> anyhow::Result<Channel<ToInit, ToParent>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &start_address(entry)?)
        .context("reach the container's first process")?;
    Ok(Channel::over(socket))
}

/// Waits until the other side has become its program, which closes the channel.
///
/// # Errors
///
/// What it says if it cannot, or what `tell` says, which gets the number that the descriptor for the
/// agent of a seccomp profile has there.
pub fn await_exec(
    channel: &Channel<ToInit, ToParent>,
    tell: &mut dyn FnMut(i32) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        match channel.receive() {
            Err(error) if error.is::<Gone>() => {
                log::debug!("init: closing the pipe to signal completion");
                return Ok(());
            }
            Err(error) => return Err(error),
            Ok(ToParent::Failed { chain }) => return Err(anyhow!(chain)),
            Ok(ToParent::HookFailed { chain }) => return Err(HookFailed(chain).into()),
            Ok(ToParent::Warning { text }) => log::warn!("{text}"),
            Ok(ToParent::SeccompListener { fd }) => {
                tell(fd)?;
                channel.send(&ToInit::ListenerSent)?;
            }
            Ok(other) => log::debug!("not expected any more: {other:?}"),
        }
    }
}

/// Makes init, by way of an usher if there are namespaces to join.
fn spawn(order: &Order<'_>, ends: Ends) -> anyhow::Result<Child> {
    let joined = namespaces::open(&order.plan.namespaces.join)?;
    let unified = order.site.cgroups.cgroup.as_ref().and_then(Cgroup::unified_dir);
    let unified = unified.map(File::open).transpose().context("open the cgroup")?;
    let cgroup = unified.as_ref().map(AsFd::as_fd);
    let new = Clone { namespaces: order.plan.namespaces.at_clone(), cgroup, ..Clone::default() };
    if joined.is_empty() {
        return clone(new, || init::run(order.plan, order.site, ends)).map_err(explain_clone);
    }
    let how = Clone { sibling: true, ..new };
    let enter = || {
        // Whoever is inside already may not look into init, which still has something of ours. In a
        // user namespace of its own init does that later: an ordinary user could not look either.
        if !order.site.own_user_namespace {
            prctl::set_dumpable(false).context("become undumpable")?;
        }
        namespaces::join(&joined)
    };
    usher(enter, how, || init::run(order.plan, order.site, ends))
}

fn explain_clone(errno: Errno) -> anyhow::Error {
    anyhow!(explain_userns_refusal(errno)).context("make the namespaces")
}

/// What the usher says before it ends.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum FromUsher {
    Made { pid: i32 },
    Failed { chain: String },
}

/// Runs `body` in a child of ours that is made by a process which has done `enter`.
///
/// # Errors
///
/// Why `enter` or making the child failed.
pub fn usher(
    enter: impl FnOnce() -> anyhow::Result<()>,
    how: Clone<'_>,
    body: impl FnOnce() -> u8,
) -> anyhow::Result<Child> {
    let (here, there) = pair::<(), FromUsher>()?;
    let usher = fork(|| {
        let only_a_cgroup = how.namespaces == 0 && how.cgroup.is_some();
        let explain = |errno| match errno {
            Errno::EBUSY | Errno::EOPNOTSUPP | Errno::ENODEV if only_a_cgroup => {
                anyhow!(errno).context(ADD)
            }
            errno => explain_clone(errno),
        };
        let made = enter().and_then(|()| clone(how, body).map_err(explain));
        let message = match &made {
            Ok(child) => FromUsher::Made { pid: child.pid.as_raw() },
            Err(error) => FromUsher::Failed { chain: chain(error) },
        };
        there.send(&message).is_err().into()
    })
    .context("fork")?;
    drop(there);
    match here.receive() {
        Err(error) => {
            waitpid(usher, None).context("wait for the process that joined the namespaces")?;
            Err(error)
        }
        Ok(FromUsher::Failed { chain }) => {
            waitpid(usher, None).context("wait for the process that joined the namespaces")?;
            Err(anyhow!(chain))
        }
        // It ends by itself: nobody waits for that now. Whoever stays reaps it with the others.
        Ok(FromUsher::Made { pid }) => {
            let pid = Pid::from_raw(pid);
            Ok(Child { pid, pidfd: pidfd_open(pid).context("find the new process")? })
        }
    }
}

impl Made {
    /// Lets init begin; [`Self::until_ready`] waits for it.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn go(&mut self) -> anyhow::Result<()> {
        self.channel.send_if_there(&ToInit::Go)
    }

    /// Does for init what only we can do: its ID maps, its cgroups, its root's server.
    fn equip(
        &mut self,
        order: &Order<'_>,
        to_init: Option<Channel<FromServer, ToServer>>,
    ) -> anyhow::Result<()> {
        if let Some(maps) = &order.plan.maps {
            write_maps(self.init.pid, maps)?;
        }
        if let (Some(layers), Some(to_init)) = (&order.plan.root.overlay, to_init) {
            let namespace = order.site.own_user_namespace.then(|| self.user_namespace());
            let namespace = namespace.transpose()?;
            let server = server::spawn(layers, namespace.as_ref(), &to_init)?;
            log::debug!("the overlay's server is process {server}");
            self.server = Some(server);
        }
        Ok(())
    }

    /// Init's user namespace, opened before init closes itself to others.
    fn user_namespace(&self) -> anyhow::Result<OwnedFd> {
        let path = format!("/proc/{}/ns/user", self.init.pid);
        Ok(File::open(&path).with_context(|| format!("open {path}"))?.into())
    }

    /// Does what init asks for until it waits for its last word.
    ///
    /// # Errors
    ///
    /// What failed, here or in init.
    pub fn until_ready(&mut self, order: &Order<'_>) -> anyhow::Result<()> {
        loop {
            match self.channel.receive_with() {
                Err(error) => return self.explain(error),
                Ok((ToParent::Ready, _)) => return Ok(()),
                Ok((ToParent::Failed { chain } | ToParent::HookFailed { chain }, _)) => {
                    return Err(anyhow!(chain));
                }
                Ok((ToParent::Warning { text }, _)) => log::warn!("{text}"),
                Ok((ToParent::Console, master)) => self.console = master,
                Ok((ToParent::SeccompListener { fd }, _)) => {
                    self.tell(order, fd)?;
                    self.channel.send(&ToInit::ListenerSent)?;
                }
                Ok((ToParent::RunHooks, _)) => {
                    run_hooks(order, self.init.pid)?;
                    self.channel.send(&ToInit::HooksDone)?;
                }
            }
        }
    }

    /// What became of an init that went without a word.
    fn explain(&self, error: anyhow::Error) -> anyhow::Result<()> {
        if !error.is::<Gone>() {
            return Err(error);
        }
        match waitpid(self.init.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                Err(anyhow!("the container's first process was killed by {signal}"))
            }
            _ => Err(anyhow!("the container's first process ended without a word")),
        }
    }

    /// Tells the agent of the seccomp profile where it gets init's calls.
    fn tell(&self, order: &Order<'_>, fd: i32) -> anyhow::Result<()> {
        let Child { pid, ref pidfd } = self.init;
        let asked = Asked { pid, pidfd: pidfd.as_fd(), fd };
        let Some(listener) = &order.listener else { return Ok(()) };
        listener.tell(asked, &order.site.state, Status::Creating, pid)
    }

    /// Keeps the container: init will wait for `start`, and we may end; `is_filtered` says that its
    /// profile may keep it from that.
    ///
    /// # Errors
    ///
    /// If init has ended, or cannot wait.
    pub fn leave_to_start(&mut self, entry: &Entry, is_filtered: bool) -> anyhow::Result<()> {
        self.channel.send(&ToInit::Await)?;
        if is_filtered {
            self.check_waiting(entry).context(
                "/linux/seccomp: the profile must allow what waiting for start takes: accept4, read, \
                 write, close",
            )?;
        }
        self.keep = true;
        Ok(())
    }

    fn check_waiting(&self, entry: &Entry) -> anyhow::Result<()> {
        let channel = reach_init(entry)?;
        channel.send_if_there(&ToInit::Await)?;
        let Err(error) = channel.receive() else { return Ok(()) };
        match self.channel.receive() {
            Ok(ToParent::Failed { chain }) => Err(anyhow!(chain)),
            _ => self.explain(error),
        }
    }

    /// Lets the program run at once.
    ///
    /// # Errors
    ///
    /// What init says if it cannot become its program.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.channel.send(&ToInit::Start)?;
        await_exec(&self.channel, &mut told_before)?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let _ended_already = pidfd_signal(self.init.pidfd.as_fd(), libc::SIGKILL);
        let _reaped_already = waitpid(self.init.pid, None);
        if let Some(server) = self.server {
            let _ended_already = nix::sys::signal::kill(server, nix::sys::signal::SIGKILL);
            let _reaped_already = waitpid(server, None);
        }
    }
}

fn run_hooks(order: &Order<'_>, init: Pid) -> anyhow::Result<()> {
    let state = order.site.state.json(Status::Creating, init)?;
    log::debug!("run the hooks of the runtime's namespaces");
    let all = &order.plan.hooks;
    let run = |list: &Option<Vec<Hook>>, kind| {
        order.site.occasion(kind, &state).run(list.as_deref().unwrap_or_default())
    };
    run(all.prestart(), "prestart")?;
    run(all.create_runtime(), "createRuntime")
}

/// Writes the number of a process where an engine waits for it: digits and nothing else.
///
/// # Errors
///
/// Those of writing a file.
pub fn write_pid_file(path: &Path, pid: Pid) -> anyhow::Result<()> {
    crate::store::replace_until_reboot(path, pid.to_string().as_bytes())
}
