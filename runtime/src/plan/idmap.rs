//! Whose the files of a mount seem to be (`idmap`, `ridmap`, `uidMappings` and `gidMappings`).
//!
//! A mapping leads from the IDs that the file system stores to the IDs that the caller of the
//! runtime sees, as the map of a user namespace does (runtime-spec, "Mounts"; `mount_setattr(2)`).

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use rrun_spec::oci::Mount;
use rrun_spec::{IdRange, id_ranges};

use crate::plan::mounts::{Surroundings, What};
use crate::userns::map::{IdMap, IdMaps, inside_to_outside, outside_to_inside};

/// The user namespace that a container has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnIds {
    /// A new one with these maps.
    Made(IdMaps),
    /// The one that this file stands for.
    Joined(PathBuf),
}

/// Which IDs become which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// As in the container's user namespace.
    Own(OwnIds),
    /// As listed; `outside` is an ID of the user namespace in which the mount is made.
    Listed(IdMaps),
}

/// How the IDs of a mount are mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMapping {
    /// Which becomes which.
    pub ids: Ids,
    /// Whether that holds for the mounts below too (`ridmap`).
    pub recursive: bool,
}

/// The mapping that `mount` asks for; `option` is its whole option `idmap` or `ridmap`.
///
/// # Errors
///
/// A mapping as in a user namespace that there is not, IDs that the caller has not, a mount that can
/// have none.
pub fn plan(
    mount: &Mount,
    what: &What,
    option: Option<&str>,
    around: Surroundings<'_>,
) -> anyhow::Result<Option<IdMapping>> {
    let Some(ids) = wanted(mount, option, around.ids)? else { return Ok(None) };
    let recursive = option.is_some_and(|option| option.starts_with('r'));
    let ids = match (what, ids) {
        // It is made in the container's user namespace, hence shows its IDs already.
        (What::New(_), Ids::Own(_)) => return Ok(None),
        (What::Bind { .. } | What::New(_), ids) if around.caller_is_root => ids,
        (What::New(_), Ids::Listed(maps)) => Ids::Listed(seen_from_inside(maps, around.ids)?),
        (What::Bind { .. }, _) => bail!(
            "its IDs can be mapped only by root of the user namespace that mounted the source: \
             run as root, or remove the mapping"
        ),
        (What::Cgroup | What::Change { .. }, _) => {
            bail!("its IDs cannot be mapped: remove the mapping")
        }
    };
    Ok(Some(IdMapping { ids, recursive }))
}

fn wanted(
    mount: &Mount,
    option: Option<&str>,
    own: Option<&OwnIds>,
) -> anyhow::Result<Option<Ids>> {
    let users = mount.uid_mappings().as_deref().unwrap_or_default();
    let groups = mount.gid_mappings().as_deref().unwrap_or_default();
    if !users.is_empty() {
        return Ok(Some(Ids::Listed(IdMaps::listed(users, groups)?)));
    }
    let Some(option) = option else { return Ok(None) };
    match id_ranges(option)
        .map_err(|complaint| anyhow::anyhow!("option {option:?}: {complaint}"))?
    {
        Some(ranges) => {
            let maps = IdMaps {
                uids: absolute(&ranges.users, own, |maps| &maps.uids)?,
                gids: absolute(&ranges.groups, own, |maps| &maps.gids)?,
            };
            maps.check().with_context(|| format!("option {option:?}"))?;
            Ok(Some(Ids::Listed(maps)))
        }
        None => own.cloned().map(Ids::Own).map(Some).with_context(|| {
            format!(
                "option {option:?}: the container has no user namespace of its own: \
                 add one, or give uidMappings and gidMappings"
            )
        }),
    }
}

/// The ranges with the IDs of the container replaced by those of the caller.
fn absolute(
    ranges: &[IdRange],
    own: Option<&OwnIds>,
    list: impl Fn(&IdMaps) -> &Vec<IdMap>,
) -> anyhow::Result<Vec<IdMap>> {
    let shown = |range: &IdRange| match (range.in_container, own) {
        (false, _) => Ok(range.shown),
        (true, Some(OwnIds::Made(maps))) => {
            whole(range.shown, range.count, |id| inside_to_outside(list(maps), id))
        }
        (true, _) => bail!("a range with @ needs the maps of the container's user namespace"),
    };
    let map = |range: &IdRange| {
        Ok(IdMap { inside: range.stored, outside: shown(range)?, count: range.count })
    };
    ranges.iter().map(map).collect()
}

/// `maps` for a mount that is made in the container's user namespace.
fn seen_from_inside(maps: IdMaps, own: Option<&OwnIds>) -> anyhow::Result<IdMaps> {
    let Some(OwnIds::Made(own)) = own else {
        bail!("IDs can be listed only where the maps of the user namespace are known: run as root")
    };
    let inside = |list: Vec<IdMap>, own: &[IdMap]| -> anyhow::Result<Vec<IdMap>> {
        let map = |map: IdMap| {
            let outside = whole(map.outside, map.count, |id| outside_to_inside(own, id))?;
            Ok(IdMap { outside, ..map })
        };
        list.into_iter().map(map).collect()
    };
    Ok(IdMaps { uids: inside(maps.uids, &own.uids)?, gids: inside(maps.gids, &own.gids)? })
}

