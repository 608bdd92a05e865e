//! What the tests share: a place of their own, bundles, layers, and looking for what was left.

pub(crate) mod bundle;
pub(crate) mod layers;
pub(crate) mod leftovers;
pub(crate) mod outcome;
pub(crate) mod sandbox;
pub(crate) mod sys;
pub(crate) mod terminal;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use bundle::Bundle;
pub(crate) use outcome::Outcome;
pub(crate) use sandbox::Sandbox;

/// After this long a command or a condition is taken to hang. Containers take milliseconds; the
/// rest is for a machine that is busy with the other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The command under test. nextest says where it lies when it has unpacked an archive.
pub(crate) fn rrun_binary() -> PathBuf {
    std::env::var_os("NEXTEST_BIN_EXE_rrun")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rrun")), PathBuf::from)
}

/// Waits until `condition` holds; `what` names it when it does not.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first subordinate user id of the caller, which its containers see as user 1.
pub(crate) fn first_subordinate_uid() -> u32 {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid).unwrap().unwrap().name;
    let table = fs::read_to_string("/etc/subuid").unwrap();
    let mut ranges = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = ranges.find(|range| range[0] == name || range[0] == uid.to_string());
    own.expect("the user that runs the tests has a line in /etc/subuid")[1].parse().unwrap()
}
