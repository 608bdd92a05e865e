//! What a config may ask for and the runtime does not do yet: refused by name, never ignored.
//!
//! What engines write without asking for anything (an empty label, a weight of 0) passes.
//! Sections for other systems (`windows`, `solaris`, `zos`) and fields of versions to come are
//! none of ours and pass too.

use oci_spec::runtime as oci;

use super::{Problem, Problems, has_namespace};

/// What of a config is valid but cannot be carried out, with the pointer to each.
#[must_use]
pub fn unsupported(spec: &oci::Spec) -> Vec<Problem> {
    let mut refused = Refused(Problems::default());
    if !has_namespace(spec, oci::LinuxNamespaceType::Mount) {
        refused.0.add(
            "/linux/namespaces",
            "a container without a mount namespace is not supported: add {\"type\": \"mount\"}",
        );
    }
    if let Some(linux) = spec.linux() {
        refused.linux(linux);
        if let Some(seccomp) = linux.seccomp() {
            refused.seccomp(seccomp);
        }
    }
    refused.field("/vm", spec.vm().is_some());
    refused.0.0
}

struct Refused(Problems);

impl Refused {
    fn field(&mut self, pointer: &str, asked: bool) {
        if asked {
            self.0.add(pointer, "is not supported yet: remove it");
        }
    }

    fn linux(&mut self, linux: &oci::Linux) {
        let devices = linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty());
        self.field("/linux/netDevices", devices);
        self.field("/linux/intelRdt", linux.intel_rdt().is_some());
    }

    fn seccomp(&mut self, seccomp: &oci::LinuxSeccomp) {
        let listener = seccomp.listener_path().as_ref();
        let listened = listener.is_some_and(|path| !path.as_os_str().is_empty());
        self.field("/linux/seccomp/listenerPath", listened);
        let notify = oci::LinuxSeccompAction::ScmpActNotify;
        for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
            if rule.action() == notify {
                let pointer = format!("/linux/seccomp/syscalls/{index}/action");
                self.0.add(pointer, format!("{notify} is not supported yet"));
            }
        }
        let killable = oci::LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv;
        let flags = seccomp.flags().iter().flatten().enumerate();
        for (index, _) in flags.filter(|(_, flag)| **flag == killable) {
            let sentence = format!("{killable} is for SCMP_ACT_NOTIFY, which is not supported yet");
            self.0.add(format!("/linux/seccomp/flags/{index}"), sentence);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{
            Problems,
            tests::{table, with},
        },
        unsupported,
    };

    const REMOVE: &str = "is not supported yet: remove it";

    fn found(pointer: &str, value: Value) -> String {
        Problems::from(unsupported(&with(pointer, value))).to_string()
    }

    #[test]
    fn fields_are_refused_by_name() {
        for (pointer, value) in [
            ("/linux/intelRdt", json!({"closID": "a"})),
            ("/linux/netDevices", json!({"eth0": {}})),
            ("/vm", json!({"kernel": {"path": "/k"}})),
        ] {
            assert_eq!(found(pointer, value), format!("{pointer}: {REMOVE}"));
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        table(
            [
                ("/process/apparmorProfile", json!(""), ""),
                ("/process/selinuxLabel", json!(""), ""),
                ("/linux/mountLabel", json!(""), ""),
                ("/linux/timeOffsets", json!({}), ""),
                ("/windows", json!({"layerFolders": ["a"]}), ""),
            ],
            |spec| Problems::from(unsupported(spec)).to_string(),
        );
    }

    #[test]
    fn single_items_are_refused_where_they_stand() {
        table(
            [
                (
                    "/linux/namespaces",
                    json!([]),
                    "/linux/namespaces: a container without a mount namespace is not supported: \
                     add {\"type\": \"mount\"}",
                ),
                (
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s",
                        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                        "syscalls": [{"names": ["open"], "action": "SCMP_ACT_NOTIFY"}]}),
                    "/linux/seccomp/listenerPath: is not supported yet: remove it; \
                     /linux/seccomp/syscalls/0/action: SCMP_ACT_NOTIFY is not supported yet; \
                     /linux/seccomp/flags/0: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is for \
                     SCMP_ACT_NOTIFY, which is not supported yet",
                ),
            ],
            |spec| Problems::from(unsupported(spec)).to_string(),
        );
    }
}
