//! `linux`: namespaces, id mappings, devices, paths, kernel parameters.

use std::path::Path;

use oci_spec::runtime as oci;

use super::{
    Problems, attributes, escape, has_namespace, namespace, not_absolute, resources, seccomp,
    wrong_path, wrong_text,
};

/// The most extents that the kernel takes: `UID_GID_MAP_MAX_EXTENTS`.
const MAX_EXTENTS: usize = 340;

/// Bits of a device number: `MINORBITS` and what is left of 32.
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// What `mounts` knows as propagation, as the root's.
const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable"];

pub(super) fn check(linux: &oci::Linux, spec: &oci::Spec, problems: &mut Problems) {
    check_namespaces(linux.namespaces().as_deref().unwrap_or_default(), problems);
    check_user_namespace(linux, spec, problems);
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        check_device(device, &format!("/linux/devices/{index}"), problems);
    }
    check_paths(linux, problems);
    for (name, value) in sorted(linux.sysctl().iter().flatten()) {
        let pointer = format!("/linux/sysctl/{}", escape(name));
        problems.add_some(&pointer, wrong_sysctl(name, value, spec));
        problems.add_some(&pointer, wrong_text(value));
    }
    if let Some(path) = linux.cgroups_path() {
        problems.add_some("/linux/cgroupsPath", wrong_cgroups_path(path));
    }
    let propagation = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if !propagation.is_empty() && !PROPAGATIONS.contains(&propagation) {
        let known = PROPAGATIONS.join(", ");
        let sentence = format!("{propagation:?} is no propagation: want one of {known}");
        problems.add("/linux/rootfsPropagation", sentence);
    }
    attributes::check_linux(linux, spec, problems);
    problems.add_some("/linux/mountLabel", linux.mount_label().as_deref().and_then(wrong_text));
    if let Some(resources) = linux.resources() {
        resources::check(resources, problems);
    }
    if let Some(seccomp) = linux.seccomp() {
        seccomp::check(seccomp, problems);
    }
}

/// A map has no order of its own; problems have.
pub(super) fn sorted<'a, K: Ord, V>(
    map: impl Iterator<Item = (&'a K, &'a V)>,
) -> Vec<(&'a K, &'a V)> {
    let mut entries: Vec<_> = map.collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

/// Ranges of ids: none empty, none past the last id, none over another, neither inside nor outside.
pub(super) fn check_mappings(ranges: &[oci::LinuxIdMapping], at: &str, problems: &mut Problems) {
    if ranges.len() > MAX_EXTENTS {
        problems.add(at, format!("has more than the {MAX_EXTENTS} ranges that the kernel takes"));
    }
    for (side, start) in [
        ("containerID", oci::LinuxIdMapping::container_id as fn(&oci::LinuxIdMapping) -> u32),
        ("hostID", oci::LinuxIdMapping::host_id),
    ] {
        let bounds = |range| {
            let first = u64::from(start(range));
            (first, first + u64::from(range.size()))
        };
        for (index, range) in ranges.iter().enumerate() {
            let (first, end) = bounds(range);
            let pointer = format!("{at}/{index}/{side}");
            if end > u64::from(u32::MAX) {
                problems
                    .add(&pointer, format!("{first} and size {} pass the last id", range.size()));
            }
            let before = ranges.iter().take(index).position(|other| {
                let (other_first, other_end) = bounds(other);
                first < other_end && other_first < end
            });
            problems.add_some(&pointer, before.map(|other| format!("overlaps {at}/{other}")));
        }
    }
    for (index, _) in ranges.iter().enumerate().filter(|(_, range)| range.size() == 0) {
        problems.add(format!("{at}/{index}/size"), "is 0: a range holds at least one id");
    }
}

/// Where below `/proc/sys` the parameter `name` lies.
///
/// As `sysctl(8)`: the first of `.` and `/` separates, the other is part of a name
/// (`net.ipv4.conf.eth0/1.forwarding`). `None` if a part is empty, `.` or `..`, or holds a NUL
/// byte; what is returned therefore never leads out of `/proc/sys`.
///
/// ```
/// let path = rrun_spec::sysctl_path("net.ipv4.conf.eth0/1.forwarding");
/// assert_eq!(path.as_deref(), Some("net/ipv4/conf/eth0.1/forwarding"));
/// assert_eq!(rrun_spec::sysctl_path("net/../kernel"), None);
/// ```
#[must_use]
pub fn sysctl_path(name: &str) -> Option<String> {
    let dots_first = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('.'));
    let path: String = if dots_first {
        let swap = |letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    };
    let legal = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.split('/').all(legal).then_some(path)
}

