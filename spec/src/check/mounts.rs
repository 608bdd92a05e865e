//! `mounts`: destinations, sources, and options that fit together.

use std::path::Component;

use oci_spec::runtime as oci;

use super::{Problems, linux::check_mappings, wrong_path, wrong_text};
use crate::id_ranges::id_ranges;
use crate::mount_options::{MountOption, attr, key, mount_option, ms};

pub(super) fn check(spec: &oci::Spec, problems: &mut Problems) {
    check_list(spec.mounts().as_deref().unwrap_or_default(), "/mounts", problems);
}

pub(super) fn check_list(mounts: &[oci::Mount], at: &str, problems: &mut Problems) {
    for (index, mount) in mounts.iter().enumerate() {
        check_mount(mount, &format!("{at}/{index}"), problems);
    }
}

fn check_mount(mount: &oci::Mount, at: &str, problems: &mut Problems) {
    problems.add_some(&format!("{at}/destination"), wrong_path(mount.destination()));
    if let Some(source) = mount.source().as_ref().filter(|source| !source.as_os_str().is_empty()) {
        problems.add_some(&format!("{at}/source"), wrong_path(source));
    } else if is_bind(mount) && !is_change(mount) {
        problems.add(format!("{at}/source"), "is missing: a bind mount needs one");
    }
    check_type(mount, at, problems);
    for (index, option) in options(mount).iter().enumerate() {
        let pointer = format!("{at}/options/{index}");
        match mount_option(option) {
            None => problems.add(pointer, format!("{option:?} is no mount option")),
            Some(MountOption::Data) => problems.add_some(&pointer, wrong_data(mount, option)),
            Some(MountOption::Extension(name)) => {
                problems.add_some(&pointer, wrong_extension(mount, name, option));
            }
            Some(_) => {}
        }
    }
    check_conflicts(mount, at, problems);
    check_id_mappings(mount, at, problems);
}

/// Whether the mount binds its source; engines write the type, the option, or both.
pub(super) fn is_bind(mount: &oci::Mount) -> bool {
    typ(mount) == "bind" || any(mount, |option| matches!(option, MountOption::Bind { .. }))
}

/// Whether nothing is mounted: flags or propagation of what is there already are to change.
fn is_change(mount: &oci::Mount) -> bool {
    let is_remount = any(mount, |option| option == REMOUNT);
    is_remount || (matches!(typ(mount), "" | "none") && !is_bind(mount))
}

const REMOUNT: MountOption = MountOption::Flag { ms: ms::REMOUNT, clear: false };

fn options(mount: &oci::Mount) -> &[String] {
    mount.options().as_deref().unwrap_or_default()
}

fn typ(mount: &oci::Mount) -> &str {
    mount.typ().as_deref().unwrap_or_default()
}

fn any(mount: &oci::Mount, wanted: impl Fn(MountOption) -> bool) -> bool {
    options(mount).iter().filter_map(|name| mount_option(name)).any(wanted)
}

/// Without a type there must be something else to do than to mount a file system.
fn check_type(mount: &oci::Mount, at: &str, problems: &mut Problems) {
    let pointer = format!("{at}/type");
    problems.add_some(&pointer, wrong_text(typ(mount)));
    let changes = |option| option == REMOUNT || matches!(option, MountOption::Propagation(_));
    if is_change(mount) && !any(mount, changes) {
        problems.add(pointer, "is missing: name a file system, or add the option \"bind\"");
    }
}

/// The words that the file systems of every container understand; others take what they take.
///
/// Source: Linux `mm/shmem.c`, `fs/proc/root.c`, `fs/devpts/inode.c`.
fn data_keys(typ: &str) -> Option<&'static [&'static str]> {
    Some(match typ {
        "proc" => &["gid", "hidepid", "pidns", "subset"],
        "sysfs" | "mqueue" => &[],
        "devpts" => &["gid", "max", "mode", "newinstance", "ptmxmode", "uid"],
        "tmpfs" => &[
            "casefold",
            "gid",
            "grpquota",
            "grpquota_block_hardlimit",
            "grpquota_inode_hardlimit",
            "huge",
            "inode32",
            "inode64",
            "mode",
            "mpol",
            "noswap",
            "nr_blocks",
            "nr_inodes",
            "quota",
            "size",
            "strict_encoding",
            "uid",
            "usrquota",
            "usrquota_block_hardlimit",
            "usrquota_inode_hardlimit",
        ],
        _ => return None,
    })
}

