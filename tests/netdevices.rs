//! Devices of the host's network that become the container's.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::common::{Bundle, Sandbox, is_root};

/// Runs busybox's `ip` outside of the container.
fn ip(args: &[&str]) -> String {
    let output = Command::new("busybox").arg("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A sandbox and a bundle that gets `devices`.
fn with(devices: &Value) -> (Sandbox, Bundle) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| config["linux"]["netDevices"] = devices.clone());
    (sandbox, bundle)
}

/// A network of the test's own with a device `rr0`, which has addresses.
fn network_with_device() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip(&["link", "add", "rr0", "type", "veth"]);
    ip(&["link", "set", "rr0", "address", "02:00:00:00:00:05", "mtu", "1400"]);
    ip(&["addr", "add", "10.11.12.13/24", "broadcast", "10.11.12.255", "dev", "rr0"]);
    ip(&["addr", "add", "10.99.0.1/32", "scope", "link", "dev", "rr0"]);
}

#[test]
fn a_device_is_moved_with_its_addresses() {
    if !is_root() {
        // Nobody else may take a device out of the host's network.
        let (sandbox, bundle) = with(&json!({"lo": {"name": "lo1"}}));
        sandbox.run(&bundle).complains_of(&["/linux/netDevices/lo", "EPERM", "CAP_NET_ADMIN"]);
        return sandbox.assert_nothing_left();
    }
    for (name, inside) in [(json!({}), "rr0"), (json!({"name": "in%d"}), "in0")] {
        network_with_device();
        let (sandbox, bundle) = with(&json!({"rr0": name}));
        let script = format!("ip -o addr show dev {inside}; ip -o link show dev {inside}");
        let seen = sandbox.prints(&bundle, &script);
        for part in ["10.11.12.13/24 brd 10.11.12.255", "02:00:00:00:00:05", "mtu 1400", ",UP"] {
            assert!(seen.contains(part), "{part}: {seen}");
        }
        assert!(!seen.contains("10.99.0.1"), "of the link alone: {seen}");
        assert!(!ip(&["link"]).contains("rr0"));
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_device_that_is_not_there_stops_everything() {
    let (sandbox, bundle) = with(&json!({"rrun-none": {}}));
    sandbox.run(&bundle).complains_of(&["/linux/netDevices/rrun-none", "ENODEV"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_name_that_is_taken_is_refused() {
    if !is_root() {
        let (sandbox, bundle) = with(&json!({"lo": {}}));
        return drop(sandbox.run(&bundle).complains_of(&["/linux/netDevices/lo", "EPERM"]));
    }
    network_with_device();
    let (sandbox, bundle) = with(&json!({"rr0": {"name": "lo"}}));
    sandbox.run(&bundle).complains_of(&["/linux/netDevices/rr0", "EEXIST", "choose another"]);
    sandbox.assert_nothing_left();
}
