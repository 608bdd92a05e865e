//! Events: what a container uses, now and again, and when it runs out of memory.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::confine::cgroup::{Cgroup, OutOfMemory, Stats};
use crate::container::{ContainerId, Runtime, Status};
use crate::store::containers::Record;

/// Something that happened to a container, or was seen of it.
#[derive(Debug)]
pub enum Event {
    /// What it has used so far.
    Stats(Box<Stats>),
    /// A process of it was killed, or stopped, because it may have no more memory.
    OutOfMemory,
}

impl Runtime {
    /// What `id` has used so far.
    ///
    /// # Errors
    ///
    /// "container not running"; no cgroup that counts; a control file that cannot be read.
    pub fn stats(&self, id: &ContainerId) -> anyhow::Result<Stats> {
        cgroup(&self.running(id)?)?.stats()
    }

    /// Tells `hear` what `id` has used, each `interval`, and of every time that it ran out of memory,
    /// until it ends.
    ///
    /// # Errors
    ///
    /// As [`Self::stats`], and those of `hear`.
    pub fn events(
        &self,
        id: &ContainerId,
        interval: Duration,
        mut hear: impl FnMut(Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let record = self.running(id)?;
        let cgroup = cgroup(&record)?;
        let init = self.pidfd(&record).context("container not running")?;
        let mut memory = cgroup.watch_memory()?;
        let mut next = Instant::now() + interval;
        loop {
            let ended = wait(&init, memory.as_ref(), next)?;
            for _ in 0..memory.as_mut().map_or(Ok(0), |memory| memory.news(cgroup))? {
                hear(Event::OutOfMemory)?;
            }
            if ended {
                return Ok(());
            }
            if Instant::now() >= next {
                // Looks that were missed on a busy machine are not made up for.
                next = (next + interval).max(Instant::now() + interval / 2);
                match cgroup.stats() {
                    Ok(stats) => hear(Event::Stats(Box::new(stats)))?,
                    // It may be about to end.
                    Err(error) => log::warn!("{error:#}"),
                }
            }
        }
    }

    fn running(&self, id: &ContainerId) -> anyhow::Result<Record> {
        let record = self.containers.read(id)?;
        if self.status(&record) == Status::Stopped {
            bail!("container with id {id} is not running");
        }
        Ok(record)
    }
}

fn cgroup(record: &Record) -> anyhow::Result<&Cgroup> {
    record.cgroup.as_ref().context(
        "the container has no cgroup that could count \
         (cure: create it as root, or on cgroup v2 in a delegated cgroup)",
    )
}

/// Waits until `next`, or the end of `init`, or news of memory; whether `init` has ended.
fn wait(init: &OwnedFd, memory: Option<&OutOfMemory>, next: Instant) -> anyhow::Result<bool> {
    let left = next.saturating_duration_since(Instant::now());
    // The next whole millisecond, so as not to wake just before.
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1))?;
    let mut watched = vec![PollFd::new(init.as_fd(), PollFlags::POLLIN)];
    let file = memory.map(OutOfMemory::file);
    watched.extend(file.map(|file: &File| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
    match poll(&mut watched, timeout) {
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno).context("wait for the container"),
        Ok(_) => Ok(watched[0].any().unwrap_or(false)),
    }
}
