//! The process that unpacks layers and removes them: in the user namespace whose IDs own them.
//!
//! ```text
//! command                     worker
//! Job, with a socket ----->   a thread for each
//!                    <-----   Answer, on that socket
//! ```
//! It is made before the command has a thread, and ends when the command does.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use super::unpack::{self, Target, Unpacked, settle};
use crate::host::{Host, read_proc};
use crate::process::channel::{Channel, Gone, pair};
use crate::store::remove::remove_contents;
use crate::sys::process::{Child, Clone, clone, close_all_but, exit_now};
use crate::userns::map::{self, IdMaps};
use crate::userns::subid::rootless_maps;
use crate::userns::write::{explain_userns_refusal, write_maps};

/// The IDs that layers can belong to, as they are outside; `None` for root of the whole machine, who has
/// all of them.
///
/// # Errors
///
/// Those of reading `/proc` and the files of subordinate IDs.
pub fn maps_of_layers(host: &Host) -> Result<Option<IdMaps>> {
    if host.is_real_root() {
        return Ok(None);
    }
    if !host.needs_user_namespace() {
        // Root of a user namespace: the same user outside of it means the same by them.
        let read = |path| -> Result<_> {
            let text = read_proc(path).with_context(|| format!("read {path}"))?;
            map::parse(&text)
        };
        let (uids, gids) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
        return Ok(Some(IdMaps { uids, gids }));
    }
    let (maps, warning) = rootless_maps()?;
    if let Some(warning) = warning {
        log::debug!("{}", warning.replace("the container has", "layers have"));
    }
    Ok(Some(maps))
}

/// What the worker does.
#[derive(Debug, Serialize, Deserialize)]
enum Job {
    /// The IDs exist: begin.
    Begin,
    /// Unpack a blob into `layer/diff`.
    Unpack { blob: PathBuf, layer: PathBuf, aside: PathBuf },
    /// Settle what the layer does not describe by the layers below, the topmost first.
    Settle { layer: PathBuf, below: Vec<PathBuf> },
    /// Write all of the file system that holds `directory` to disk.
    Sync { directory: PathBuf },
    /// Remove all that `directory` holds.
    Clear { directory: PathBuf },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Unpacked(Unpacked),
    Failed { chain: String },
}

/// The worker, as the command sees it.
#[derive(Debug)]
pub struct Worker {
    jobs: Channel<Job, ()>,
    _child: Child,
    maps: Option<IdMaps>,
}

/// The directory of a layer that becomes a layer of the overlay.
pub const DIFF: &str = "diff";
/// The file beside it that lists directories which the archive did not describe, each ended by NUL.
const IMPLICIT: &str = "implicit";

impl Worker {
    /// Starts it; there must be no thread yet.
    ///
    /// # Errors
    ///
    /// Why there is no user namespace for it.
    pub fn start(host: &Host) -> Result<Self> {
        let maps = maps_of_layers(host)?;
        let (jobs, theirs) = pair::<Job, ()>()?;
        let flag = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        let namespaces = if host.needs_user_namespace() { flag } else { 0 };
        let child = clone(Clone { namespaces, ..Clone::default() }, || {
            work(&theirs, maps.as_ref(), namespaces != 0).is_err().into()
        })
        .map_err(|errno| anyhow!(explain_userns_refusal(errno)))?;
        if let Some(maps) = maps.as_ref().filter(|_| namespaces != 0) {
            write_maps(child.pid, maps).context("prepare the IDs of layers")?;
        }
        jobs.send(&Job::Begin)?;
        Ok(Self { jobs, _child: child, maps })
    }

    /// The IDs of its user namespace, if it has one of its own.
    #[must_use]
    pub fn maps(&self) -> Option<&IdMaps> {
        self.maps.as_ref()
    }

    /// Unpacks the layer in the file `blob` into the directory `layer`; what is replaced goes to `aside`.
    ///
    /// # Errors
    ///
    /// What is wrong with the layer.
    pub fn unpack(&self, blob: &Path, layer: &Path, aside: &Path) -> Result<Unpacked> {
        let (blob, layer, aside) = (blob.to_owned(), layer.to_owned(), aside.to_owned());
        match self.ask(&Job::Unpack { blob, layer, aside })? {
            Answer::Unpacked(unpacked) => Ok(unpacked),
            other => bail!("an answer to something else: {other:?}"),
        }
    }

    /// Settles a layer that was unpacked, by those `below` it, the topmost first.
    ///
    /// # Errors
    ///
    /// Those of changing metadata.
    pub fn settle(&self, layer: &Path, below: Vec<PathBuf>) -> Result<()> {
        self.ask(&Job::Settle { layer: layer.to_owned(), below }).map(drop)
    }

    /// Writes the file system that holds `directory` to disk.
    ///
    /// # Errors
    ///
    /// Those of `syncfs(2)`: what was written before may be lost.
    pub fn sync(&self, directory: &Path) -> Result<()> {
        self.ask(&Job::Sync { directory: directory.to_owned() }).map(drop)
    }

