//! Who may manage the container's cgroup from inside.

use std::path::Path;

use nix::sched::CloneFlags;
use rrun_spec::oci::{Mount, Spec};

use crate::namespaces::Namespaces;
use crate::userns::map::{IdMaps, inside_to_outside};

/// The host's ID of the program's user, if the cgroup is to be given to it: in a user namespace, with a
/// cgroup namespace of its own and the cgroups mounted for writing.
///
/// Source: runtime-spec, `config-linux.md`, "Cgroup ownership".
pub(super) fn owner(spec: &Spec, namespaces: &Namespaces, maps: Option<&IdMaps>) -> Option<u32> {
    let maps = maps.filter(|_| namespaces.makes(CloneFlags::CLONE_NEWCGROUP))?;
    let is_writable = spec.mounts().iter().flatten().any(shows_cgroups_for_writing);
    let user = spec.process().as_ref()?.user().uid();
    is_writable.then(|| inside_to_outside(&maps.uids, user))?
}

fn shows_cgroups_for_writing(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.destination() == Path::new("/sys/fs/cgroup")
        && mount.source().as_deref() == Some(Path::new("cgroup"))
        && !options.iter().any(|option| option == "ro" || option == "rro")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_writable_mount_in_namespaces_of_its_own_is_given_away() {
        let spec = |options: &[&str]| -> Spec {
            serde_json::from_value(json!({
                "ociVersion": "1.3.0",
                "process": {"cwd": "/", "user": {"uid": 3, "gid": 0}},
                "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": options}],
            }))
            .unwrap()
        };
        let mut maps = IdMaps::single(1000, 1000);
        maps.uids[0].count = 10;
        let own = Namespaces { new: CloneFlags::CLONE_NEWCGROUP, ..Namespaces::of(&[]) };
        assert_eq!(owner(&spec(&["rw"]), &own, Some(&maps)), Some(1003));
        assert_eq!(owner(&spec(&["nosuid", "ro"]), &own, Some(&maps)), None);
        assert_eq!(owner(&spec(&[]), &Namespaces::of(&[]), Some(&maps)), None);
        assert_eq!(owner(&spec(&[]), &own, None), None);
    }
}
