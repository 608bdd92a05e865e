//! The session keyring: which keys a container's processes possess.

use std::fs;

use serde_json::json;

use crate::common::{Bundle, Sandbox, sys};

/// The keyring that the caller of rrun is in.
const CALLER: &str = "rrun-caller";

/// A sandbox and a bundle that shows keys, in a session keyring named [`CALLER`].
fn in_a_session(args: &[&str]) -> (Sandbox, Bundle) {
    sys::join_session_keyring(CALLER);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(args);
    bundle.edit(|config| config["linux"]["maskedPaths"] = json!([]));
    (sandbox, bundle)
}

/// Whether the text of `/proc/keys` names a keyring `name`.
fn shows(keys: &str, name: &str) -> bool {
    keys.split_whitespace().any(|word| word == format!("{name}:"))
}

/// The number of the keyring `name` in the text of `/proc/keys`.
fn number<'a>(keys: &'a str, name: &str) -> &'a str {
    let line = keys.lines().find(|line| shows(line, name)).unwrap();
    line.split_whitespace().next().unwrap()
}

#[test]
fn a_container_has_a_session_keyring_of_its_own() {
    let (sandbox, bundle) = in_a_session(&["cat", "/proc/keys"]);
    assert!(shows(&fs::read_to_string("/proc/keys").unwrap(), CALLER));
    let id = sandbox.id("own");
    let keys = sandbox.rrun(&["run", "--bundle", bundle.as_str(), &id]).ok().stdout;
    assert!(shows(&keys, &format!("_ses.{id}")), "{keys}");
    assert!(!shows(&keys, CALLER), "{keys}");
}

#[test]
fn without_a_new_keyring_it_stays_in_the_caller_s() {
    let (sandbox, bundle) = in_a_session(&["cat", "/proc/keys"]);
    let id = sandbox.id("caller");
    let run = ["run", "--no-new-keyring", "--bundle", bundle.as_str(), &id];
    let keys = sandbox.rrun(&run).ok().stdout;
    assert!(shows(&keys, CALLER), "{keys}");
    assert!(!shows(&keys, &format!("_ses.{id}")), "{keys}");
}

#[test]
fn exec_shares_the_keyring_of_its_container() {
    let (sandbox, bundle) = in_a_session(&["sh", "-c", "cat /proc/keys; sleep 1000"]);
    let id = sandbox.id("shared");
    let created = sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
    sandbox.rrun(&["start", &id]).ok();
    let name = format!("_ses.{id}");
    crate::common::eventually("the keys are shown", || shows(&created.stdout_now(), &name));
    let keys = sandbox.rrun(&["exec", &id, "cat", "/proc/keys"]).ok().stdout;
    assert_eq!(number(&keys, &name), number(&created.stdout_now(), &name), "{keys}");
    assert!(!shows(&keys, CALLER), "{keys}");
    sandbox.remove(&id);
}

#[test]
fn exec_stays_in_the_caller_s_where_the_container_did() {
    let (sandbox, bundle) = in_a_session(&["sleep", "1000"]);
    let id = sandbox.id("none");
    sandbox.rrun(&["create", "--no-new-keyring", "--bundle", bundle.as_str(), &id]).ok();
    sandbox.rrun(&["start", &id]).ok();
    let keys = sandbox.rrun(&["exec", &id, "cat", "/proc/keys"]).ok().stdout;
    assert!(shows(&keys, CALLER), "{keys}");
    assert!(!shows(&keys, &format!("_ses.{id}")), "{keys}");
    sandbox.remove(&id);
}
