//! One directory for each container, which describes itself.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::confine::cgroup::Cgroup;
use crate::confine::resctrl::Resctrl;
use crate::container::ContainerId;
use crate::host;
use crate::store::{self, Draft};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process ID where the container was created.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The identity of the process that now has the number `pid`.
    ///
    /// # Errors
    ///
    /// If there is none, or it has ended and only its exit status is left.
    pub fn of(pid: Pid) -> anyhow::Result<Self> {
        let stat = host::read_proc(format!("/proc/{pid}/stat"))
            .with_context(|| format!("look at process {pid}"))?;
        let start_time = alive_since(&stat).ok_or_else(|| anyhow!("process {pid} has ended"))?;
        Ok(Self { pid: pid.as_raw(), start_time })
    }

    /// Whether this very process still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid()).is_ok_and(|now| now == self)
    }

    /// Whether the number is still its own, if only because something of it has yet to end: while a
    /// first thread is dead already, others may run.
    #[must_use]
    pub fn is_there(self) -> bool {
        let stat = host::read_proc(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        state_and_start(&stat).is_some_and(|(_, start_time)| start_time == self.start_time)
    }

    /// Its number.
    #[must_use]
    pub fn pid(self) -> Pid {
        Pid::from_raw(self.pid)
    }
}

/// The start time in the text of `/proc/PID/stat`, unless the process is dead.
fn alive_since(stat: &str) -> Option<u64> {
    let (state, start_time) = state_and_start(stat)?;
    (!matches!(state, "Z" | "X" | "x")).then_some(start_time)
}

/// The state and the start time, in clock ticks since boot, in the text of `/proc/PID/stat`, whose name
/// of the command is anybody's choice (proc(5)).
#[must_use]
pub fn state_and_start(stat: &str) -> Option<(&str, u64)> {
    // The command's name may hold anything, closing parentheses too: only the last one counts.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    Some((fields.next()?, fields.nth(18)?.parse().ok()?))
}

/// What is known of a container (`state.json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: ContainerId,
    /// Its first process.
    pub init: ProcessIdentity,
    /// The boot in which that process number means something.
    pub boot_id: String,
    /// The absolute path of the bundle.
    pub bundle: PathBuf,
    /// The absolute path of the root directory on the host.
    pub rootfs: PathBuf,
    /// When it was created: RFC 3339 with nanoseconds.
    pub created: String,
    /// The user that created it.
    pub owner: u32,
    /// The annotations of its configuration.
    pub annotations: HashMap<String, String>,
    /// Its cgroups, where it has its own.
    pub cgroup: Option<Cgroup>,
    /// The process that serves its layered root.
    pub server: Option<ProcessIdentity>,
    /// Whether its user namespace is another than that of the command that created it.
    pub own_user_namespace: bool,
    /// Its class of service for caches and memory bandwidth, if it asked for one.
    pub resctrl: Option<Resctrl>,
    /// Whether its processes have a session keyring of their own.
    pub own_keyring: bool,
    /// Whether it has a process namespace of its own, whose end ends every process.
    pub own_pid_namespace: bool,
    /// The identity of its mount namespace, which is always its own (namespaces(7)).
    pub mount_namespace: u64,
    /// Whether its configuration has hooks for later commands, which must read it then.
    pub late_hooks: bool,
}

/// A container's directory, locked against other commands until dropped.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    lock: Flock<OwnedFd>,
}

/// All containers below one root directory.
#[derive(Debug, Clone)]
pub struct Containers {
    root: PathBuf,
}

/// The file that holds a [`Record`].
const STATE: &str = "state.json";
/// The file that holds the configuration.
const CONFIG: &str = "config.json";
/// The directory that keeps compiled profiles, beside the containers. None of them can have a comma
/// in its name.
const SECCOMP_CACHE: &str = "seccomp,cache";
/// The socket on which init waits for `start`.
pub const START_SOCKET: &str = "start";

