//! `rrun features`: what this runtime knows, for engines to read.

use anyhow::Result;
use caps::Capability;
use rrun_spec::mount_options;
use serde_json::{Value, json};

use super::{Global, print};

/// Show what this runtime supports, as JSON
///
/// The document is the one that the OCI runtime specification describes in features.md. It says
/// what this program can do, not what this machine allows.
#[derive(Debug, clap::Args)]
pub(super) struct Features {}

impl Features {
    /// Prints the document.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn run(&self, _global: &Global) -> Result<u8> {
        print(&format!("{:#}\n", document()))?;
        Ok(0)
    }
}

/// What is applied today; a field of the specification that is missing here would mean "unknown".
///
/// Source: runtime-spec 1.3, `features.md` and `features-linux.md`.
fn document() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop",
        ],
        "mountOptions": mount_options::names().collect::<Vec<_>>(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(),
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true,
            },
            "seccomp": seccomp(),
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": memory_policy(),
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {"dev.rrun.version": env!("CARGO_PKG_VERSION")},
        // They name directories of the host: nobody may set them for somebody else's container.
        "potentiallyUnsafeConfigAnnotations": ["dev.rrun."],
    })
}

/// All that `set_mempolicy(2)` has.
fn memory_policy() -> Value {
    json!({
        "modes": [
            "MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED",
            "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE",
        ],
        "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
    })
}

/// In the kernel's order.
fn capabilities() -> Vec<String> {
    let mut all: Vec<Capability> = caps::all().into_iter().collect();
    all.sort_by_key(Capability::index);
    all.iter().map(ToString::to_string).collect()
}

/// `knownFlags` are those that a profile may hold, `supportedFlags` those that are applied.
fn seccomp() -> Value {
    json!({
        "enabled": true,
        "actions": [
            "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE",
            "SCMP_ACT_TRAP",
        ],
        "operators": [
            "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
        ],
        "archs": [
            "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64",
            "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64",
            "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_PPC",
            "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390",
            "SCMP_ARCH_S390X", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64",
        ],
        "knownFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
        "supportedFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
    })
}

#[cfg(test)]
mod tests {
    use rrun_spec::{check, oci, parse, unsupported};

    use super::*;

    #[test]
    fn the_document_has_the_shape_of_the_specification() {
        let features: oci::Features = serde_json::from_value(document()).unwrap();
        let linux = features.linux().clone().unwrap();
        assert_eq!(linux.capabilities().as_ref().unwrap().first().unwrap(), "CAP_CHOWN");
        assert_eq!(linux.capabilities().as_ref().unwrap().len(), 41);
        assert!(features.mount_options().as_ref().unwrap().contains(&"rro".to_owned()));
    }

    /// A config that asks for all that is announced is refused nowhere.
    #[test]
    fn what_is_announced_is_accepted() {
        let document = document();
        let linux = &document["linux"];
        let typed = |name: &Value| json!({"type": name});
        let namespaces: Vec<Value> =
            linux["namespaces"].as_array().unwrap().iter().map(typed).collect();
        let rule = |name: &Value| json!({"names": ["read"], "action": name});
        let rules: Vec<Value> =
            linux["seccomp"]["actions"].as_array().unwrap().iter().map(rule).collect();
        let bind =
            |name: &Value| json!({"destination": "/a", "source": "/a", "options": ["bind", name]});
        let mounts: Vec<Value> =
            document["mountOptions"].as_array().unwrap().iter().map(bind).collect();
        let config = json!({
            "ociVersion": document["ociVersionMax"],
            "root": {"path": "rootfs"},
            "mounts": mounts,
            "process": {
                "cwd": "/", "args": ["true"], "user": {},
                "capabilities": {"bounding": linux["capabilities"]},
            },
            "linux": {
                "namespaces": namespaces,
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": linux["seccomp"]["archs"],
                    "flags": linux["seccomp"]["supportedFlags"],
                    "syscalls": rules,
                    "listenerPath": "/run/agent",
                },
            },
        });
        let spec = parse(config.to_string().as_bytes(), "config.json".as_ref()).unwrap();
        let bounding = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert_eq!(bounding.bounding().as_ref().unwrap().len(), 41);
        assert_eq!(check(&spec), Ok(()));
        assert_eq!(unsupported(&spec), []);
    }
}
