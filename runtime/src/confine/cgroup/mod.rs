//! Control groups: where the container's processes are counted, limited, found and killed.
//!
//! Version 2 alone, version 1, or both at once (hybrid); a caller who may not make any goes without,
//! unless the container has limits. `hierarchies` finds what is mounted, `plan` decides where our
//! directories go and makes them, `limits` and `devices` write what the config asks for.

mod devices;
mod files;
mod hierarchies;
mod limits;
mod out_of_memory;
mod plan;
mod resources;
mod setting;
mod stats;
mod systemd;
mod within;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use self::hierarchies::{Hierarchies, Hierarchy, unescape};
pub use self::limits::Limits;
pub use self::out_of_memory::OutOfMemory;
pub use self::plan::{CgroupPlan, plan};
pub use self::stats::Stats;
pub use self::systemd::{Instance, ScopePlan, scope};

/// How often something that the kernel does in its own time is looked at: first after a millisecond,
/// then after twice as long each time, 2 s in all.
const TRIES: u32 = 11;

/// The cgroup of a container: one directory per hierarchy, all with the same processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    v1: Vec<Directory>,
    unified: Option<Directory>,
    /// Whether its maker had privileges on the host, so that a refusal is an error.
    privileged: bool,
    /// The unit of systemd that it is, if systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<systemd::Scope>,
}

/// The directory of a cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Directory {
    /// What it controls; empty for version 2.
    controllers: Vec<String>,
    /// The root of the hierarchy.
    mount: PathBuf,
    path: PathBuf,
}

/// The way into a cgroup: opened by who may, passed by who shall be inside. Closed on exec.
#[derive(Debug)]
pub struct Entrance(Vec<File>);

impl Entrance {
    /// Moves the calling process, which must have but one thread.
    ///
    /// A single thread that moves itself needs none of the locks that keep others from forking; version 1
    /// has a file for that.
    ///
    /// # Errors
    ///
    /// `ENOSPC` for a cpuset without processors, `ENODEV` if the cgroup is gone.
    ///
    /// Source: Linux `kernel/cgroup/cgroup.c`, `cgroup_procs_write_start()`, since 5.5.
    pub fn pass(&self) -> Result<()> {
        for mut file in &self.0 {
            file.write_all(b"0").context("move into the cgroup")?;
        }
        Ok(())
    }
}

impl Directory {
    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        files::read(&path).with_context(|| format!("read {}", path.display()))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        files::write(&path, text).with_context(|| format!("write {text:?} to {}", path.display()))
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Asks `done` until it says so, [`TRIES`] times.
fn wait_until(mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    for attempt in 0..TRIES {
        if done()? {
            return Ok(true);
        }
        sleep(Duration::from_millis(1 << attempt));
    }
    done()
}

impl Cgroup {
    fn add(&mut self, directory: Directory) {
        if directory.controllers.is_empty() {
            self.unified = Some(directory);
        } else {
            self.v1.push(directory);
        }
    }

    fn is_empty(&self) -> bool {
        self.v1.is_empty() && self.unified.is_none()
    }

    fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.v1.iter().chain(&self.unified)
    }

    /// The directory in the version 1 hierarchy of `controller`.
    fn v1(&self, controller: &str) -> Option<&Directory> {
        self.v1.iter().find(|directory| directory.controllers.iter().any(|name| name == controller))
    }

