//! Namespaces: new ones, the host's, and those of another container.

use std::fs;

use serde_json::json;

use crate::common::bundle::drop_namespace;
use crate::common::{Bundle, Sandbox, is_root};

/// What `readlink` says of the test's own namespace.
fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

fn inside(sandbox: &Sandbox, bundle: &Bundle, kind: &str) -> String {
    sandbox.prints(bundle, &format!("readlink /proc/self/ns/{kind}"))
}

#[test]
fn those_of_the_config_are_new() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "cgroup" }));
    });
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let new = inside(&sandbox, &bundle, kind);
        assert!(new.starts_with(kind) && new != own(kind), "{new}");
    }
}

#[test]
fn those_not_in_the_config_are_the_host_s() {
    for (name, link) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle(&["true"]);
        bundle.share_with_host(name);
        assert_eq!(inside(&sandbox, &bundle, link), own(link));
        assert_eq!(inside(&sandbox, &bundle, "cgroup"), own("cgroup"));
    }
}

#[test]
fn the_program_is_process_one() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    assert_eq!(sandbox.prints(&bundle, "echo $$; echo /proc/[0-9]*"), "1\n/proc/1");
}

#[test]
fn host_and_domain_have_their_names() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| config["domainname"] = "example.org".into());
    let names = sandbox.prints(&bundle, "hostname; cat /proc/sys/kernel/domainname");
    assert_eq!(names, "rrun\nexample.org");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "rrun");
}

/// The namespaces of process `pid`, as a configuration joins them.
fn joining(bundle: &Bundle, pid: &str, kinds: &[(&str, &str)]) {
    bundle.edit(|config| {
        for (kind, link) in kinds {
            drop_namespace(config, kind);
            let namespace = json!({ "type": kind, "path": format!("/proc/{pid}/ns/{link}") });
            config["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
        }
    });
}

#[test]
fn a_container_can_join_those_of_another() {
    let sandbox = Sandbox::new();
    let first = sandbox.start(&sandbox.bundle(&["sleep", "1000"]), "first");
    let pid = sandbox.state(&first)["pid"].to_string();
    let link = |kind: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
    };
    let bundle = sandbox.bundle(&["true"]);
    let mut kinds = vec![("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];
    // An ordinary user may join only what belongs to a user namespace of its own.
    kinds.extend((!is_root()).then_some(("user", "user")));
    joining(&bundle, &pid, &kinds);
    for (_, kind) in &kinds {
        assert_eq!(inside(&sandbox, &bundle, kind), link(kind));
    }
    assert_ne!(inside(&sandbox, &bundle, "mnt"), link("mnt"));
    assert_eq!(sandbox.prints(&bundle, "tr '\\0' ' ' < /proc/1/cmdline"), "sleep 1000 ");
    sandbox.remove(&first);
    sandbox.assert_nothing_left();
}

#[test]
fn a_path_that_is_no_such_namespace_is_refused() {
    let sandbox = Sandbox::new();
    let id = sandbox.id("joins");
    for path in ["/proc/self/ns/uts", "/no/such/namespace", "/etc/passwd"] {
        let bundle = sandbox.bundle(&["true"]);
        bundle.edit(|config| {
            drop_namespace(config, "network");
            let namespace = json!({ "type": "network", "path": path });
            config["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
        });
        sandbox.rrun(&["create", "--bundle", bundle.as_str(), &id]).complains_of(&[path]);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn settings_of_the_kernel_are_the_namespace_s() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| {
        config["linux"]["sysctl"] = json!({
            "net.ipv4.ip_unprivileged_port_start": "7", "kernel.msgmax": "4321",
        });
    });
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    assert_eq!(sandbox.prints(&bundle, script), "7\n4321");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), "4321\n");
}

#[test]
fn a_setting_without_its_namespace_is_refused() {
    let sandbox = Sandbox::new();
    let id = sandbox.id("sysctl");
    for (namespace, key) in
        [("network", "net.ipv4.ip_unprivileged_port_start"), ("ipc", "kernel.msgmax")]
    {
        let bundle = sandbox.bundle(&["true"]);
        bundle.share_with_host(namespace);
        bundle.edit(|config| config["linux"]["sysctl"] = json!({ key: "7" }));
        sandbox
            .rrun(&["create", "--bundle", bundle.as_str(), &id])
            .complains_of(&["/linux/sysctl", key]);
    }
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| config["linux"]["sysctl"] = json!({ "vm.swappiness": "7" }));
    sandbox
        .rrun(&["create", "--bundle", bundle.as_str(), &id])
        .complains_of(&["/linux/sysctl", "vm.swappiness"]);
    sandbox.assert_nothing_left();
}

#[test]
fn the_loopback_of_a_new_network_is_up() {
    let sandbox = Sandbox::new();
    let flags = sandbox.prints(&sandbox.bundle(&["true"]), "ip -o link show lo");
    assert!(flags.contains(",UP"), "{flags}");
}
