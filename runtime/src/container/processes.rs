//! Which processes belong to a container.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{Pid, getpid};

use crate::container::{ContainerId, Runtime, Status};
use crate::store::containers::Record;
use crate::sys::process::mount_namespace_identity;

impl Runtime {
    /// The processes of `id`, as numbers of our own process namespace; none once it has stopped.
    ///
    /// # Errors
    ///
    /// If there is no such container, or its cgroup cannot be read.
    pub fn processes(&self, id: &ContainerId) -> anyhow::Result<Vec<Pid>> {
        let record = self.containers.read(id)?;
        if self.status(&record) == Status::Stopped {
            return Ok(Vec::new());
        }
        match &record.cgroup {
            Some(cgroup) => cgroup.pids(),
            None => Ok(in_mount_namespace(record.mount_namespace)),
        }
    }

    /// The processes that `record`'s container has without a cgroup to list them: those in its
    /// mount namespace, which is always its own.
    #[must_use]
    pub fn stragglers(&self, record: &Record) -> Vec<Pid> {
        if finds_all(record) {
            return Vec::new();
        }
        in_mount_namespace(record.mount_namespace)
    }

    /// Keeps the mount namespace of `record`'s container from ending, so that its identity does not
    /// become another's; none if that cannot happen (Linux 6.11) or has perhaps happened already.
    pub fn pin_mount_namespace(&self, record: &Record) -> Pin {
        if finds_all(record) {
            return Pin::NotNeeded;
        }
        let init = Pid::from_raw(record.init.pid);
        match open(init) {
            Some(namespace) if identity(&namespace) == record.mount_namespace => {
                Pin::Held(namespace)
            }
            _ if open(getpid())
                .is_some_and(|own| mount_namespace_identity(own.as_fd()).is_ok()) =>
            {
                Pin::NotNeeded
            }
            _ => Pin::TooLate,
        }
    }
}

/// Whether all processes are found without looking for them: by the cgroup, or by ending the first one
/// of their process namespace.
fn finds_all(record: &Record) -> bool {
    record.cgroup.is_some() || record.own_pid_namespace
}

/// Whether the identity of a mount namespace can be relied upon.
#[derive(Debug)]
#[must_use = "dropping it lets the namespace end"]
pub enum Pin {
    /// While this is held.
    Held(File),
    /// Always.
    NotNeeded,
    /// No longer: it may be another's by now.
    TooLate,
}

/// The identity of a process's mount namespace; 0 if it cannot be seen.
#[must_use]
pub fn mount_namespace(pid: Pid) -> u64 {
    open(pid).map_or(0, |namespace| identity(&namespace))
}

fn open(pid: Pid) -> Option<File> {
    File::open(format!("/proc/{pid}/ns/mnt")).ok()
}

/// Where there is no better one, the inode number (namespaces(7)).
fn identity(namespace: &File) -> u64 {
    mount_namespace_identity(namespace.as_fd())
        .unwrap_or_else(|_| namespace.metadata().map_or(0, |found| found.ino()))
}

fn in_mount_namespace(namespace: u64) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw);
    let inside = |pid: &Pid| namespace != 0 && mount_namespace(*pid) == namespace;
    entries.flatten().filter_map(pid).filter(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_its_own_namespace() {
        let own = getpid();
        assert!(in_mount_namespace(mount_namespace(own)).contains(&own));
        assert!(in_mount_namespace(0).is_empty());
    }
}