    /// The directory in the hierarchy of version 2, for `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn unified_dir(&self) -> Option<&Path> {
        self.unified.as_ref().map(|directory| directory.path.as_path())
    }

    /// The directory in the hierarchy of `controller`, whatever its version; the version 2 one serves
    /// every controller that version 1 has not taken. Mounting cgroups into a container needs it.
    #[must_use]
    pub fn dir_of(&self, controller: &str) -> Option<&Path> {
        self.v1(controller).or(self.unified.as_ref()).map(|directory| directory.path.as_path())
    }

    /// Opens the way by which a process moves itself into the version 1 hierarchies. That of version 2
    /// is for `CLONE_INTO_CGROUP`, or goes this way too if `unified`.
    ///
    /// Moving oneself takes 0.2 ms for nine hierarchies; [`Self::enter`], which moves another, waits for
    /// every processor of the machine, mostly 5 to 15 ms.
    ///
    /// # Errors
    ///
    /// `EACCES` for a cgroup that is not the caller's, `ENOENT` if it is gone.
    pub fn entrance(&self, unified: bool) -> Result<Entrance> {
        let v1 = self.v1.iter().map(|directory| directory.path.join("tasks"));
        let v2 = self.unified.iter().filter(|_| unified);
        let v2 = v2.map(|directory| directory.path.join("cgroup.procs"));
        let open = |path: PathBuf| {
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.with_context(|| format!("open {}", path.display()))
        };
        Ok(Entrance(v1.chain(v2).map(open).collect::<Result<_>>()?))
    }

    /// Moves the process `pid` into the cgroup.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended, `EACCES` for a process that the caller may not move.
    pub fn enter(&self, pid: Pid) -> Result<()> {
        let pid = pid.to_string();
        self.directories().try_for_each(|directory| directory.write("cgroup.procs", &pid))
    }

    /// Writes what the config asks for. A maker without privileges who may not restrict devices goes
    /// without: he cannot make or reach one beyond what the file permissions give him.
    ///
    /// # Errors
    ///
    /// A limit whose controller is not there or that the kernel refuses, with the cure.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        limits.apply(self)?;
        devices::apply(self, limits.devices())
    }

    /// Gives the cgroup to the user `uid`, as far as that is safe: the files that the kernel names, and in
    /// version 2 alone.
    ///
    /// # Errors
    ///
    /// `EPERM` for who may not give files away, unless he has no privileges anyway.
    ///
    /// Source: `cgroups(7)`, "Cgroups delegation"; `/sys/kernel/cgroup/delegate`.
    pub fn give_to(&self, uid: u32) -> Result<()> {
        const USUAL: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
        let Some(directory) = self.unified.as_ref().filter(|_| self.v1.is_empty()) else {
            return Ok(());
        };
        let names = files::read(Path::new("/sys/kernel/cgroup/delegate"));
        let names = names.unwrap_or_else(|_before_4_15| USUAL.to_owned());
        let files = names.lines().map(|name| directory.path.join(name));
        for path in files.chain([directory.path.clone()]) {
            match std::os::unix::fs::lchown(&path, Some(uid), None) {
                Err(error) if errno_of(&error) == Errno::ENOENT => {}
                Err(error) if errno_of(&error) == Errno::EPERM && !self.privileged => {}
                given => given.with_context(|| format!("give {} to {uid}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Changes the limits of a cgroup in use; its device rules are replaced if there are new ones.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`]. The limits are then what they were, as far as a file holds one value.
    pub fn change(&self, limits: &Limits) -> Result<()> {
        limits.replace(self)?;
        if let Some(scope) = &self.scope {
            scope.change(limits, self.v1.is_empty())?;
            // What systemd rounds, or resets with its own.
            limits.apply(self)?;
        }
        devices::replace(self, limits.devices())
    }

    /// Whether processes get into it by systemd's hand only, with [`Self::attach`].
    #[must_use]
    pub fn moves_by_itself(&self) -> bool {
        self.scope.as_ref().is_some_and(systemd::Scope::moves_by_itself)
    }

    /// Lets systemd move `pid` into this cgroup, which may be one below the unit's own.
    ///
    /// # Errors
    ///
    /// What systemd says; a cgroup that it did not make.
    pub fn attach(&self, pid: Pid) -> Result<()> {
        let scope = self.scope.as_ref().context("systemd does not know this cgroup")?;
        let unified = self.unified.as_ref().context("no cgroup of version 2")?;
        let mut below = unified.path.iter().skip_while(|name| *name != scope.unit());
        let _unit_itself = below.next();
        scope.attach(pid, &below.collect::<PathBuf>())
    }

    /// Every process in the cgroup and those below it.
    ///
    /// # Errors
    ///
    /// A cgroup that cannot be read; one that is gone has no processes.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        if let Some(directory) = self.unified.as_ref().or(self.v1.first()) {
            collect_pids(&directory.path, &mut pids)
                .with_context(|| format!("list the processes of {}", directory.path.display()))?;
        }
        Ok(pids)
    }

    /// Sends `signal` to every process in the cgroup and those below it.
    ///
    /// # Errors
    ///
    /// As [`Self::pids`]; `EPERM` for a process of somebody else.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        for pid in self.pids()? {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno).with_context(|| format!("send {signal} to {pid}")),
            }
        }
        Ok(())
    }

    /// Kills every process in the cgroup and those below it, including those that are being forked.
    ///
    /// By `cgroup.kill` (Linux 5.14); else everything is frozen, so that nothing can fork while it is
    /// killed and no pid can be used again, and thawed.
    ///
    /// # Errors
    ///
    /// Processes that are still there after 2 s.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(directory) = &self.unified {
            match files::write(&directory.path.join("cgroup.kill"), "1") {
                // What a freezer of version 1 has stopped dies when it is let go.
                Ok(()) => return self.v1("freezer").map_or(Ok(()), |_freezer| self.thaw()),
                Err(error) if errno_of(&error) == Errno::ENOENT && !directory.path.exists() => {
                    return Ok(());
                }
                Err(error) => log::debug!("cgroup.kill: {error}"),
            }
        }
        let gone = wait_until(|| {
            if self.pids()?.is_empty() {
                return Ok(true);
            }
            let frozen = self.freeze();
            let killed = self.signal_all(Signal::SIGKILL);
            if frozen.is_ok() {
                self.thaw()?;
            }
            killed.map(|()| false)
        })?;
        if gone { Ok(()) } else { bail!("kill the processes of the cgroup: some do not end") }
    }

    fn freezer(&self) -> Result<(&Directory, Freezer)> {
        let v1 = self.v1("freezer").map(|directory| (directory, V1_FREEZER));
        let v2 = self.unified.as_ref().map(|directory| (directory, V2_FREEZER));
        v1.or(v2).context(
            "no cgroup with a freezer (cure: run as root, or on cgroup v2 in a delegated cgroup)",
        )
    }

    /// Stops every process in the cgroup, and waits until they are.
    ///
    /// # Errors
    ///
    /// No freezer, or processes that do not stop within 2 s; they are let go again.
    pub fn freeze(&self) -> Result<()> {
        let (directory, freezer) = self.freezer()?;
        if wait_until(|| {
            directory.write(freezer.file, freezer.stop)?;
            self.frozen()
        })? {
            return Ok(());
        }
        directory.write(freezer.file, freezer.go)?;
        bail!("freeze {}: some processes do not stop", directory.path.display())
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    ///
    /// No freezer.
    pub fn thaw(&self) -> Result<()> {
        let (directory, freezer) = self.freezer()?;
        directory.write(freezer.file, freezer.go)
    }

    /// Whether every process in the cgroup is stopped.
    ///
    /// # Errors
    ///
    /// No freezer, or one that cannot be read.
    pub fn frozen(&self) -> Result<bool> {
        let (directory, freezer) = self.freezer()?;
        Ok(directory.read(freezer.shown_in)?.lines().any(|line| line == freezer.stopped))
    }

    /// Whether the cgroup can be frozen at all.
    #[must_use]
    pub fn has_freezer(&self) -> bool {
        self.freezer().is_ok()
    }

    /// Removes the directories and those that the container made below them. Nothing that is gone
    /// already is missed; processes on their way out are waited for.
    ///
    /// # Errors
    ///
    /// `EBUSY` if processes are still there after 2 s.
    pub fn remove(&self) -> Result<()> {
        if let Some(scope) = &self.scope {
            scope.stop()?;
        }
        self.directories().try_for_each(|directory| {
            let removed = wait_until(|| match remove_tree(&directory.path) {
                Ok(()) => Ok(true),
                Err(error) if errno_of(&error) == Errno::EBUSY => Ok(false),
                Err(error) => Err(error.into()),
            });
            let removed =
                removed.with_context(|| format!("remove {}", directory.path.display()))?;
            if removed {
                return Ok(());
            }
            bail!("remove {}: EBUSY: it still has processes", directory.path.display())
        })
    }
}