/// What any file system of an SELinux kernel takes.
const LABELS: [&str; 4] = ["context", "defcontext", "fscontext", "rootcontext"];

fn wrong_data(mount: &oci::Mount, option: &str) -> Option<String> {
    if is_bind(mount) {
        return Some(format!("{option:?} is no option of a bind mount"));
    }
    let known = data_keys(typ(mount))?;
    let key = key(option);
    let foreign = !known.contains(&key) && !LABELS.contains(&key);
    foreign.then(|| format!("{option:?} is no option of {}", typ(mount)))
}

/// What crun and podman have added to the options of mounts, where it would mean nothing.
fn wrong_extension(mount: &oci::Mount, name: &str, option: &str) -> Option<String> {
    match name {
        "tmpcopyup" if is_root(mount) => {
            Some("\"tmpcopyup\" would copy the whole root into memory: mount below it".to_owned())
        }
        "idmap" | "ridmap" if is_change(mount) => {
            Some(format!("{option:?} is for a new mount: what is mounted keeps its IDs"))
        }
        "idmap" | "ridmap" => id_ranges(option).err(),
        _ => None,
    }
}

fn is_root(mount: &oci::Mount) -> bool {
    let mut names = mount.destination().components();
    names.all(|name| !matches!(name, Component::Normal(_)))
}

/// An option and its opposite (`ro` after `rw`) are fine, the later one counts, as in `mount(8)`;
/// engines append what their user asked for to their defaults. Refused is what cannot be meant.
fn check_conflicts(mount: &oci::Mount, at: &str, problems: &mut Problems) {
    for group in [propagation, access_time, access_time_below, id_mapping, links] {
        let names = || options(mount).iter().enumerate();
        let first = names().find(|(_, name)| group(name).is_some());
        let Some((_, first)) = first else { continue };
        for (index, name) in names() {
            if group(name).is_some_and(|kind| Some(kind) != group(first)) {
                problems.add(
                    format!("{at}/options/{index}"),
                    format!("{name:?} contradicts {first:?}"),
                );
            }
        }
    }
}

/// `shared` with `slave` is a mount that receives and passes on, so slaves stand aside.
fn propagation(name: &str) -> Option<u64> {
    match mount_option(name)? {
        MountOption::Propagation(flags) if flags & ms::SLAVE == 0 => Some(flags & !ms::REC),
        _ => None,
    }
}

fn access_time(name: &str) -> Option<u64> {
    match mount_option(name)? {
        MountOption::Flag { ms, clear: false } => {
            let kinds = ms::NOATIME | ms::RELATIME | ms::STRICTATIME;
            (ms & kinds != 0).then_some(ms & kinds)
        }
        _ => None,
    }
}

fn access_time_below(name: &str) -> Option<u64> {
    match mount_option(name)? {
        MountOption::RecursiveAttr { attr, clear: false } => {
            (attr & !attr::ATIME == 0).then_some(attr)
        }
        _ => None,
    }
}

fn id_mapping(name: &str) -> Option<u64> {
    match mount_option(name)? {
        MountOption::Extension("idmap") => Some(0),
        MountOption::Extension("ridmap") => Some(1),
        _ => None,
    }
}

/// A link is either made again, or taken itself.
fn links(name: &str) -> Option<u64> {
    match mount_option(name)? {
        MountOption::Extension("copy-symlink") => Some(0),
        MountOption::Extension("src-nofollow" | "dest-nofollow") => Some(1),
        _ => None,
    }
}