    /// Removes all that `directory` holds.
    ///
    /// # Errors
    ///
    /// Those of removing files.
    pub fn clear(&self, directory: &Path) -> Result<()> {
        self.ask(&Job::Clear { directory: directory.to_owned() }).map(drop)
    }

    /// Lets the worker remove all that `directory` holds, and does not wait for it: it outlives the
    /// command.
    ///
    /// # Errors
    ///
    /// If the worker has gone.
    pub fn clear_behind(self, directory: &Path) -> Result<()> {
        let (_nobody_reads, theirs) = pair::<(), Answer>()?;
        let job = Job::Clear { directory: directory.to_owned() };
        self.jobs.send_with(&job, theirs.as_fd())
    }

    fn ask(&self, job: &Job) -> Result<Answer> {
        let (ours, theirs) = pair::<(), Answer>()?;
        self.jobs.send_with(job, theirs.as_fd())?;
        drop(theirs);
        match ours.receive().context("the process that unpacks layers has ended")? {
            Answer::Failed { chain } => bail!(chain),
            answer => Ok(answer),
        }
    }
}

/// Puts the null device where standard input, output and error belong.
fn leave_standard_streams() -> Result<Vec<fs::File>> {
    use std::os::fd::AsRawFd as _;
    let mut opened = Vec::new();
    loop {
        let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        if null.as_raw_fd() > 2 {
            return Ok(opened);
        }
        opened.push(null);
    }
}

/// The worker itself.
fn work(jobs: &Channel<(), Job>, maps: Option<&IdMaps>, is_new: bool) -> Result<()> {
    // Whoever reads what the command prints waits for the command alone.
    close_all_but(0, &[jobs.as_fd()])?;
    let _standard = leave_standard_streams()?;
    let Job::Begin = jobs.receive()? else { bail!("nothing was begun") };
    if is_new {
        nix::unistd::setresgid(0.into(), 0.into(), 0.into())?;
        nix::unistd::setresuid(0.into(), 0.into(), 0.into())?;
    }
    umask(Mode::empty());
    loop {
        let (job, socket) = match jobs.receive_with() {
            Ok(received) => received,
            // The command has ended: what it did not wait for is done first.
            Err(error) if error.is::<Gone>() => return Ok(()),
            Err(error) => return Err(error),
        };
        let answers = Channel::<Answer, ()>::over(socket.context("a job without a socket")?);
        let maps = maps.cloned();
        if let Job::Clear { directory } = &job {
            answers.send_if_there(&answer(clear(directory)))?;
            continue;
        }
        thread::Builder::new().spawn(move || {
            let answer = match job {
                Job::Unpack { blob, layer, aside } => {
                    match unpack_layer(&blob, &layer, &aside, maps) {
                        Ok(unpacked) => Answer::Unpacked(unpacked),
                        Err(error) => answer(Err(error)),
                    }
                }
                Job::Settle { layer, below } => answer(settle_layer(&layer, &below)),
                Job::Sync { directory } => answer(sync(&directory)),
                Job::Clear { .. } | Job::Begin => Answer::Done,
            };
            if answers.send(&answer).is_err() {
                // Nobody waits: the command has been killed, and the rest is for nothing.
                exit_now(1);
            }
        })?;
    }
}

fn answer(result: Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed { chain: format!("{error:#}") },
    }
}

fn unpack_layer(blob: &Path, layer: &Path, aside: &Path, maps: Option<IdMaps>) -> Result<Unpacked> {
    let directory = |path: &Path| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))
    };
    let root = layer.join(DIFF);
    fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&root, mode).with_context(|| format!("make {}", root.display()))?;
    let target = Target { root: directory(&root)?, aside: directory(aside)?, maps };
    let file = fs::File::open(blob).with_context(|| format!("open {}", blob.display()))?;
    let (unpacked, implicit) = unpack::unpack(file, target)?;
    let mut list = Vec::new();
    for path in implicit {
        list.extend_from_slice(path.as_os_str().as_encoded_bytes());
        list.push(0);
    }
    fs::write(layer.join(IMPLICIT), list).context("list what the layer does not describe")?;
    Ok(unpacked)
}

fn settle_layer(layer: &Path, below: &[PathBuf]) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let list = layer.join(IMPLICIT);
    let text = match fs::read(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", list.display())),
    };
    let paths: Vec<_> = text
        .strip_suffix(&[0])
        .map(|text| text.split(|byte| *byte == 0))
        .into_iter()
        .flatten()
        .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
        .collect();
    settle::settle(&layer.join(DIFF), &paths, below)?;
    fs::remove_file(&list).with_context(|| format!("remove {}", list.display()))
}

fn sync(directory: &Path) -> Result<()> {
    let file =
        fs::File::open(directory).with_context(|| format!("open {}", directory.display()))?;
    nix::unistd::syncfs(&file).with_context(|| format!("sync {}", directory.display()))
}

fn clear(directory: &Path) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(directory, flags, Mode::empty())
        .with_context(|| format!("open {}", directory.display()))?;
    remove_contents(&directory)
}
