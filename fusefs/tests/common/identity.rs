//! Who runs a test: real root, root of a user namespace with many ids or with one.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};

use super::fork;

/// An ordinary user's id, when the tests run as root; no such user need exist.
const USER: u32 = 54_321;
/// Subordinate ids given to that user.
const SUBORDINATES: u32 = 300_000;
/// How many ids a full map has, besides 0.
const COUNT: u32 = 65_535;

/// How the ids inside relate to those outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Real root, in a mount namespace of its own.
    Root,
    /// An ordinary user with subordinate ids, root in his user namespace.
    Range,
    /// An ordinary user with nothing but his own id, root in his user namespace.
    Single,
}

impl Identity {
    /// Whether files can be given to others.
    pub(crate) fn has_many_ids(self) -> bool {
        self != Self::Single
    }
}

/// Runs `test` as everybody this process can become, each in a directory of its own.
pub(crate) fn everywhere(test: impl Fn(Identity, &Path)) {
    if geteuid().is_root() {
        run(Identity::Root, &test);
    }
    in_user_namespace(test);
}

/// Runs `test` as an ordinary user who is root in a user namespace: with many ids and with one.
pub(crate) fn in_user_namespace(test: impl Fn(Identity, &Path)) {
    run(Identity::Range, &test);
    run(Identity::Single, &test);
}

fn run(identity: Identity, test: &impl Fn(Identity, &Path)) {
    let stage = tempfile::tempdir().unwrap();
    let (mut ready, tell_ready) = pipe().unwrap();
    let (wait, mut go) = pipe().unwrap();
    let child = fork::child(|| {
        become_root(identity, stage.path(), tell_ready, wait);
        test(identity, stage.path());
        empty(stage.path());
    });
    if identity == Identity::Range {
        ready.read_exact(&mut [0]).unwrap();
        map_range(child);
    }
    go.write_all(b"g").unwrap();
    assert!(fork::succeeded(child), "failed as {identity:?}");
}

fn become_root(identity: Identity, stage: &Path, mut ready: PipeWriter, mut wait: PipeReader) {
    if identity != Identity::Root && geteuid().is_root() {
        chown(stage, Some(USER), Some(USER)).unwrap();
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        setgroups(&[]).unwrap();
        setresgid(gid, gid, gid).unwrap();
        setresuid(uid, uid, uid).unwrap();
        // A change of ids has given our own /proc files to root.
        nix::sys::prctl::set_dumpable(true).unwrap();
    }
    let (uid, gid) = (geteuid(), getegid());
    match identity {
        Identity::Root => unshare(CloneFlags::CLONE_NEWNS).unwrap(),
        _ => unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap(),
    }
    ready.write_all(b"r").unwrap();
    wait.read_exact(&mut [0]).unwrap();
    if identity == Identity::Single {
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
    }
    let (root, all) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(all, all, all).unwrap();
    setresuid(root, root, root).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

/// Gives the child many ids: as root by writing its maps, else through the setuid helpers.
fn map_range(child: Pid) {
    if geteuid().is_root() {
        let map = format!("0 {USER} 1\n1 {SUBORDINATES} {COUNT}\n");
        fs::write(format!("/proc/{child}/uid_map"), &map).unwrap();
        fs::write(format!("/proc/{child}/gid_map"), &map).unwrap();
        return;
    }
    for (helper, file, own) in [
        ("newuidmap", "/etc/subuid", geteuid().as_raw()),
        ("newgidmap", "/etc/subgid", getegid().as_raw()),
    ] {
        let start = subordinate(file).unwrap_or_else(|| {
            panic!("no subordinate ids in {file}: as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER")
        });
        let numbers = [0, own, 1, 1, start, COUNT].map(|number| number.to_string());
        let status = Command::new(helper).arg(child.to_string()).args(numbers).status();
        assert!(status.expect("package uidmap").success(), "{helper}");
    }
}

/// The first id of our first range in `file`.
fn subordinate(file: &str) -> Option<u32> {
    let me = nix::unistd::User::from_uid(geteuid()).ok()??;
    let uid = geteuid().to_string();
    fs::read_to_string(file).ok()?.lines().find_map(|line| {
        let (name, range) = line.split_once(':')?;
        let ours = name == me.name || name == uid;
        ours.then(|| range.split_once(':')?.0.parse().ok())?
    })
}

/// Removes what a test has left, while its owner still can.
fn empty(stage: &Path) {
    for entry in fs::read_dir(stage).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
}
