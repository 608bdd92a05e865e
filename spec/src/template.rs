//! The `config.json` that `rrun spec` writes: what runc's command of that name writes.
//!
//! Three fields differ from runc 1.1: the version and the host name are ours; and there are no ambient
//! capabilities, which without inheritable ones cannot be granted.

/// For whom a config is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// Root of the machine.
    Root,
    /// An ordinary user: a user namespace with this one id mapped to 0, the host's network, a
    /// bound `/sys`, and no resources.
    Rootless {
        /// The user's id outside.
        uid: u32,
        /// The user's group outside.
        gid: u32,
    },
}

impl Template {
    /// The text of the file, indented by tabs; with a cgroup namespace, as runc has it, where version 2
    /// of the cgroups stands alone.
    #[must_use]
    pub fn text(self, cgroup_namespace: bool) -> String {
        let cgroup_namespace = if cgroup_namespace { CGROUP_NAMESPACE } else { "" };
        let pieces = match self {
            Self::Root => [
                PROCESS,
                ",\n\t\t\t\t\"gid=5\"",
                DEV,
                SYSFS,
                CGROUP,
                RESOURCES,
                NETWORK,
                NAMESPACES,
                cgroup_namespace,
            ]
            .concat(),
            Self::Rootless { uid, gid } => {
                let mappings = mapping("uid", uid) + &mapping("gid", gid);
                let namespaces = [NO_NETWORK, NAMESPACES, cgroup_namespace, USER].concat();
                [PROCESS, DEV, BOUND_SYS, CGROUP, &mappings, &namespaces].concat()
            }
        };
        pieces + PATHS
    }
}

/// One id, which is 0 inside.
fn mapping(kind: &str, id: u32) -> String {
    format!(
        "\t\t\"{kind}Mappings\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\
         \n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t],\n"
    )
}

const PROCESS: &str = r#"{
	"ociVersion": "1.3.0",
	"process": {
		"terminal": true,
		"user": {
			"uid": 0,
			"gid": 0
		},
		"args": [
			"sh"
		],
		"env": [
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"TERM=xterm"
		],
		"cwd": "/",
		"capabilities": {
			"bounding": [
				"CAP_AUDIT_WRITE",
				"CAP_KILL",
				"CAP_NET_BIND_SERVICE"
			],
			"effective": [
				"CAP_AUDIT_WRITE",
				"CAP_KILL",
				"CAP_NET_BIND_SERVICE"
			],
			"permitted": [
				"CAP_AUDIT_WRITE",
				"CAP_KILL",
				"CAP_NET_BIND_SERVICE"
			]
		},
		"rlimits": [
			{
				"type": "RLIMIT_NOFILE",
				"hard": 1024,
				"soft": 1024
			}
		],
		"noNewPrivileges": true
	},
	"root": {
		"path": "rootfs",
		"readonly": true
	},
	"hostname": "rrun",
	"mounts": [
		{
			"destination": "/proc",
			"type": "proc",
			"source": "proc"
		},
		{
			"destination": "/dev",
			"type": "tmpfs",
			"source": "tmpfs",
			"options": [
				"nosuid",
				"strictatime",
				"mode=755",
				"size=65536k"
			]
		},
		{
			"destination": "/dev/pts",
			"type": "devpts",
			"source": "devpts",
			"options": [
				"nosuid",
				"noexec",
				"newinstance",
				"ptmxmode=0666",
				"mode=0620""#;

const DEV: &str = r#"
			]
		},
		{
			"destination": "/dev/shm",
			"type": "tmpfs",
			"source": "shm",
			"options": [
				"nosuid",
				"noexec",
				"nodev",
				"mode=1777",
				"size=65536k"
			]
		},
		{
			"destination": "/dev/mqueue",
			"type": "mqueue",
			"source": "mqueue",
			"options": [
				"nosuid",
				"noexec",
				"nodev"
			]
		},
		{
			"destination": "/sys",
"#;

const SYSFS: &str = r#"			"type": "sysfs",
			"source": "sysfs",
			"options": [
"#;

const BOUND_SYS: &str = r#"			"type": "none",
			"source": "/sys",
			"options": [
				"rbind",
"#;

const CGROUP: &str = r#"				"nosuid",
				"noexec",
				"nodev",
				"ro"
			]
		},
		{
			"destination": "/sys/fs/cgroup",
			"type": "cgroup",
			"source": "cgroup",
			"options": [
				"nosuid",
				"noexec",
				"nodev",
				"relatime",
				"ro"
			]
		}
	],
	"linux": {
"#;

const RESOURCES: &str = r#"		"resources": {
			"devices": [
				{
					"allow": false,
					"access": "rwm"
				}
			]
		},
"#;

const NETWORK: &str = r#"		"namespaces": [
			{
				"type": "pid"
			},
			{
				"type": "network"
			},
"#;

const NO_NETWORK: &str = r#"		"namespaces": [
			{
				"type": "pid"
			},
"#;

const NAMESPACES: &str = r#"			{
				"type": "ipc"
			},
			{
				"type": "uts"
			},
			{
				"type": "mount"
			}"#;

const CGROUP_NAMESPACE: &str = r#",
			{
				"type": "cgroup"
			}"#;

const USER: &str = r#",
			{
				"type": "user"
			}"#;

const PATHS: &str = r#"
		],
		"maskedPaths": [
			"/proc/acpi",
			"/proc/asound",
			"/proc/kcore",
			"/proc/keys",
			"/proc/latency_stats",
			"/proc/timer_list",
			"/proc/timer_stats",
			"/proc/sched_debug",
			"/sys/firmware",
			"/proc/scsi"
		],
		"readonlyPaths": [
			"/proc/bus",
			"/proc/fs",
			"/proc/irq",
			"/proc/sys",
			"/proc/sysrq-trigger"
		]
	}
}
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{check, oci, parse, unsupported};

    fn parsed(template: Template) -> oci::Spec {
        parse(template.text(true).as_bytes(), Path::new("template")).unwrap()
    }

    #[test]
    fn templates_are_configs_without_a_problem() {
        for template in [Template::Root, Template::Rootless { uid: 1000, gid: 100 }] {
            let spec = parsed(template);
            assert_eq!(check(&spec), Ok(()), "{template:?}");
            assert_eq!(unsupported(&spec), [], "{template:?}");
            let (with, without) = (template.text(true), template.text(false));
            assert_eq!(with.replace(CGROUP_NAMESPACE, ""), without);
            assert_ne!(with, without);
            assert_eq!(check(&parse(without.as_bytes(), Path::new("template")).unwrap()), Ok(()));
        }
    }

    #[test]
    fn the_rootless_one_differs_where_it_must() {
        let spec = parsed(Template::Rootless { uid: 1000, gid: 100 });
        let linux = spec.linux().as_ref().unwrap();
        let uids = linux.uid_mappings().as_ref().unwrap();
        let gids = linux.gid_mappings().as_ref().unwrap();
        assert_eq!((uids[0].host_id(), gids[0].host_id(), gids[0].size()), (1000, 100, 1));
        assert!(linux.resources().is_none());
        let types: Vec<_> =
            linux.namespaces().iter().flatten().map(oci::LinuxNamespace::typ).collect();
        assert!(types.contains(&oci::LinuxNamespaceType::User));
        assert!(!types.contains(&oci::LinuxNamespaceType::Network));
        let text = Template::Rootless { uid: 1000, gid: 100 }.text(true);
        assert!(!text.contains("gid=5") && text.contains("\"rbind\""));
    }
}
