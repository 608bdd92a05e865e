//! Many containers, one after the other and all at once: none hangs, none leaves anything.

use crate::common::Sandbox;
use crate::common::layers::Image;

#[test]
fn five_hundred_in_sequence() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["/bin/true"]);
    for _ in 0..500 {
        sandbox.run(&bundle).ok();
    }
    sandbox.assert_nothing_left();
}

#[test]
fn a_hundred_at_once() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["echo", "ran"]);
    all_at_once(&sandbox, &["run", "--bundle", bundle.as_str()]);
}

#[test]
fn a_hundred_at_once_of_one_image() {
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    let bundle = sandbox.bundle(&["echo", "ran"]);
    let before = image.fingerprint();
    all_at_once(&sandbox, &["run", "--bundle", bundle.as_str(), "--lowerdir", &image.lowerdir()]);
    assert_eq!(image.fingerprint(), before);
}

fn all_at_once(sandbox: &Sandbox, args: &[&str]) {
    let start = |number| sandbox.spawn(&[args, &[&sandbox.id(&format!("n{number}"))]].concat());
    let running: Vec<_> = (0..100).map(start).collect();
    for run in running {
        assert_eq!(run.wait().ok().stdout, "ran\n");
    }
    sandbox.assert_nothing_left();
}

/// One id, asked for by many at the same time: one gets it.
#[test]
fn one_id_is_given_once() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let id = sandbox.id("contested");
    let create = |_| sandbox.spawn(&["create", "--bundle", bundle.as_str(), &id]);
    let running: Vec<_> = (0..10).map(create).collect();
    let outcomes: Vec<_> = running.into_iter().map(super::common::outcome::Running::wait).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.code == 0).count(), 1, "{outcomes:?}");
    assert_eq!(sandbox.state(&id)["status"], "created");
    sandbox.rrun(&["delete", "--force", &id]).ok();
    sandbox.assert_nothing_left();
}

/// `state` and `list`, asked while a container comes and goes, never see half of it.
#[test]
fn a_reader_never_sees_half_a_state() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let id = sandbox.id("changing");
    for _ in 0..30 {
        let run = sandbox.spawn(&["run", "--bundle", bundle.as_str(), &id]);
        let looking: Vec<_> =
            (0..3).map(|_| sandbox.spawn(&["list", "--format", "json"])).collect();
        let state = sandbox.rrun(&["state", &id]);
        assert!(state.code == 0 || state.stderr.contains("does not exist"), "{state}");
        for list in looking {
            let list = list.wait().ok();
            serde_json::from_str::<Vec<serde_json::Value>>(&list.stdout).unwrap();
        }
        run.wait().ok();
    }
    sandbox.assert_nothing_left();
}
