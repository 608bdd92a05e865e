//! Word from the kernel that a cgroup has run out of memory.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{Cgroup, errno_of};

/// A descriptor that can be read when there may be news.
#[derive(Debug)]
pub struct OutOfMemory {
    file: File,
    version: Version,
}

#[derive(Debug)]
enum Version {
    /// An eventfd that counts, until the cgroup is removed.
    One,
    /// An inotify of `memory.events`, whose `oom_kill` was this.
    Two(u64),
}

impl Cgroup {
    /// Starts to watch; none where nobody counts memory.
    ///
    /// # Errors
    ///
    /// `EPERM` or `EACCES` for a cgroup that is not the caller's, `EMFILE`.
    ///
    /// Source: Linux `Documentation/admin-guide/cgroup-v1/memory.rst`, section 10; `cgroup-v2.rst`,
    /// "memory.events".
    pub fn watch_memory(&self) -> Result<Option<OutOfMemory>> {
        if let Some(directory) = self.v1("memory") {
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            let file = File::from(OwnedFd::from(event));
            let control = File::open(directory.path.join("memory.oom_control"))
                .context("open memory.oom_control")?;
            let order = format!("{} {}", file.as_raw_fd(), control.as_raw_fd());
            directory.write("cgroup.event_control", &order)?;
            return Ok(Some(OutOfMemory { file, version: Version::One }));
        }
        let Some(killed) = self.killed()? else { return Ok(None) };
        let Some(directory) = &self.unified else { return Ok(None) };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(&directory.path.join("memory.events"), AddWatchFlags::IN_MODIFY)?;
        let file = File::from(OwnedFd::from(inotify));
        Ok(Some(OutOfMemory { file, version: Version::Two(killed) }))
    }

    /// How many processes were killed for memory so far, by version 2.
    fn killed(&self) -> Result<Option<u64>> {
        let Some(directory) = &self.unified else { return Ok(None) };
        let path = directory.path.join("memory.events");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(errno_of(&error), Errno::ENOENT | Errno::ENODEV) => {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(Some(killed_in(&text)))
    }
}

fn killed_in(events: &str) -> u64 {
    let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.parse().ok()).unwrap_or_default()
}

impl OutOfMemory {
    /// What to wait for.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How often it happened since the last look.
    ///
    /// # Errors
    ///
    /// If the kernel's word cannot be read.
    pub fn news(&mut self, cgroup: &Cgroup) -> Result<u64> {
        let mut buffer = [0; 4096];
        let read = match self.file.read(&mut buffer) {
            Err(error) if errno_of(&error) == Errno::EAGAIN => 0,
            read => read.context("read what the kernel says of memory")?,
        };
        match &mut self.version {
            Version::One if read == 0 => Ok(0),
            Version::One => {
                // The end of the cgroup is told the same way.
                let there = cgroup.v1("memory").is_some_and(|directory| directory.path.exists());
                let count = buffer.first_chunk().copied().map_or(0, u64::from_ne_bytes);
                Ok(if there { count } else { 0 })
            }
            Version::Two(before) => {
                let now = cgroup.killed()?.unwrap_or(*before);
                let more = now.saturating_sub(*before);
                *before = now;
                Ok(more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted() {
        assert_eq!(killed_in("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(killed_in(""), 0);
    }
}
