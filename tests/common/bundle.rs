//! Bundles: a config.json much as engines write it, and a root file system of busybox.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// A bundle directory.
#[derive(Debug)]
pub(crate) struct Bundle {
    path: PathBuf,
}

impl Bundle {
    /// Makes a bundle in an empty directory.
    pub(crate) fn new(path: PathBuf, args: &[&str]) -> Self {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let bundle = Self { path };
        busybox_root(&bundle.rootfs());
        bundle.write(&config(args));
        bundle
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn as_str(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// A path in the root file system.
    pub(crate) fn inside(&self, name: &str) -> PathBuf {
        self.rootfs().join(name.trim_start_matches('/'))
    }

    /// What a container wrote to a file of its root.
    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.inside(name)).unwrap()
    }

    /// Changes config.json.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.path.join("config.json")).unwrap();
        let mut config = serde_json::from_str(&text).unwrap();
        change(&mut config);
        self.write(&config);
    }

    /// Adds a mount to config.json.
    pub(crate) fn mount(&self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        let mount = json!({
            "destination": destination, "type": kind, "source": source, "options": options,
        });
        self.edit(|config| config["mounts"].as_array_mut().unwrap().push(mount));
    }

    /// Takes a namespace out of config.json, and what needs it.
    pub(crate) fn share_with_host(&self, namespace: &str) {
        self.edit(|config| {
            drop_namespace(config, namespace);
            let needs = match namespace {
                "network" => "sysfs",
                "ipc" => "mqueue",
                "pid" => "proc",
                _ => return,
            };
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != needs);
        });
    }

    fn write(&self, config: &Value) {
        let text = serde_json::to_vec_pretty(config).unwrap();
        fs::write(self.path.join("config.json"), text).unwrap();
    }
}

/// Removes a namespace from a configuration.
pub(crate) fn drop_namespace(config: &mut Value, kind: &str) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != kind);
    if kind == "uts" {
        config.as_object_mut().unwrap().remove("hostname");
    }
}

/// Fills `root` with busybox and the directories that mounts need.
pub(crate) fn busybox_root(root: &Path) {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "var", "home"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.expect("busybox-static is installed"), root.join("bin/busybox")).unwrap();
    for applet in applets() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nada:x:7:8::/home:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nstaff:x:8:\n").unwrap();
}

/// The names that busybox answers to.
fn applets() -> Vec<String> {
    let output = Command::new("busybox").arg("--list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect()
}

/// Six mounts, five namespaces, three capabilities: what runc's template asks for, less what
/// hinders a test (the terminal, the read-only root, the cgroup mount).
pub(crate) fn config(args: &[&str]) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "rrun",
        "mounts": mounts(),
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" },
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
          "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs",
          "options": ["nosuid", "noexec", "nodev", "ro"] },
    ])
}
