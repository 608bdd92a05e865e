//! Errors from below, at every system call of the server in turn: what was asked for is done or it is
//! not, the error is the one from below, nothing half-made stays anywhere, no lower layer changes, and the
//! next mount shows the same.
//!
//! Each scenario is carried out again and again on new layers. The first time its first call fails,
//! then its second, until there are no more; so once with `EIO` at any call, and with `ENOSPC` and `EDQUOT`
//! at those that change something.

mod scenarios;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rrun_fusefs::{Config, PermissionsKept};

use crate::common::look::{Seen, age, look, numbers};
use crate::common::watch::{Fault, Watch};
use crate::common::{Layers, Mounted, checksum, in_user_namespace, names, xattr};
use scenarios::SCENARIOS;

type Act = fn(&Path) -> io::Result<()>;

/// Something to do while calls fail.
struct Scenario {
    name: &'static str,
    /// What is done before, in a mount of its own.
    before: Option<Act>,
    /// What is done in the mount that is watched, before calls fail.
    warm: Act,
    /// What is done while one fails.
    act: Act,
    /// What of it may be done although it has failed.
    part: Option<Act>,
}

/// Everything to be seen.
type State = BTreeMap<PathBuf, Seen>;

/// Two lower layers, of which `f` builds new uppers for.
struct Stage {
    layers: Layers,
    scenario: &'static Scenario,
    kept: fn(Config) -> Config,
}

impl Stage {
    fn config(&self) -> Config {
        (self.kept)(self.layers.config())
    }

    /// New upper and work directories, with what comes before.
    fn renew(&self) {
        for folder in [self.layers.upper(), self.layers.work()] {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
        }
        age(&self.layers.upper());
        if let Some(before) = self.scenario.before {
            let mounted = Mounted::new(&self.config(), &self.layers.merged());
            before(mounted.root()).unwrap();
            mounted.unmount();
        }
    }

    fn mount(&self) -> (Mounted, Watch) {
        let (mounted, watch) = Mounted::watched(&self.config(), &self.layers.merged());
        (self.scenario.warm)(mounted.root()).unwrap();
        (mounted, watch)
    }

    /// What is to be seen after `act`, and the calls that it takes.
    fn without_faults(&self, act: Act) -> (State, usize) {
        self.renew();
        let (mounted, watch) = self.mount();
        watch.begin(None);
        act(mounted.root()).unwrap();
        let calls = watch.end().made.len();
        let state = look(mounted.root());
        mounted.unmount();
        (state, calls)
    }

    /// Lets one call fail; `false` if it did not come to that.
    fn fail(&self, fault: Fault, allowed: &[State], after: &State) -> bool {
        self.renew();
        let (mounted, watch) = self.mount();
        watch.begin(Some(fault));
        let done = (self.scenario.act)(mounted.root());
        let Some(refused) = watch.end().refused else {
            mounted.unmount();
            done.unwrap();
            return false;
        };
        let name = self.scenario.name;
        let case = format!("{name}: {} at call {} ({refused})", fault.errno, fault.after);
        let errno = done.as_ref().err().map(|error| Errno::from_raw(error.raw_os_error().unwrap()));
        assert!(errno.is_none_or(|errno| errno == fault.errno), "{case}: {errno:?}");
        let state = look(mounted.root());
        if done.is_ok() {
            same(after, &state).unwrap_or_else(|difference| panic!("{case}: {difference}"));
        } else {
            let found: Vec<_> = allowed.iter().map(|allowed| same(allowed, &state)).collect();
            assert!(found.iter().any(Result::is_ok), "{case}, {errno:?}: {found:?}");
            let again = (self.scenario.act)(mounted.root());
            assert!(again.is_ok(), "{case}: again: {again:?}");
            same(after, &look(mounted.root()))
                .unwrap_or_else(|difference| panic!("{case}, again: {difference}"));
        }
        // Without the record of what a copy was made from it cannot keep the number.
        let kept = (!refused.contains("setxattr")).then(|| numbers(mounted.root()));
        mounted.unmount();
        drop(watch);
        self.check_disk(&case, after, kept);
        true
    }

    /// What the next mount finds.
    fn check_disk(&self, case: &str, after: &State, kept: Option<BTreeMap<PathBuf, u64>>) {
        let mounted = Mounted::new(&self.config(), &self.layers.merged());
        same(after, &look(mounted.root()))
            .unwrap_or_else(|difference| panic!("{case}, mounted again: {difference}"));
        if let Some(kept) = kept {
            assert_eq!(numbers(mounted.root()), kept, "{case}");
        }
        mounted.unmount();
        for folder in ["work", "partial"] {
            let folder = self.layers.work().join(folder);
            if folder.exists() {
                assert_eq!(names(&folder), [""; 0], "{case}: the work directory");
            }
        }
    }
}

