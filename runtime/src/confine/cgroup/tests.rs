use std::process::{Child, Command};

use nix::unistd::getpid;

use super::*;
use crate::sys::filter::tests::in_child;

/// The hierarchies of this machine; with `v2_only` as if version 1 were not mounted.
fn hierarchies(v2_only: bool) -> Hierarchies {
    let text = |path| fs::read_to_string(path).unwrap();
    let mut found = Hierarchies::parse(&text("/proc/self/mountinfo"), &text("/proc/self/cgroup"));
    if v2_only {
        found.v1.clear();
    }
    found
}

/// Root of a user namespace is nobody to the cgroups outside of it.
fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    nix::unistd::geteuid().is_root() && map.trim_end().ends_with(" 4294967295")
}

fn limits(json: &str) -> Limits {
    Limits::new(Some(&serde_json::from_str(json).unwrap())).unwrap()
}

fn plan_for(name: &str, v2_only: bool) -> Option<CgroupPlan> {
    let id = format!("rrun-test-{name}-{}", getpid());
    plan(&hierarchies(v2_only), &id, None, is_real_root()).unwrap()
}

/// A cgroup of our own. Only root is sure to get one; others see what they are told instead.
fn make(name: &str, v2_only: bool) -> Option<Cgroup> {
    let made = plan_for(name, v2_only)?.create(&Limits::default()).unwrap();
    assert!(made.is_some() || !is_real_root());
    made
}

fn sleeper() -> (Child, Pid) {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    (child, pid)
}

#[test]
fn a_cgroup_holds_freezes_and_kills_its_processes() {
    for v2_only in [false, true] {
        let Some(cgroup) = make("life", v2_only) else { continue };
        let (mut child, pid) = sleeper();
        cgroup.enter(pid).unwrap();
        assert_eq!(cgroup.pids().unwrap(), [pid], "{cgroup:?}");
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let inside = own.lines().filter(|line| line.contains("rrun-test-life")).count();
        assert_eq!(inside, cgroup.directories().count(), "{own}");

        assert!(cgroup.has_freezer());
        assert!(!cgroup.frozen().unwrap());
        cgroup.freeze().unwrap();
        assert!(cgroup.frozen().unwrap());
        cgroup.thaw().unwrap();
        assert!(!cgroup.frozen().unwrap());

        cgroup.kill_all().unwrap();
        child.wait().unwrap();
        assert_eq!(cgroup.pids().unwrap(), []);
        cgroup.remove().unwrap();
        assert!(cgroup.directories().all(|directory| !directory.path.exists()));
        cgroup.remove().unwrap();
        assert_eq!(cgroup.pids().unwrap(), []);
        cgroup.kill_all().unwrap();
    }
}

#[test]
fn without_the_kill_file_everything_is_frozen_and_killed() {
    let Some(mut cgroup) = make("frozen", false) else { return };
    let unified = cgroup.unified.take();
    let freezes = cgroup.has_freezer();
    if freezes {
        let (mut child, pid) = sleeper();
        cgroup.enter(pid).unwrap();
        let killer = std::thread::spawn(move || child.wait().unwrap());
        cgroup.kill_all().unwrap();
        assert!(!killer.join().unwrap().success());
    }
    cgroup.unified = unified;
    cgroup.remove().unwrap();
}

#[test]
fn a_process_enters_by_itself_through_what_others_opened() {
    let Some(cgroup) = make("entrance", false) else { return };
    let entrance = cgroup.entrance(true).unwrap();
    in_child(|| {
        // Files are asked who opened them, so even a process without any rights may pass.
        caps::clear(None, caps::CapSet::Effective).unwrap();
        entrance.pass().unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let inside = own.lines().filter(|line| line.contains("rrun-test-entrance")).count();
        assert_eq!(inside, cgroup.directories().count(), "{own}");
    });
    cgroup.remove().unwrap();
}

#[test]
fn what_is_frozen_can_be_killed() {
    for v2_only in [false, true] {
        let Some(cgroup) = make("paused", v2_only) else { continue };
        let (mut child, pid) = sleeper();
        cgroup.enter(pid).unwrap();
        cgroup.freeze().unwrap();
        cgroup.kill_all().unwrap();
        child.wait().unwrap();
        cgroup.remove().unwrap();
    }
}

#[test]
fn cgroups_that_the_container_made_are_seen_and_removed() {
    let Some(cgroup) = make("nested", true) else { return };
    let deeper = cgroup.unified_dir().unwrap().join("a/b");
    fs::create_dir_all(&deeper).unwrap();
    let (mut child, pid) = sleeper();
    fs::write(deeper.join("cgroup.procs"), pid.to_string()).unwrap();
    assert_eq!(cgroup.pids().unwrap(), [pid]);
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
    assert!(!deeper.exists());
}