/// Translates the first of `count` IDs, which must stay together.
fn whole(first: u32, count: u32, translate: impl Fn(u32) -> Option<u32>) -> anyhow::Result<u32> {
    let last = count.saturating_sub(1);
    let start = translate(first);
    let end = first.checked_add(last).and_then(translate);
    ensure!(
        start.is_some() && end == start.and_then(|start| start.checked_add(last)),
        "the {count} IDs from {first} are not together in the container's user namespace"
    );
    start.context("an ID")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rrun_spec::oci::LinuxIdMapping;

    use super::*;
    use crate::plan::mounts;

    fn map(inside: u32, outside: u32, count: u32) -> IdMap {
        IdMap { inside, outside, count }
    }

    fn both(list: &[IdMap]) -> IdMaps {
        IdMaps { uids: list.to_vec(), gids: list.to_vec() }
    }

    fn planned(
        mount: &Mount,
        ids: Option<&OwnIds>,
        caller_is_root: bool,
    ) -> Result<Option<IdMapping>, String> {
        let around = Surroundings { bundle: Path::new("/"), ids, caller_is_root };
        mounts::plan(mount, around).map(|plan| plan.ids).map_err(|error| format!("{error:#}"))
    }

    fn bind(option: &str) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination("/a".into()).set_source(Some("/s".into()));
        mount.set_typ(Some("bind".to_owned())).set_options(Some(vec![option.to_owned()]));
        mount
    }

    fn container() -> OwnIds {
        OwnIds::Made(both(&[map(0, 1000, 1), map(1, 100_000, 1000)]))
    }

    #[test]
    fn without_a_list_the_ids_are_the_container_s() {
        let own = container();
        for (option, recursive) in [("idmap", false), ("ridmap", true)] {
            let expected = IdMapping { ids: Ids::Own(own.clone()), recursive };
            assert_eq!(planned(&bind(option), Some(&own), true), Ok(Some(expected)));
        }
        let error = planned(&bind("idmap"), None, true).unwrap_err();
        assert!(error.contains("no user namespace of its own"), "{error}");
        let error = planned(&bind("idmap"), Some(&own), false).unwrap_err();
        assert!(error.contains("run as root"), "{error}");
        assert_eq!(planned(&bind("ro"), Some(&own), true), Ok(None));
    }

    #[test]
    fn lists_may_count_in_ids_of_the_container() {
        let own = container();
        let option = "idmap=uids=0-5-1#10-@1-1;gids=0-0-1";
        assert!(planned(&bind(option), Some(&own), true).is_err());
        let option = "idmap=uids=0-5-1#@10-2-3;gids=@0-0-1";
        let ids = Ids::Listed(IdMaps {
            uids: vec![map(0, 5, 1), map(10, 100_001, 3)],
            gids: vec![map(0, 1000, 1)],
        });
        let expected = Some(IdMapping { ids, recursive: false });
        assert_eq!(planned(&bind(option), Some(&own), true), Ok(expected));
        let error = planned(&bind("idmap=uids=@0-0-2;gids=@0-0-1"), Some(&own), true).unwrap_err();
        assert!(error.contains("not together"), "{error}");
        let error = planned(&bind("idmap=uids=@0-0-1;gids=@0-0-1"), None, true).unwrap_err();
        assert!(error.contains("needs the maps"), "{error}");
    }

    #[test]
    fn a_new_file_system_is_mapped_from_within() {
        let own = container();
        let range: LinuxIdMapping =
            serde_json::from_str(r#"{"containerID":0,"hostID":100004,"size":2}"#).unwrap();
        let mut tmpfs = bind("rw");
        tmpfs.set_typ(Some("tmpfs".to_owned()));
        tmpfs.set_uid_mappings(Some(vec![range])).set_gid_mappings(Some(vec![range]));
        let listed = |outside| {
            let ids = Ids::Listed(both(&[map(0, outside, 2)]));
            Ok(Some(IdMapping { ids, recursive: false }))
        };
        assert_eq!(planned(&tmpfs, Some(&own), true), listed(100_004));
        assert_eq!(planned(&tmpfs, Some(&own), false), listed(5));
        tmpfs.set_typ(Some("cgroup".to_owned()));
        assert!(planned(&tmpfs, Some(&own), true).unwrap_err().contains("remove the mapping"));
        let mut tmpfs = bind("idmap");
        tmpfs.set_typ(Some("tmpfs".to_owned()));
        assert_eq!(planned(&tmpfs, Some(&own), true), Ok(None), "they are its own already");
    }
}