impl Containers {
    /// The containers below `root`, which need not exist yet.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory of `id`, whether it exists or not.
    #[must_use]
    pub fn path(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id)
    }

    /// Where compiled seccomp profiles are kept, which need not exist yet.
    #[must_use]
    pub fn seccomp_cache(&self) -> PathBuf {
        self.root.join(SECCOMP_CACHE)
    }

    /// Makes a directory for a new container, locked.
    ///
    /// One that a creation that died left behind is taken over as it is.
    ///
    /// # Errors
    ///
    /// If a container of that name exists.
    pub fn reserve(&self, id: &ContainerId) -> anyhow::Result<Entry> {
        store::make_private(&self.root)?;
        let path = self.path(id);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("make directory {}", path.display()));
            }
        }
        let taken = || anyhow!("container with given ID already exists: {id}");
        let entry = Entry::lock(path, FlockArg::LockExclusiveNonblock).map_err(|_busy| taken())?;
        if entry.is_made() || !entry.is_still_there() {
            return Err(taken());
        }
        Ok(entry)
    }

    /// The container `id`, locked; waits for other commands that have it.
    ///
    /// # Errors
    ///
    /// "container does not exist", which engines look for.
    pub fn lock(&self, id: &ContainerId) -> anyhow::Result<Entry> {
        let path = self.path(id);
        let entry = Entry::lock(path, FlockArg::LockExclusive)
            .map_err(|error| if error.is::<Missing>() { missing(id) } else { error })?;
        if entry.is_still_there() { Ok(entry) } else { Err(missing(id)) }
    }

    /// What is known of `id`.
    ///
    /// # Errors
    ///
    /// "container does not exist", or what is wrong with its file.
    pub fn read(&self, id: &ContainerId) -> anyhow::Result<Record> {
        read_record(&self.path(id))?.ok_or_else(|| missing(id))
    }

    /// The configuration that `id` was created from.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn config(&self, id: &ContainerId) -> anyhow::Result<rrun_spec::oci::Spec> {
        let path = self.path(id).join(CONFIG);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(rrun_spec::parse(&text, &path)?)
    }

    /// Every container, by name; those that are half made or half deleted are not there.
    ///
    /// # Errors
    ///
    /// If the root directory cannot be listed.
    pub fn all(&self) -> anyhow::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("list {}", self.root.display()));
            }
        };
        let mut records = Vec::new();
        let of_containers = |entry: &fs::DirEntry| entry.file_name() != SECCOMP_CACHE;
        for entry in entries.flatten().filter(of_containers) {
            match read_record(&entry.path()) {
                Ok(record) => records.extend(record),
                Err(error) => log::warn!("{error:#}"),
            }
        }
        records.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(records)
    }
}

/// There is no such container; [`Containers::lock`] says so in the words that engines know.
#[derive(Debug, thiserror::Error)]
#[error("does not exist")]
struct Missing;

fn missing(id: &ContainerId) -> anyhow::Error {
    anyhow!("container does not exist: {id}")
}

