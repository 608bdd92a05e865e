//! Looking for what a container left: processes, mounts, cgroups, files.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Names of what lies in a directory; none if there is no such directory.
pub(crate) fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect()
}

/// Everything that names the test's `place`, one line each.
pub(crate) fn find(place: &Path, root: &Path) -> Vec<String> {
    let own = place.file_name().unwrap().to_str().unwrap();
    let mut left: Vec<_> = entries(root).iter().map(|name| format!("state {name}")).collect();
    left.extend(mounts(place).iter().map(|line| format!("mount {line}")));
    left.extend(cgroups(own).iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(living_children().iter().map(|child| format!("process {child}")));
    left
}

/// Lines of the mount table that name `place`.
pub(crate) fn mounts(place: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = place.to_str().unwrap();
    table.lines().filter(|line| line.contains(place)).map(str::to_owned).collect()
}

/// Directories of the cgroup tree with `name` in their name.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let directories =
            entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for path in directories.map(|entry| entry.path()) {
            if path.file_name().is_some_and(|last| last.to_string_lossy().contains(name)) {
                found.push(path.clone());
            }
            open.push(path);
        }
    }
    found
}

/// The children of this process that live, with their command lines. Orphans of the commands
/// that it ran are among them (see [`super::sys::adopt_orphans`]). The dead are reaped.
///
/// Each test is a process of its own under nextest, so that all children are this test's.
pub(crate) fn living_children() -> Vec<String> {
    reap();
    children().into_iter().map(|pid| format!("{pid} {}", command_line(pid))).collect()
}

/// Kills and reaps all children.
pub(crate) fn end_children() {
    for _ in 0..100 {
        reap();
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _gone_already = kill(child, Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Reaps the dead. Not while a command runs that somebody waits for.
pub(crate) fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let lists = threads
        .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .map(|pid| Pid::from_raw(pid.parse().unwrap()))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn command_line(pid: Pid) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
