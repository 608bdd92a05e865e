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
    let mut refused = Problems::default();
    if !has_namespace(spec, oci::LinuxNamespaceType::Mount) {
        refused.add(
            "/linux/namespaces",
            "a container without a mount namespace is not supported: add {\"type\": \"mount\"}",
        );
    }
    if spec.vm().is_some() {
        refused.add("/vm", "is not supported yet: remove it");
    }
    refused.0
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
        let vm = json!({"kernel": {"path": "/k"}});
        assert_eq!(found("/vm", vm), format!("/vm: {REMOVE}"));
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
            [(
                "/linux/namespaces",
                json!([]),
                "/linux/namespaces: a container without a mount namespace is not supported: \
                     add {\"type\": \"mount\"}",
            )],
            |spec| Problems::from(unsupported(spec)).to_string(),
        );
    }
}
