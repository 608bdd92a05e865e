//! User namespaces: whose files the container's files are.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{getegid, geteuid};
use serde_json::json;

use crate::common::{Bundle, Outcome, Sandbox, first_subordinate_uid, is_root, outcome};

/// Adds a user namespace that maps `count` ids from 0 to `first`, users and groups alike.
fn map(bundle: &Bundle, first: (u32, u32), count: u32) {
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "user" }));
        let mapping = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": count }]);
        config["linux"]["uidMappings"] = mapping(first.0);
        config["linux"]["gidMappings"] = mapping(first.1);
        drop_group_of_terminals(config);
    });
}

fn drop_group_of_terminals(config: &mut serde_json::Value) {
    for mount in config["mounts"].as_array_mut().unwrap() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| !option.as_str().unwrap().starts_with("gid="));
        }
    }
}

fn give_away(path: &Path, owner: u32) {
    chown(path, Some(owner), Some(owner)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if !entry.is_symlink() {
                give_away(&entry, owner);
            }
        }
    }
}

/// The fields of `uid_map`, line by line.
fn lines(map: &str) -> Vec<Vec<u32>> {
    map.lines()
        .map(|line| line.split_whitespace().map(|field| field.parse().unwrap()).collect())
        .collect()
}

#[test]
fn an_ordinary_user_is_root_inside_with_its_subordinate_ids_after() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let seen = lines(&sandbox.prints(&bundle, "cat /proc/self/uid_map"));
    if is_root() {
        assert_eq!(seen, [[0, 0, u32::MAX]], "root asked for no user namespace and gets none");
    } else {
        assert_eq!(seen[0], [0, geteuid().as_raw(), 1]);
        assert_eq!(seen[1][..2], [1, first_subordinate_uid()]);
    }
}

#[test]
fn one_id_can_be_mapped_alone() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    map(&bundle, (geteuid().as_raw(), getegid().as_raw()), 1);
    let seen =
        sandbox.prints(&bundle, "cat /proc/self/uid_map /proc/self/gid_map; echo made > /made");
    assert_eq!(lines(&seen), [[0, geteuid().as_raw(), 1], [0, getegid().as_raw(), 1]]);
    assert_eq!(fs::metadata(bundle.inside("/made")).unwrap().uid(), geteuid().as_raw());
}

/// Root can map any range; an ordinary user the one it was given, by newuidmap.
#[test]
fn a_range_of_ids_can_be_mapped() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let first = if is_root() { 300_000 } else { first_subordinate_uid() };
    if is_root() {
        give_away(&bundle.rootfs(), first);
        map(&bundle, (first, first), 1000);
        let seen = sandbox.prints(&bundle, "cat /proc/self/uid_map; id -u; touch /made");
        assert_eq!(lines(&seen)[0], [0, first, 1000]);
        assert_eq!(fs::metadata(bundle.inside("/made")).unwrap().uid(), first);
    } else {
        map(&bundle, (geteuid().as_raw(), getegid().as_raw()), 1);
        bundle.edit(|config| {
            for set in ["bounding", "permitted", "effective"] {
                let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
                set.push("CAP_CHOWN".into());
            }
            for kind in ["uidMappings", "gidMappings"] {
                let more = json!({ "containerID": 1, "hostID": first, "size": 1000 });
                config["linux"][kind].as_array_mut().unwrap().push(more);
            }
        });
        let seen = sandbox.prints(&bundle, "cat /proc/self/uid_map; touch /made; chown 5:6 /made");
        assert_eq!(lines(&seen)[1], [1, first, 1000]);
        assert_eq!(fs::metadata(bundle.inside("/made")).unwrap().uid(), first + 4);
    }
}

#[test]
fn another_user_inside_is_another_user_outside() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    bundle.edit(|config| config["process"]["user"] = json!({ "uid": 7, "gid": 8 }));
    fs::set_permissions(bundle.inside("/tmp"), Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(sandbox.prints(&bundle, "id -u; id -g; touch /tmp/made"), "7\n8");
    let owner = fs::metadata(bundle.inside("/tmp/made")).unwrap().uid();
    assert_eq!(owner, if is_root() { 7 } else { first_subordinate_uid() + 6 });
}

/// Runs `bundle` where neither newuidmap nor newgidmap can be found. An ordinary user cannot take
/// them away but in namespaces, where it stays who it is and keeps no capability.
pub(crate) fn run_without_helpers(sandbox: &Sandbox, bundle: &Bundle) -> Outcome {
    let run = sandbox.command(&["run", "--bundle", bundle.as_str(), &sandbox.id("single")]);
    let mut hidden = if is_root() {
        Command::new("env")
    } else {
        fs::write(sandbox.join("nothing"), "").unwrap();
        fs::set_permissions(sandbox.join("nothing"), Permissions::from_mode(0o0)).unwrap();
        let script = "for helper in newuidmap newgidmap; do \
            mount --bind \"$NOTHING\" \"$(command -v $helper)\"; done; \
            exec setpriv --inh-caps=-all --ambient-caps=-all env \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-current-user", "--mount", "--keep-caps"]);
        unshare.args(["sh", "-euc", script, "sh"]).env("NOTHING", sandbox.join("nothing"));
        unshare
    };
    hidden.arg("PATH=/nowhere").arg(run.get_program()).args(run.get_args()).stdin(Stdio::null());
    outcome::spawn(hidden.env("RRUN_DATA", sandbox.data())).wait()
}

/// Without newuidmap an ordinary user still has itself; one line says what is missing.
#[test]
fn without_newuidmap_there_is_one_id_and_one_warning() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["cat", "/proc/self/uid_map"]);
    let outcome = run_without_helpers(&sandbox, &bundle).ok();
    if is_root() {
        assert_eq!(outcome.stderr, "", "root needs no helper");
    } else {
        assert_eq!(lines(&outcome.stdout), [[0, geteuid().as_raw(), 1]]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        assert!(
            outcome.stderr.contains("newuidmap") && outcome.stderr.contains("uidmap"),
            "{outcome}"
        );
    }
}

#[test]
fn the_host_stays_out_of_reach() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(&["true"]);
    let outside = sandbox.directory("outside");
    fs::write(outside.join("file"), "host\n").unwrap();
    let script = format!("ls {0} 2>&1; cat /proc/1/root{0}/file 2>&1; true", outside.display());
    let seen = sandbox.prints(&bundle, &script);
    assert!(!seen.contains("host") && seen.contains("No such file"), "{seen}");
}