/// Whether `name` is given, and not as `value`.
fn is_another(name: &Option<String>, value: &str) -> bool {
    name.as_ref().is_some_and(|name| !name.is_empty() && name != value)
}

/// A parameter that no namespace of the container's own holds would be the host's.
///
/// Source: runc `libcontainer/configs/validate`.
fn wrong_sysctl(name: &str, value: &str, spec: &oci::Spec) -> Option<String> {
    let Some(path) = sysctl_path(name) else {
        return Some(format!("{name:?} is no name of a kernel parameter"));
    };
    let needed = match path.as_str() {
        "kernel/hostname" => return Some("is what /hostname sets: write it there".to_owned()),
        "kernel/domainname" if is_another(spec.domainname(), value) => {
            return Some("is what /domainname sets too: give one of them".to_owned());
        }
        // The config had no domainname before 1.1; dockerd writes this.
        "kernel/domainname" => oci::LinuxNamespaceType::Uts,
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => oci::LinuxNamespaceType::Ipc,
        path if path.starts_with("fs/mqueue/") => oci::LinuxNamespaceType::Ipc,
        path if path.starts_with("net/") => oci::LinuxNamespaceType::Network,
        _ => return Some("belongs to the whole machine, not to a container".to_owned()),
    };
    let wanted = serde_json::to_string(&needed).unwrap_or_default();
    (!has_namespace(spec, needed))
        .then(|| format!("would change the host's: add a namespace of type {wanted}"))
}

fn check_namespaces(namespaces: &[oci::LinuxNamespace], problems: &mut Problems) {
    for (index, namespace) in namespaces.iter().enumerate() {
        let at = format!("/linux/namespaces/{index}");
        if let Some(path) = namespace.path() {
            problems.add_some(&format!("{at}/path"), not_absolute(path));
        }
        if namespaces.iter().take(index).any(|other| other.typ() == namespace.typ()) {
            problems.add(format!("{at}/type"), "is given twice");
        }
    }
}

fn check_user_namespace(linux: &oci::Linux, spec: &oci::Spec, problems: &mut Problems) {
    let given = [("uid", linux.uid_mappings()), ("gid", linux.gid_mappings())];
    let is_empty = |mappings: &Option<Vec<_>>| mappings.as_ref().is_none_or(Vec::is_empty);
    for (kind, mappings) in given {
        let at = format!("/linux/{kind}Mappings");
        check_mappings(mappings.as_deref().unwrap_or_default(), &at, problems);
        if is_empty(mappings) {
            continue;
        }
        if namespace(spec, oci::LinuxNamespaceType::User).is_none() {
            problems.add(&at, "maps ids of a user namespace: add a namespace of type \"user\"");
        }
        if given.iter().any(|(_, other)| is_empty(other)) {
            problems.add(&at, "is given alone: give uidMappings and gidMappings");
        }
    }
}

