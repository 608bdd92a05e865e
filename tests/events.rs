//! `events`: what a container uses, and when it runs out of memory.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Sandbox, eventually, is_root};

fn lines(text: &str) -> Vec<Value> {
    // The last line may be half written.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn stats_are_in_the_form_of_runc() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&[
        "sh",
        "-c",
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000",
    ]);
    let id = sandbox.start(&bundle, "stats");
    let outcome = sandbox.rrun(&["events", "--stats", &id]);
    if !is_root() && outcome.code != 0 {
        outcome.complains_of(&["no cgroup that could count", "cure"]);
        sandbox.remove(&id);
        return;
    }
    let event = lines(&outcome.ok().stdout).remove(0);
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(id)));
    let data = event["data"].as_object().unwrap();
    for key in
        ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"]
    {
        assert!(data.contains_key(key), "{key}: {event}");
    }
    assert!(data["pids"]["current"].as_u64() >= Some(1), "{event}");
    eventually("processor time is counted", || {
        let event = lines(&sandbox.rrun(&["events", "--stats", &id]).ok().stdout).remove(0);
        event["data"]["cpu"]["usage"]["total"].as_u64() > Some(0)
    });
    if fs::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes").unwrap() {
        let usage = &data["memory"]["usage"];
        let high_water = usage["max"].as_u64().unwrap();
        assert!(high_water >= usage["usage"].as_u64().unwrap(), "{usage}");
        assert!(data["memory"]["raw"].as_object().unwrap().contains_key("cache"));
    }
    sandbox.remove(&id);
    sandbox.rrun(&["events", "--stats", &id]).complains_of(&["does not exist"]);
    sandbox.rrun(&["events", "--interval", "0s", &id]).complains_of(&["--interval", "no time"]);
}

/// Version 1 tells by an eventfd, version 2 by inotify: whichever this machine has.
#[test]
fn events_tell_of_memory_and_end_with_the_container() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["sleep", "1000"]);
    let limit = 16 << 20;
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({ "memory": { "limit": limit, "swap": limit } });
    });
    let id = sandbox.start(&bundle, "oom");
    let listener = sandbox.spawn(&["events", "--interval", "50ms", &id]);
    eventually("the first look", || listener.stdout_so_far().contains("\"type\":\"stats\""));
    // The kernel is to end what takes the memory, and while that ends nothing else.
    let hog = "echo 1000 >/proc/self/oom_score_adj; x=$(head -c 33554432 /dev/zero | tr '\\0' a)";
    sandbox.rrun(&["exec", &id, "sh", "-c", hog]).exits(137);
    let oom = format!("{{\"type\":\"oom\",\"id\":\"{id}\"}}\n");
    eventually("word of the lack of memory", || listener.stdout_so_far().contains(&oom));
    sandbox.rrun(&["kill", &id, "KILL"]).ok();
    let events = lines(&listener.wait().ok().stdout);
    sandbox.wait_until_stopped(&id);
    sandbox.rrun(&["delete", &id]).ok();
    let high_water = |event: &Value| event["data"]["memory"]["usage"]["max"].as_u64();
    let most = events.iter().filter_map(high_water).max();
    assert!(most > Some(limit / 2) && most <= Some(limit), "{most:?}");
    sandbox.assert_nothing_left();
}