#[test]
fn a_cgroup_in_use_is_not_taken_over() {
    let Some(cgroup) = make("taken", true) else { return };
    let again = plan_for("taken", true).unwrap();
    again.create(&Limits::default()).unwrap().unwrap();
    let (mut child, pid) = sleeper();
    cgroup.enter(pid).unwrap();
    let error = format!("{:#}", again.create(&Limits::default()).unwrap_err());
    assert!(error.contains("container's cgroup is not empty"), "{error}");
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn a_frozen_cgroup_is_not_taken_over() {
    for v2_only in [false, true] {
        let Some(cgroup) = make("ice", v2_only) else { continue };
        let (directory, freezer) = cgroup.freezer().unwrap();
        directory.write(freezer.file, freezer.stop).unwrap();
        let again = plan_for("ice", v2_only).unwrap();
        let error = format!("{:#}", again.create(&Limits::default()).unwrap_err());
        assert!(error.contains("container's cgroup unexpectedly frozen"), "{error}");
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_change_arrives_whole_or_not_at_all() {
    if !is_real_root() {
        return;
    }
    let Some(cgroup) = make("change", false) else { return };
    let parse = |json: &str| serde_json::from_str(json).unwrap();
    let change = |json: &str| cgroup.change(&Limits::change(&parse(json), &parse(json)).unwrap());
    let read = |controller: &str, file: &str| {
        let path = cgroup.dir_of(controller).unwrap().join(file);
        fs::read_to_string(path).unwrap().trim_end().to_owned()
    };
    if cgroup.v1("memory").is_some() {
        // Above the old limit of both, below it, and away: each needs another order.
        for (limit, swap) in [(10, 20), (30, 40), (5, 6), (-1, -1)] {
            let bytes = |megabytes: i64| if megabytes < 0 { -1 } else { megabytes << 20 };
            let (limit, swap) = (bytes(limit), bytes(swap));
            change(&format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#)).unwrap();
            if limit > 0 {
                assert_eq!(read("memory", "memory.limit_in_bytes"), limit.to_string());
                assert_eq!(read("memory", "memory.memsw.limit_in_bytes"), swap.to_string());
            }
        }
        assert!(read("memory", "memory.limit_in_bytes").len() > 15);
    }
    if cgroup.v1("cpu").is_none() {
        return cgroup.remove().unwrap();
    }
    change(r#"{"cpu": {"quota": 5000, "period": 10000, "burst": 5000}}"#).unwrap();
    change(r#"{"cpu": {"quota": 90000, "period": 100000, "burst": 90000}}"#).unwrap();
    let error = change(r#"{"cpu": {"shares": 77, "period": 5}}"#).unwrap_err().to_string();
    assert!(
        error.contains("/linux/resources/cpu/period: write \"5\" to cpu.cfs_period_us: EINVAL")
    );
    assert_eq!(read("cpu", "cpu.shares"), "1024", "what was written before is taken back");
    assert_eq!(read("cpu", "cpu.cfs_burst_us"), "90000");
    cgroup.remove().unwrap();
}

#[test]
fn state_survives_on_disk() {
    let Some(cgroup) = make("state", false) else { return };
    let text = serde_json::to_string(&cgroup).unwrap();
    assert_eq!(serde_json::from_str::<Cgroup>(&text).unwrap(), cgroup);
    cgroup.remove().unwrap();
}

#[test]
fn limits_arrive_or_are_refused() {
    let wanted = limits(
        r#"{"pids": {"limit": 77}, "memory": {"limit": 67108864}, "cpu": {"shares": 512},
            "devices": [{"allow": false, "access": "rwm"}]}"#,
    );
    let Some(plan) = plan_for("limits", false) else { return };
    let made = plan.create(&wanted).and_then(|cgroup| {
        let cgroup = cgroup.expect("limits need a cgroup");
        let applied = cgroup.apply(&wanted);
        let pids = cgroup.dir_of("pids").map(|path| fs::read_to_string(path.join("pids.max")));
        cgroup.remove().unwrap();
        applied.map(|()| pids.unwrap().unwrap())
    });
    match made {
        Ok(limit) => assert_eq!(limit.trim(), "77"),
        Err(error) => {
            assert!(!is_real_root(), "{error:#}");
            assert!(format!("{error:#}").contains("controller"), "{error:#}");
        }
    }
}

#[test]
fn device_rules_are_in_force() {
    for v2_only in [false, true] {
        let Some(cgroup) = make("devices", v2_only) else { continue };
        let rules = limits(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
        cgroup.apply(&rules).unwrap();
        if is_real_root() {
            // The child enters by itself and then may open null, but not mem.
            let mut script = String::new();
            for directory in cgroup.directories() {
                script += &format!("echo 0 > {}/cgroup.procs; ", directory.path.display());
            }
            script += "mknod $1 c 1 1 && cat /dev/null && ! head -c 1 $1";
            let node = std::env::temp_dir().join(format!("rrun-test-mem-{}", getpid()));
            let ended = Command::new("sh").args(["-c", &script, "sh"]).arg(&node).output().unwrap();
            fs::remove_file(&node).unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(ended.status.success(), "{said}");
            assert!(said.contains("not permitted"), "{said}");
        }
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_limit_that_cannot_be_kept_names_the_controller() {
    let Some(cgroup) = make("nowhere", true) else { return };
    let controllers = cgroup.unified_dir().unwrap().parent().unwrap().join("cgroup.controllers");
    if !fs::read_to_string(controllers).unwrap().contains("pids") {
        let error = cgroup.apply(&limits(r#"{"pids": {"limit": 5}}"#)).unwrap_err().to_string();
        assert!(error.starts_with("/linux/resources/pids/limit: no pids controller"), "{error}");
    }
    cgroup.remove().unwrap();
}