fn check_device(device: &oci::LinuxDevice, at: &str, problems: &mut Problems) {
    problems.add_some(&format!("{at}/path"), not_absolute(device.path()));
    let is_fifo = match device.typ() {
        oci::LinuxDeviceType::A => {
            problems.add(format!("{at}/type"), "\"a\" is for /linux/resources/devices alone");
            return;
        }
        oci::LinuxDeviceType::P => true,
        oci::LinuxDeviceType::B | oci::LinuxDeviceType::C | oci::LinuxDeviceType::U => false,
    };
    for (name, number, largest) in
        [("major", device.major(), MAX_MAJOR), ("minor", device.minor(), MAX_MINOR)]
    {
        if !is_fifo && !(0..=largest).contains(&number) {
            problems.add(format!("{at}/{name}"), format!("want 0 to {largest}"));
        }
    }
    // Engines pass on what stat(2) said, so the bits of the type may be there.
    if device.file_mode().is_some_and(|mode| mode > 0o177_777) {
        problems.add(format!("{at}/fileMode"), "has bits beyond type and permissions");
    }
}

fn check_paths(linux: &oci::Linux, problems: &mut Problems) {
    let lists = [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())];
    for (name, paths) in lists {
        for (index, path) in paths.iter().flatten().enumerate() {
            problems.add_some(&format!("/linux/{name}/{index}"), not_absolute(Path::new(path)));
        }
    }
}

