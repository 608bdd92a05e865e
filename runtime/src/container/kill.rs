//! Kill: a signal for the container's first process, or for all of them.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::container::{Action, ContainerId, Runtime, Status};
use crate::store::containers::Record;
use crate::sys::process::{pidfd_open, pidfd_signal};

impl Runtime {
    /// Sends `signal` to the first process of `id`, or with `all` to every process of it. SIGKILL
    /// ends all of them also where the first one's end would not.
    ///
    /// # Errors
    ///
    /// "container not running", which engines look for, unless `all` is given.
    pub fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> anyhow::Result<()> {
        let record = self.containers.read(id)?;
        if all {
            return self.kill_all(&record, signal);
        }
        let status = self.status(&record);
        // Where no process namespace ends with it, its first process may even be gone already.
        if signal == libc::SIGKILL && !record.own_pid_namespace && self.kill_each(&record)? {
            return Ok(());
        }
        let pidfd = self.pidfd(&record).filter(|_| status.accepts(Action::Kill));
        let Some(pidfd) = pidfd else { bail!("container not running") };
        match pidfd_signal(pidfd.as_fd(), signal) {
            Err(Errno::ESRCH) => bail!("container not running"),
            result => result.with_context(|| format!("send signal {signal}"))?,
        }
        match &record.cgroup {
            // What a freezer of version 1 has stopped dies when it is let go.
            Some(cgroup) if status == Status::Paused && signal == libc::SIGKILL => cgroup.thaw(),
            _ => Ok(()),
        }
    }

    /// Kills every process of the container; false if there is none.
    fn kill_each(&self, record: &Record) -> anyhow::Result<bool> {
        match &record.cgroup {
            Some(cgroup) if cgroup.pids()?.is_empty() => Ok(false),
            Some(cgroup) => cgroup.kill_all().map(|()| true),
            None if record.is_alive() => self.end(record).map(|()| true),
            None => Ok(false),
        }
    }

    fn kill_all(&self, record: &Record, signal: i32) -> anyhow::Result<()> {
        if let Some(cgroup) = &record.cgroup {
            if signal == libc::SIGKILL {
                return cgroup.kill_all();
            }
            for pid in cgroup.pids()? {
                if let Ok(pidfd) = pidfd_open(pid) {
                    let _ended_already = pidfd_signal(pidfd.as_fd(), signal);
                }
            }
            return Ok(());
        }
        // Without cgroups the others are known only to the kernel, which ends them with init if the
        // process namespace is the container's own.
        match self.pidfd(record).map(|pidfd| pidfd_signal(pidfd.as_fd(), signal)) {
            None | Some(Ok(()) | Err(Errno::ESRCH)) => Ok(()),
            Some(Err(errno)) => Err(errno).with_context(|| format!("send signal {signal}")),
        }
    }

    /// A pidfd of the container's first process, if it still runs.
    #[must_use]
    pub fn pidfd(&self, record: &Record) -> Option<OwnedFd> {
        let pidfd = pidfd_open(record.init.pid()).ok()?;
        // Only now can the number no longer become another's: look whether it did before.
        record.is_alive().then_some(pidfd)
    }
}

/// The signal that `text` means: a number, or a name with or without `SIG`.
///
/// # Errors
///
/// If it means none.
pub fn parse_signal(text: &str) -> anyhow::Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        if (0..=libc::SIGRTMAX()).contains(&number) {
            return Ok(number);
        }
        bail!("unknown signal {text:?}: want 1 to {}", libc::SIGRTMAX());
    }
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(short) {
        return Ok(number);
    }
    let name: Result<Signal, _> = format!("SIG{short}").parse();
    name.map(|signal| signal as i32)
        .map_err(|_| anyhow::anyhow!("unknown signal {text:?}: want a number, or a name like TERM"))
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<i32> {
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        libc::SIGRTMIN() + offset(rest, '+')?
    } else {
        libc::SIGRTMAX() - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("term", 15),
            ("0", 0),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
            ("RTMAX-1", libc::SIGRTMAX() - 1),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "SIG", "FOO", "-1", "65", "9x", "RTMIN+99", "RTMIN-1"] {
            assert!(parse_signal(text).is_err(), "{text:?}");
        }
    }
}
