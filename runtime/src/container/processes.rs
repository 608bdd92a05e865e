//! Which processes belong to a container.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::Pid;

use crate::container::{ContainerId, Runtime, Status};
use crate::store::containers::Record;

impl Runtime {
    /// The processes of `id`, as numbers of our own process namespace.
    ///
    /// # Errors
    ///
    /// If there is no such container, or its cgroup cannot be read.
    pub fn processes(&self, id: &ContainerId) -> anyhow::Result<Vec<Pid>> {
        let record = self.containers.read(id)?;
        anyhow::ensure!(self.status(&record) != Status::Stopped, "container not running");
        match &record.cgroup {
            Some(cgroup) => cgroup.pids(),
            None => Ok(in_mount_namespace(record.mount_namespace)),
        }
    }

    /// The processes that `record`'s container has without a cgroup to list them: those in its
    /// mount namespace, which is always its own.
    #[must_use]
    pub fn stragglers(&self, record: &Record) -> Vec<Pid> {
        if record.cgroup.is_some() || record.own_pid_namespace {
            return Vec::new();
        }
        in_mount_namespace(record.mount_namespace)
    }
}

/// The identity of a process's mount namespace (namespaces(7)); 0 if it cannot be seen.
#[must_use]
pub fn mount_namespace(pid: Pid) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).map_or(0, |found| found.ino())
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
        let own = nix::unistd::getpid();
        assert!(in_mount_namespace(mount_namespace(own)).contains(&own));
        assert!(in_mount_namespace(0).is_empty());
    }
}