/// A path below each hierarchy, or systemd's `slice:prefix:name`; neither may lead upwards.
fn wrong_cgroups_path(path: &Path) -> Option<&'static str> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let upwards = path.as_os_str().as_encoded_bytes().split(|byte| b"/:".contains(byte));
    wrong_path(path).or(upwards.into_iter().any(|part| part == b"..").then_some("holds \"..\""))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::tests::{checked, table, with},
        sysctl_path, wrong_sysctl,
    };

    #[test]
    fn namespaces() {
        table(
            [
                ("/linux", json!({}), ""),
                ("/linux/namespaces", json!([{"type": "pid"}, {"type": "network"}]), ""),
                ("/linux/namespaces", json!([{"type": "uts", "path": "/proc/1/ns/uts"}]), ""),
                (
                    "/linux/namespaces",
                    json!([{"type": "ipc"}, {"type": "ipc", "path": "ns/ipc"}]),
                    "/linux/namespaces/1/path: is not an absolute path; \
                     /linux/namespaces/1/type: is given twice",
                ),
            ],
            checked,
        );
    }

    fn mapped(ranges: &Value) -> Value {
        let whole = json!([{"containerID": 0, "hostID": 0, "size": 4_294_967_295_u32}]);
        json!({"namespaces": [{"type": "user"}], "uidMappings": whole, "gidMappings": ranges})
    }

    #[test]
    fn id_mappings() {
        let range = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
        for (ranges, expected) in [
            (json!([range(0, 1000, 1), range(1, 100_000, 65_536)]), ""),
            (
                json!([range(0, 1000, 1), range(1, 100_000, 0)]),
                "/linux/gidMappings/1/size: is 0: a range holds at least one id",
            ),
            (
                json!([range(0, 1000, 10), range(9, 2000, 1)]),
                "/linux/gidMappings/1/containerID: overlaps /linux/gidMappings/0",
            ),
            (
                json!([range(0, 1000, 10), range(20, 995, 10)]),
                "/linux/gidMappings/1/hostID: overlaps /linux/gidMappings/0",
            ),
            (
                json!([range(0, u32::MAX, 1)]),
                "/linux/gidMappings/0/hostID: 4294967295 and size 1 pass the last id",
            ),
            (json!([]), "/linux/uidMappings: is given alone: give uidMappings and gidMappings"),
        ] {
            assert_eq!(checked(&with("/linux", mapped(&ranges))), expected, "{ranges}");
        }
    }

    #[test]
    fn id_mappings_need_their_namespace() {
        let range = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        let spec = with("/linux", json!({"uidMappings": range, "gidMappings": range}));
        let wanted = "maps ids of a user namespace: add a namespace of type \"user\"";
        let expected = format!("/linux/uidMappings: {wanted}; /linux/gidMappings: {wanted}");
        assert_eq!(checked(&spec), expected);
    }

    #[test]
    fn devices() {
        let device = |path: &str, typ: &str, major: i64, minor: i64, mode: u32| json!([{"path": path, "type": typ, "major": major, "minor": minor, "fileMode": mode}]);
        table(
            [
                ("/linux/devices", device("/dev/fuse", "c", 10, 229, 0o20666), ""),
                ("/linux/devices", device("/dev/fifo", "p", -1, -1, 0o600), ""),
                (
                    "/linux/devices",
                    device("dev/a", "b", 4096, -1, 0o200_000),
                    "/linux/devices/0/path: is not an absolute path; \
                     /linux/devices/0/major: want 0 to 4095; \
                     /linux/devices/0/minor: want 0 to 1048575; \
                     /linux/devices/0/fileMode: has bits beyond type and permissions",
                ),
                (
                    "/linux/devices",
                    device("/dev/a", "a", 1, 1, 0),
                    "/linux/devices/0/type: \"a\" is for /linux/resources/devices alone",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn paths_and_propagation() {
        table(
            [
                (
                    "/linux/maskedPaths",
                    json!(["/proc/kcore", "proc"]),
                    "/linux/maskedPaths/1: is not an absolute path",
                ),
                (
                    "/linux/readonlyPaths",
                    json!([""]),
                    "/linux/readonlyPaths/0: is missing or empty",
                ),
                ("/linux/cgroupsPath", json!(""), ""),
                ("/linux/cgroupsPath", json!("/a/b..c"), ""),
                ("/linux/cgroupsPath", json!("system.slice:rrun:web"), ""),
                ("/linux/cgroupsPath", json!("/a/../b"), "/linux/cgroupsPath: holds \"..\""),
                ("/linux/cgroupsPath", json!("a:b:.."), "/linux/cgroupsPath: holds \"..\""),
                ("/linux/rootfsPropagation", json!(""), ""),
                ("/linux/rootfsPropagation", json!("rslave"), ""),
                (
                    "/linux/rootfsPropagation",
                    json!("rslaves"),
                    "/linux/rootfsPropagation: \"rslaves\" is no propagation: want one of private, \
                     rprivate, rshared, rslave, runbindable, shared, slave, unbindable",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn sysctl_names_never_lead_out() {
        for (name, expected) in [
            ("net.ipv4.ip_forward", Some("net/ipv4/ip_forward")),
            ("net/ipv4/ip_forward", Some("net/ipv4/ip_forward")),
            ("net/ipv4/conf/eth0.1/forwarding", Some("net/ipv4/conf/eth0.1/forwarding")),
            ("kernel", Some("kernel")),
            ("", None),
            ("net..a", None),
            ("net/./a", None),
            ("net/../../a", None),
            ("../a", None),
            ("/net/a", None),
            ("net.//.a", None),
        ] {
            assert_eq!(sysctl_path(name).as_deref(), expected, "{name:?}");
        }
    }

    #[test]
    fn sysctls_need_their_namespace() {
        let spec = with("/linux/namespaces", json!([{"type": "uts"}, {"type": "ipc"}]));
        for (name, expected) in [
            ("kernel.shmmax", None),
            ("fs.mqueue.msg_max", None),
            ("kernel.domainname", None),
            ("kernel.hostname", Some("is what /hostname sets: write it there")),
            ("kernel.pid_max", Some("belongs to the whole machine, not to a container")),
            (
                "net.core.somaxconn",
                Some("would change the host's: add a namespace of type \"network\""),
            ),
            ("kernel.sem/a", Some("belongs to the whole machine, not to a container")),
            ("a..b", Some("\"a..b\" is no name of a kernel parameter")),
        ] {
            assert_eq!(wrong_sysctl(name, "1", &spec).as_deref(), expected, "{name}");
        }
        let mut named = spec;
        named.set_domainname(Some("example.org".to_owned()));
        let twice = wrong_sysctl("kernel/domainname", "other", &named);
        assert_eq!(twice.as_deref(), Some("is what /domainname sets too: give one of them"));
        assert_eq!(wrong_sysctl("kernel.domainname", "example.org", &named), None, "no conflict");
    }
}