fn read_record(directory: &Path) -> anyhow::Result<Option<Record>> {
    let path = directory.join(STATE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if text.is_empty() {
        // It was not on disk yet when the machine lost its power: nothing runs that it could name.
        return Ok(None);
    }
    serde_json::from_slice(&text)
        .map(Some)
        .with_context(|| format!("{} is damaged: remove {}", path.display(), directory.display()))
}

impl Entry {
    fn lock(path: PathBuf, how: FlockArg) -> anyhow::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = match open(&path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(nix::errno::Errno::ENOENT) => bail!(Missing),
            Err(errno) => return Err(errno).with_context(|| format!("open {}", path.display())),
        };
        let lock = Flock::lock(directory, how)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("lock {}", path.display()))?;
        Ok(Self { path, lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's descriptor, for paths that would be too long for a socket's name.
    #[must_use]
    pub fn directory(&self) -> std::os::fd::BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Keeps the configuration, for `exec` and the hooks of later commands.
    ///
    /// # Errors
    ///
    /// Those of writing a file.
    pub fn write_config(&self, text: &[u8]) -> anyhow::Result<()> {
        store::replace_until_reboot(&self.path.join(CONFIG), text)
    }

    /// The configuration as [`Self::write_config`] keeps it.
    ///
    /// # Errors
    ///
    /// Those of reading a file.
    pub fn config_text(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.path.join(CONFIG);
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Writes what will be known of the container once it is [published](Draft::publish).
    ///
    /// # Errors
    ///
    /// Those of writing a file.
    pub fn draft(&self, record: &Record) -> anyhow::Result<Draft> {
        store::draft(&self.path.join(STATE), &serde_json::to_vec(record)?)
    }

    /// What is known of the container; `None` if its creation never ended.
    ///
    /// # Errors
    ///
    /// If its file is damaged.
    pub fn read(&self) -> anyhow::Result<Option<Record>> {
        read_record(&self.path)
    }

    /// Forgets the container.
    ///
    /// # Errors
    ///
    /// Those of removing files; what is left is no container any more.
    pub fn remove(self) -> anyhow::Result<()> {
        self.remove_files(&[STATE, CONFIG])?;
        // Mostly that was all; what else there may be is looked for only now.
        if self.remove_directory().is_ok() {
            return Ok(());
        }
        self.clear()?;
        self.remove_directory().with_context(|| format!("remove {}", self.path.display()))
    }

    fn remove_directory(&self) -> std::io::Result<()> {
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the files of the container.
    ///
    /// # Errors
    ///
    /// Those of removing files.
    pub fn clear(&self) -> anyhow::Result<()> {
        self.remove_files(&[STATE, START_SOCKET, CONFIG, "state.new", "config.new"])
    }

    fn remove_files(&self, names: &[&str]) -> anyhow::Result<()> {
        for path in names.iter().map(|name| self.path.join(name)) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the container's creation has ended: an empty file says no more than none.
    fn is_made(&self) -> bool {
        fs::metadata(self.path.join(STATE)).is_ok_and(|found| found.len() > 0)
    }

    /// Whether the name still means this directory: another command may have removed it while we
    /// waited for the lock.
    fn is_still_there(&self) -> bool {
        let named = nix::sys::stat::stat(&self.path);
        let opened = nix::sys::stat::fstat(&*self.lock);
        matches!((named, opened), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

impl Record {
    /// Whether its first process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.init.is_alive() && self.boot_id == host::boot_id()
    }
}

/// Whether init of the container in `directory` still waits for `start`.
#[must_use]
pub fn is_waiting(directory: &Path) -> bool {
    fs::symlink_metadata(directory.join(START_SOCKET)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_survive_strange_names() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for (stat, expected) in [
            (format!("12 (sh) {fields}"), Some(4711)),
            (format!("12 (a) Z 1) {fields}"), Some(4711)),
            ("12 (sh) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711".to_owned(), None),
            ("12 (sh".to_owned(), None),
            (String::new(), None),
            ("12 (sh) S 1 2".to_owned(), None),
        ] {
            assert_eq!(alive_since(&stat), expected, "{stat}");
        }
    }

    #[test]
    fn a_name_is_taken_once_and_what_died_half_made_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let containers = Containers::at(root.path().join("rrun"));
        let id: ContainerId = "web".parse().unwrap();
        assert!(containers.lock(&id).unwrap_err().to_string().contains("does not exist"));
        let first = containers.reserve(&id).unwrap();
        first.write_config(b"{}").unwrap();
        assert!(containers.reserve(&id).unwrap_err().to_string().contains("already exists"));
        drop(first);
        let second = containers.reserve(&id).unwrap();
        second.clear().unwrap();
        assert!(!second.path().join(CONFIG).exists());
        second.remove().unwrap();
        assert!(!containers.path(&id).exists());
    }

    /// As a loss of power leaves it: the name is there, the content is not.
    #[test]
    fn an_empty_state_is_a_creation_that_never_ended() {
        let root = tempfile::tempdir().unwrap();
        let containers = Containers::at(root.path().into());
        let id: ContainerId = "web".parse().unwrap();
        let entry = containers.reserve(&id).unwrap();
        fs::write(entry.path().join(STATE), "").unwrap();
        drop(entry);
        assert!(containers.read(&id).unwrap_err().to_string().contains("does not exist"));
        assert!(containers.all().unwrap().is_empty());
        let again = containers.reserve(&id).unwrap();
        again.remove().unwrap();
        assert!(!containers.path(&id).exists());
    }

    #[test]
    fn compiled_profiles_are_no_container() {
        let root = tempfile::tempdir().unwrap();
        let containers = Containers::at(root.path().into());
        let cache = containers.seccomp_cache();
        store::make_private(&cache).unwrap();
        fs::write(cache.join(STATE), "what a damaged container would have").unwrap();
        assert!(containers.all().unwrap().is_empty());
        let name = cache.file_name().unwrap().to_str().unwrap();
        assert!(name.parse::<ContainerId>().is_err());
    }

    #[test]
    fn this_process_is_alive_and_an_older_one_of_its_number_is_not() {
        let own = ProcessIdentity::of(nix::unistd::getpid()).unwrap();
        assert!(own.is_alive() && own.is_there());
        assert!(!ProcessIdentity { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
