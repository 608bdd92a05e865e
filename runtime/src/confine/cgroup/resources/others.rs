//! The smaller sections of `linux.resources`: processes, huge pages, network, RDMA, and the words of
//! version 2 themselves.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxRdma};

use super::number_or_max;
use crate::confine::cgroup::setting::{Form, Setting};

/// -1 is no limit. With 0 nothing could be made any more, but the program itself must be: 1, as runc
/// has it and as systemd wants it.
pub(super) fn pids(limit: i64) -> Setting {
    let limit = if limit == 0 { 1 } else { limit };
    Setting::alike("pids/limit", "pids", "pids.max", number_or_max(limit))
}

/// What is used is limited, and where the kernel counts that, what is reserved.
pub(super) fn add_huge_pages(limits: Option<&[LinuxHugepageLimit]>, settings: &mut Vec<Setting>) {
    for (at, limit) in limits.unwrap_or_default().iter().enumerate() {
        let (size, bytes) = (limit.page_size(), limit.limit());
        let setting = |kind: &str| {
            let v1 = Form::file(format!("hugetlb.{size}{kind}.limit_in_bytes"), bytes);
            let v2 = Form::file(format!("hugetlb.{size}{kind}.max"), bytes);
            Setting::new(format!("hugepageLimits/{at}"), "hugetlb", v1, v2)
        };
        settings.extend([setting(""), setting(".rsvd").where_there_is()]);
    }
}

pub(super) fn add_network(network: &LinuxNetwork, settings: &mut Vec<Setting>) {
    let no_v2 = |cure| Form::no_version_2(cure);
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        let v2 = no_v2("cure: leave it out, and let filters match the cgroup by its path");
        let v1 = Form::file("net_cls.classid", class);
        settings.push(Setting::new("network/classID", "net_cls", v1, v2));
    }
    for (at, priority) in network.priorities().iter().flatten().enumerate() {
        let v2 = no_v2("cure: leave it out, and set priorities by a filter on the cgroup's path");
        let text = format!("{} {}", priority.name(), priority.priority());
        let v1 = Form::file("net_prio.ifpriomap", text);
        settings.push(Setting::new(format!("network/priorities/{at}"), "net_prio", v1, v2));
    }
}

pub(super) fn add_rdma(devices: Option<&HashMap<String, LinuxRdma>>, settings: &mut Vec<Setting>) {
    for (name, limits) in sorted(devices) {
        let handles = limits.hca_handles().map(|limit| format!(" hca_handle={limit}"));
        let objects = limits.hca_objects().map(|limit| format!(" hca_object={limit}"));
        let text = [handles, objects].into_iter().flatten().collect::<String>();
        if !text.is_empty() {
            let field = format!("rdma/{name}");
            settings.push(Setting::alike(field, "rdma", "rdma.max", format!("{name}{text}")));
        }
    }
}

/// Each key is a file of version 2, its first part the controller.
pub(super) fn add_unified(values: Option<&HashMap<String, String>>, settings: &mut Vec<Setting>) {
    for (file, text) in sorted(values) {
        let controller = file.split_once('.').map_or(file.as_str(), |(controller, _)| controller);
        let v1 = Form::Impossible(format!(
            "invalid configuration: unified is for cgroup version 2, and the {controller} \
             controller is on version 1 here (cure: use the other sections of resources)"
        ));
        let field = format!("unified/{file}");
        let v2 = Form::file(file.clone(), text.trim());
        settings.push(Setting::new(field, controller.to_owned(), v1, v2));
    }
}

/// A map has no order of its own; what is written has.
fn sorted<V>(map: Option<&HashMap<String, V>>) -> Vec<(&String, &V)> {
    let mut entries = map.into_iter().flatten().collect::<Vec<_>>();
    entries.sort_by_key(|(key, _)| *key);
    entries
}