fn check_id_mappings(mount: &oci::Mount, at: &str, problems: &mut Problems) {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    check_mappings(uids, &format!("{at}/uidMappings"), problems);
    check_mappings(gids, &format!("{at}/gidMappings"), problems);
    if uids.is_empty() != gids.is_empty() {
        problems.add(at, "has only one of uidMappings and gidMappings: give both");
    }
    let has_ranges = |option: &String| matches!(id_ranges(option), Ok(Some(_)));
    let named = |option: &String| matches!(key(option), "idmap" | "ridmap") && has_ranges(option);
    if !uids.is_empty() && options(mount).iter().any(named) {
        problems.add(at, "has uidMappings, and ranges in its options: give one of them");
    }
    if !uids.is_empty() && is_change(mount) {
        problems
            .add(format!("{at}/uidMappings"), "are for a new mount: what is mounted keeps its IDs");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{checked, table};

    fn mounts(rows: &[(Value, &'static str)]) {
        table(rows.iter().map(|(mount, expected)| ("/mounts", json!([mount]), *expected)), checked);
    }

    #[test]
    fn places() {
        mounts(&[
            (json!({"destination": "/proc", "type": "proc", "source": "proc"}), ""),
            (json!({"destination": "proc", "type": "proc"}), ""),
            (
                json!({"destination": "", "type": "proc"}),
                "/mounts/0/destination: is missing or empty",
            ),
            (json!({"destination": "/a", "type": "bind", "source": "a"}), ""),
            (
                json!({"destination": "/a", "type": "bind"}),
                "/mounts/0/source: is missing: a bind mount needs one",
            ),
            (
                json!({"destination": "/a", "source": "", "options": ["rbind"]}),
                "/mounts/0/source: is missing: a bind mount needs one",
            ),
            (
                json!({"destination": "/a", "type": "none", "source": "/a"}),
                "/mounts/0/type: is missing: name a file system, or add the option \"bind\"",
            ),
            (json!({"destination": "/a", "options": ["remount", "ro"]}), ""),
            (json!({"destination": "/a", "options": ["rslave"]}), ""),
        ]);
    }

    #[test]
    fn options_must_be_known_to_their_type() {
        let with = |typ: &str, options: Value| json!({"destination": "/a", "source": "/s", "type": typ, "options": options});
        mounts(&[
            (with("tmpfs", json!(["nosuid", "size=1k", "mode=755", "context=\"x\""])), ""),
            (with("tmpfs", json!(["ro", "rw"])), ""),
            (
                with("tmpfs", json!(["sise=1k"])),
                "/mounts/0/options/0: \"sise=1k\" is no option of tmpfs",
            ),
            (with("devpts", json!(["newinstance", "ptmxmode=0666"])), ""),
            (
                with("sysfs", json!(["ro", "size=1"])),
                "/mounts/0/options/1: \"size=1\" is no option of sysfs",
            ),
            (with("overlay", json!(["lowerdir=/a:/b", "userxattr"])), ""),
            (with("cgroup", json!(["relatime", "ro"])), ""),
            (with("bind", json!(["bind", "rbind", "rprivate", "ro"])), ""),
            (
                with("bind", json!(["rbind", "reed-only"])),
                "/mounts/0/options/1: \"reed-only\" is no option of a bind mount",
            ),
            (with("ext4", json!([""])), "/mounts/0/options/0: \"\" is no mount option"),
        ]);
    }

    #[test]
    fn options_must_not_contradict_each_other() {
        let with = |options: Value| json!({"destination": "/a", "source": "/s", "type": "bind", "options": options});
        mounts(&[
            (with(json!(["private", "rprivate"])), ""),
            (with(json!(["slave", "shared"])), ""),
            (
                with(json!(["rprivate", "ro", "rshared"])),
                "/mounts/0/options/2: \"rshared\" contradicts \"rprivate\"",
            ),
            (
                with(json!(["noatime", "relatime"])),
                "/mounts/0/options/1: \"relatime\" contradicts \"noatime\"",
            ),
            (with(json!(["noatime", "rstrictatime"])), ""),
            (
                with(json!(["rrelatime", "rnoatime"])),
                "/mounts/0/options/1: \"rnoatime\" contradicts \"rrelatime\"",
            ),
            (
                with(json!(["idmap", "ridmap"])),
                "/mounts/0/options/1: \"ridmap\" contradicts \"idmap\"",
            ),
        ]);
    }

    #[test]
    fn id_mappings_come_in_pairs() {
        let range = json!([{"containerID": 0, "hostID": 0, "size": 0}]);
        mounts(&[(
            json!({"destination": "/a", "type": "tmpfs", "uidMappings": range}),
            "/mounts/0/uidMappings/0/size: is 0: a range holds at least one id; \
             /mounts/0: has only one of uidMappings and gidMappings: give both",
        )]);
    }
}