impl Cgroup {
    /// Removes the directories if no process is left in any, and says whether none was.
    ///
    /// # Errors
    ///
    /// Those of rmdir(2) but `EBUSY`.
    pub fn remove_if_empty(&self) -> Result<bool> {
        if self.scope.is_some() {
            // systemd has to be told in any case.
            return Ok(false);
        }
        for directory in self.directories() {
            match remove_tree(&directory.path) {
                Err(error) if errno_of(&error) == Errno::EBUSY => return Ok(false),
                removed => {
                    removed.with_context(|| format!("remove {}", directory.path.display()))?;
                }
            }
        }
        Ok(true)
    }
}

/// How a version freezes.
struct Freezer {
    file: &'static str,
    stop: &'static str,
    go: &'static str,
    /// The line that says so, and where.
    stopped: &'static str,
    shown_in: &'static str,
}

const V1_FREEZER: Freezer = Freezer {
    file: "freezer.state",
    stop: "FROZEN",
    go: "THAWED",
    stopped: "FROZEN",
    shown_in: "freezer.state",
};

const V2_FREEZER: Freezer = Freezer {
    file: "cgroup.freeze",
    stop: "1",
    go: "0",
    stopped: "frozen 1",
    shown_in: "cgroup.events",
};

/// The cgroups right below `path`; none if it is gone.
fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

fn collect_pids(path: &Path, pids: &mut Vec<Pid>) -> io::Result<()> {
    match files::read(&path.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw)),
        Err(error) if matches!(errno_of(&error), Errno::ENOENT | Errno::ENODEV) => return Ok(()),
        // A threaded cgroup: its domain, above, has listed its processes.
        Err(error) if errno_of(&error) == Errno::EOPNOTSUPP => {}
        Err(error) => return Err(error),
    }
    children(path)?.iter().try_for_each(|child| collect_pids(child, pids))
}

/// One rmdir(2) in most cases: only a cgroup with children, or with processes, is busy.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if errno_of(&error) == Errno::EBUSY => {}
        removed => return removed,
    }
    children(path)?.iter().try_for_each(|child| remove_tree(child))?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests;