/// The first difference, if any. Directories may have newer times: something was made in them and
/// removed again.
fn same(wanted: &State, found: &State) -> Result<(), String> {
    for (path, wanted) in wanted {
        match found.get(path) {
            None => return Err(format!("{path:?} is missing")),
            Some(found) if !found.is_like(wanted) => {
                return Err(format!("{path:?} wanted {wanted:?} found {found:?}"));
            }
            Some(_) => {}
        }
    }
    match found.keys().find(|path| !wanted.contains_key(*path)) {
        Some(path) => Err(format!("{path:?} should not be there")),
        None => Ok(()),
    }
}

/// Two lower layers with something of everything; the huge file takes time to look at.
fn layers(stage: &Path, huge: bool) -> Layers {
    let layers = Layers::new(stage, 2);
    for file in ["d/a", "d/b", "d/sub/x", "e/f", "links/one", "over", "set-id"] {
        layers.file(2, file, &format!("{file} of the lower layer"));
    }
    layers.file(1, "d/c", "of the layer above");
    layers.file(1, "d/b", "of the layer above");
    for folder in ["empty", "other", "d/hollow"] {
        layers.folder(2, folder);
    }
    layers.file(2, "d/hollow/gone", "");
    layers.whiteout(1, "d/hollow/gone");
    let lower = layers.lower(2);
    fs::hard_link(lower.join("links/one"), lower.join("links/two")).unwrap();
    std::os::unix::fs::symlink("d/a", lower.join("link")).unwrap();
    xattr::set(&lower.join("d/a"), "user.kept", b"value").unwrap();
    xattr::set(&lower.join("d"), "user.kept", b"value").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    fs::set_permissions(lower.join("set-id"), mode).unwrap();
    if huge {
        fs::File::create(lower.join("huge")).unwrap().set_len(9 << 20).unwrap();
    }
    (1..=2).for_each(|layer| age(&layers.lower(layer)));
    layers
}

/// Walks over all calls of the scenarios that are `chosen`, by number and name, with layers `kept` so.
/// `RRUN_SCENARIO` names the only one to look at.
fn walk(chosen: impl Fn(usize, &str) -> bool, kept: fn(Config) -> Config) {
    let only = std::env::var("RRUN_SCENARIO").ok();
    let mut failed = Vec::new();
    for (number, scenario) in SCENARIOS.iter().enumerate() {
        let name = scenario.name;
        if !chosen(number, name) || only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let full = if (number / PARTS).is_multiple_of(2) { Errno::ENOSPC } else { Errno::EDQUOT };
        let run = || {
            in_user_namespace(|identity, stage| {
                if identity.has_many_ids() {
                    let layers = layers(stage, name.contains("huge"));
                    fail_each_call(&Stage { layers, scenario, kept }, full);
                }
            });
        };
        if catch_unwind(run).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// Lets each call fail in turn: any with `EIO`, those that change something with `full`.
fn fail_each_call(stage: &Stage, full: Errno) {
    let scenario = stage.scenario;
    let lower = |layer| checksum(&stage.layers.lower(layer));
    let lowers = [lower(1), lower(2)];
    let (after, calls) = stage.without_faults(scenario.act);
    let mut allowed = vec![stage.without_faults(scenarios::nothing).0, after.clone()];
    allowed.extend(scenario.part.map(|part| stage.without_faults(part).0));
    println!("{}: {calls} calls", scenario.name);
    let mut failed = 0;
    for (errno, changes_only) in [(Errno::EIO, false), (full, true)] {
        for call in 0.. {
            assert!(call <= calls + SOME_MORE, "{}", scenario.name);
            let fault = Fault { after: call, errno, changes_only };
            match catch_unwind(AssertUnwindSafe(|| stage.fail(fault, &allowed, &after))) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_printed_by_the_hook) => failed += 1,
            }
        }
    }
    assert_eq!(failed, 0, "{}: calls that did harm by failing", scenario.name);
    assert_eq!([lower(1), lower(2)], lowers, "{}", scenario.name);
}

/// All scenarios are several tests, so that they run side by side.
const PARTS: usize = 4;
/// A call that fails may lead to some that would not have been made.
const SOME_MORE: usize = 20;

fn part(part: usize) {
    walk(|number, _| number % PARTS == part, |config| config);
}

#[test]
fn no_call_that_fails_leaves_anything_half_made_1() {
    part(0);
}

#[test]
fn no_call_that_fails_leaves_anything_half_made_2() {
    part(1);
}

#[test]
fn no_call_that_fails_leaves_anything_half_made_3() {
    part(2);
}

#[test]
fn no_call_that_fails_leaves_anything_half_made_4() {
    part(3);
}

#[test]
fn permissions_in_an_attribute_are_given_wholly_or_not_at_all() {
    walk(
        |_, name| name.starts_with("ch") || name.starts_with("create over"),
        |config| Config { permissions: PermissionsKept::User, ..config },
    );
}
