//! Old resources and asked ones, as JSON: what is not asked for stays.

use serde_json::{Map, Value};

/// Scalars for which 0 is a value and not "leave it".
const ZERO_COUNTS: [&str; 5] = ["burst", "hcaHandles", "hcaObjects", "idle", "swappiness"];

/// Adds what `asked` says to `resources`, both `linux.resources`.
pub(super) fn merge(resources: &mut Value, asked: Value) {
    if !resources.is_object() {
        *resources = Value::Object(Map::new());
    }
    let (Value::Object(old), Value::Object(asked)) = (resources, asked) else { return };
    let unlimited = asked.get("memory").is_some_and(removes_memory_limit);
    for (name, section) in asked {
        match name.as_str() {
            // Without the old rules nothing is left of them; none asked for is none changed.
            "devices" if is_empty(&section) => {}
            // The one field counts as it is; the texts, too.
            "devices" | "pids" => drop(old.insert(name, section)),
            "unified" => merge_all(old.entry(name).or_insert_with(empty), section, |_, _| true),
            _ => merge_section(old.entry(name).or_insert_with(empty), section),
        }
    }
    if unlimited && let Some(Value::Object(memory)) = old.get_mut("memory") {
        memory.remove("swap");
    }
}

/// No limit of memory is none of swap either, unless that is given.
fn removes_memory_limit(memory: &Value) -> bool {
    memory["limit"] == -1 && memory["swap"].as_i64().unwrap_or(0) == 0
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_some_and(Vec::is_empty)
}

fn merge_section(old: &mut Value, asked: Value) {
    if let Value::Array(asked) = asked {
        merge_list(old, asked);
        return;
    }
    merge_all(old, asked, |name, value| {
        let says_nothing = *value == 0 || *value == "" || value.is_null();
        !says_nothing || ZERO_COUNTS.contains(&name)
    });
}

fn merge_all(old: &mut Value, asked: Value, counts: impl Fn(&str, &Value) -> bool) {
    if !old.is_object() {
        *old = empty();
    }
    let (Value::Object(old), Value::Object(asked)) = (old, asked) else { return };
    for (name, value) in asked {
        match value {
            Value::Array(list) => merge_list(old.entry(name).or_insert(Value::Null), list),
            Value::Object(_) => merge_section(old.entry(name).or_insert_with(empty), value),
            value if counts(&name, &value) => drop(old.insert(name, value)),
            _ => {}
        }
    }
}

/// An item of the same device, interface or page size is replaced, another added.
fn merge_list(old: &mut Value, asked: Vec<Value>) {
    if !old.is_array() {
        *old = Value::Array(Vec::new());
    }
    let Value::Array(old) = old else { return };
    for item in asked {
        let same = |other: &&mut Value| {
            ["major", "minor", "name", "pageSize"].iter().all(|key| other[*key] == item[*key])
        };
        // The last of several is the one in force.
        match old.iter_mut().rev().find(same) {
            Some(other) => merge_all(other, item, |_, value| !value.is_null()),
            None => old.push(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_is_not_asked_for_stays() {
        for (old, asked, expected) in [
            (
                json!({"cpu": {"quota": 5, "period": 6}, "pids": {"limit": 3}}),
                json!({"cpu": {"period": 7, "quota": 0, "cpus": "", "burst": 0}, "memory": {}}),
                json!({"cpu": {"quota": 5, "period": 7, "burst": 0}, "pids": {"limit": 3},
                    "memory": {}}),
            ),
            (json!({}), json!({"pids": {"limit": 0}}), json!({"pids": {"limit": 0}})),
            (Value::Null, json!({"unified": {"a.b": ""}}), json!({"unified": {"a.b": ""}})),
            (
                json!({"memory": {"limit": 5, "swap": 9}}),
                json!({"memory": {"limit": -1}}),
                json!({"memory": {"limit": -1}}),
            ),
            (
                json!({"memory": {"limit": 5, "swap": 9}}),
                json!({"memory": {"limit": -1, "swap": 10}}),
                json!({"memory": {"limit": -1, "swap": 10}}),
            ),
            (
                json!({"devices": [{"allow": false}], "rdma": {"a": {"hcaHandles": 1}}}),
                json!({"devices": [], "rdma": {"a": {"hcaHandles": 0}, "b": {"hcaObjects": 2}}}),
                json!({"devices": [{"allow": false}],
                    "rdma": {"a": {"hcaHandles": 0}, "b": {"hcaObjects": 2}}}),
            ),
            (
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}),
                json!({"blockIO": {"weight": 0, "throttleReadBpsDevice":
                    [{"major": 8, "minor": 0, "rate": 0}, {"major": 8, "minor": 1, "rate": 3}]}}),
                json!({"blockIO": {"throttleReadBpsDevice":
                    [{"major": 8, "minor": 0, "rate": 0}, {"major": 8, "minor": 1, "rate": 3}]}}),
            ),
            (
                json!({"hugepageLimits":
                    [{"pageSize": "2MB", "limit": 1}, {"pageSize": "2MB", "limit": 2}]}),
                json!({"hugepageLimits":
                    [{"pageSize": "1GB", "limit": 3}, {"pageSize": "2MB", "limit": 4}]}),
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1},
                    {"pageSize": "2MB", "limit": 4}, {"pageSize": "1GB", "limit": 3}]}),
            ),
        ] {
            let mut merged = old.clone();
            merge(&mut merged, asked.clone());
            assert_eq!(merged, expected, "{old} {asked}");
        }
    }
}
