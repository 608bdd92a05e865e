//! What the tests share: a place of their own, bundles, layers, and looking for what was left.

pub(crate) mod bundle;
pub(crate) mod descriptor;
pub(crate) mod exchange;
pub(crate) mod image;
pub(crate) mod layers;
pub(crate) mod leftovers;
pub(crate) mod outcome;
pub(crate) mod sandbox;
pub(crate) mod sys;
pub(crate) mod terminal;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use bundle::Bundle;
pub(crate) use outcome::Outcome;
pub(crate) use sandbox::Sandbox;

/// After this long a command or a condition is taken to hang. Containers take milliseconds; the
/// rest is for a machine that is busy with the other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The command under test. nextest says where it lies when it has unpacked an archive.
pub(crate) fn rrun_binary() -> PathBuf {
    std::env::var_os("NEXTEST_BIN_EXE_rrun")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rrun")), PathBuf::from)
}

/// A shell's script that tries to write to the program of every process that is not its own (CVE-2019-5736).
pub(crate) const OVERWRITE_PROGRAMS: &str = r#"
while :; do
    for exe in /proc/[0-9]*/exe; do
        case $(readlink $exe) in
        */busybox | "") ;;
        *) (exec 3<$exe && sleep 0.2 && echo >>/proc/self/fd/3) 2>/dev/null & ;;
        esac
    done
done"#;

/// Waits until `condition` holds; `what` names it when it does not.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails the test unless the machine has what it needs, and says `cure`. Where
/// `RRUN_TESTS_MAY_SKIP` is set, the test ends well instead and is counted by `scripts/test`.
pub(crate) fn needs(there: bool, what: &str, cure: &str) {
    if there {
        return;
    }
    let may_skip = std::env::var_os("RRUN_TESTS_MAY_SKIP").is_some_and(|value| value == "1");
    assert!(may_skip, "this machine lacks {what}; {cure}");
    if let Some(list) = std::env::var_os("RRUN_SKIPPED_TO") {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let mut list = fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        writeln!(list, "{name}: this machine lacks {what}").unwrap();
    }
    end_test();
}

/// Ends the process, which under nextest is one test.
#[expect(clippy::exit, clippy::disallowed_methods, reason = "the harness has no way to skip")]
fn end_test() -> ! {
    std::process::exit(0)
}

/// For tests of the layered root.
pub(crate) fn needs_fuse() {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    needs(device.is_ok(), "an open /dev/fuse", "modprobe fuse; chmod 0666 /dev/fuse");
}

/// The first subordinate user id of the caller, which its containers see as user 1.
pub(crate) fn first_subordinate_uid() -> u32 {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid).unwrap().unwrap().name;
    let table = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let mut ranges = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = ranges.find(|range| range[0] == name || range[0] == uid.to_string());
    needs(own.is_some(), "subordinate ids", "usermod --add-subuids 100000-165535 USER");
    own.unwrap()[1].parse().unwrap()
}
