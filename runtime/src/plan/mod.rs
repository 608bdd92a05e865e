//! Decides, before the first fork, everything that is to be done for a container.
//!
//! Pure: from a checked configuration and what is known of the host to a [`Plan`], which init
//! carries out from top to bottom. All bad input is refused here.

mod delegation;
pub mod identity;
pub mod idmap;
pub mod landlock;
mod mount_wish;
pub mod mounts;
pub mod overlay;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::sched::CloneFlags;
use rrun_spec::mount_options::ms;
use rrun_spec::oci::{self, LinuxDeviceType, Spec};

use crate::confine::capabilities::Available;
use crate::confine::cgroup::Limits;
use crate::confine::labels::require_selinux;
use crate::host::SecurityModules;
use crate::namespaces::{Namespaces, time_offsets};
use crate::netdevices::{self, Wanted};
use crate::plan::identity::{Means, Program, keeps_groups};
use crate::plan::idmap::OwnIds;
use crate::plan::mounts::{MountPlan, Surroundings};
use crate::plan::overlay::OverlayPlan;
use crate::userns::map::IdMaps;

/// Everything that is to be done, from outside to inside.
#[derive(Debug)]
pub struct Plan {
    /// Made and joined namespaces.
    pub namespaces: Namespaces,
    /// The maps of a new user namespace.
    pub maps: Option<IdMaps>,
    /// The host name of the UTS namespace.
    pub hostname: Option<String>,
    /// The NIS domain name of the UTS namespace.
    pub domainname: Option<String>,
    /// The root directory.
    pub root: RootPlan,
    /// Devices of the host's network that become the container's.
    pub net_devices: Vec<Wanted>,
    /// The clocks of a new time namespace, as the kernel takes them.
    pub time_offsets: String,
    /// What is asked of the cgroups.
    pub limits: Limits,
    /// The host's ID of the user who may manage the container's cgroup from inside.
    pub cgroup_owner: Option<u32>,
    /// Names below `/proc/sys` and their values.
    pub sysctl: Vec<(String, String)>,
    /// The first program.
    pub program: Program,
    /// Programs of the caller's for the turns of the container's life.
    pub hooks: oci::Hooks,
    /// Whether init gets a session keyring of its own.
    pub new_keyring: bool,
    /// What should be known but stops nothing.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Whether the filter of system calls is in force from `create` on: the agent that answers for
    /// calls is to have its descriptor then, and the hooks that run inside are not to evade it.
    #[must_use]
    pub fn is_filtered_early(&self) -> bool {
        let has_hooks = self.hooks.start_container().as_ref().is_some_and(|list| !list.is_empty());
        self.program.seccomp.as_ref().is_some_and(|filter| filter.asks_agent() || has_hooks)
    }
}

/// What the program sees as `/`.
#[derive(Debug)]
pub struct RootPlan {
    /// The directory on the host; only a mount point if there are layers.
    pub path: PathBuf,
    /// The layers, if the root is made of layers.
    pub overlay: Option<OverlayPlan>,
    /// Whether nobody can write to the root itself.
    pub readonly: bool,
    /// How mounts spread between the root and the host: `MS_SHARED` and so on.
    pub propagation: u64,
    /// Whether to leave the old root with `chroot` because `pivot_root` cannot work (a ramdisk).
    pub no_pivot: bool,
    /// What is mounted below, in order.
    pub mounts: Vec<MountPlan>,
    /// Devices beyond the default ones.
    pub devices: Vec<DevicePlan>,
    /// Whether `/dev` is ours to fill: not if the caller binds one.
    pub fill_dev: bool,
    /// Paths that cannot be looked at.
    pub masked: Vec<PathBuf>,
    /// Paths that cannot be written to.
    pub readonly_paths: Vec<PathBuf>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// Where, as seen from inside.
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Its number.
    pub major: u64,
    /// Its number among those of `major`.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
}

/// What is known before planning.
#[derive(Debug)]
pub struct Given<'a> {
    /// The bundle's directory, absolute.
    pub bundle: &'a Path,
    /// The maps for a user namespace that the configuration gives none for, if one is needed.
    pub default_maps: Option<IdMaps>,
    /// The caller's capabilities.
    pub capabilities: Available,
    /// Whether a user namespace is needed even if the configuration has none.
    pub needs_user_namespace: bool,
    /// The layers of the root, from annotations or flags.
    pub overlay: Option<OverlayPlan>,
    /// `--no-pivot`
    pub no_pivot: bool,
    /// `--no-new-keyring`
    pub no_new_keyring: bool,
}

/// Whether the plan of `spec` will need [`Given::default_maps`].
#[must_use]
pub fn needs_default_maps(spec: &Spec, needs_user_namespace: bool) -> bool {
    let namespaces = namespaces(spec, needs_user_namespace);
    namespaces.makes(CloneFlags::CLONE_NEWUSER)
        && spec.linux().as_ref().is_none_or(|linux| mappings(linux).0.is_empty())
}

/// The plan for `spec`.
///
/// # Errors
///
/// What cannot be done, with its JSON pointer.
pub fn plan(spec: &Spec, given: &Given<'_>) -> anyhow::Result<Plan> {
    let linux = linux_or_nothing(spec);
    let namespaces = namespaces(spec, given.needs_user_namespace);
    ensure!(
        namespaces.has(CloneFlags::CLONE_NEWNS),
        "/linux/namespaces: a mount namespace is needed: add {{\"type\": \"mount\"}}"
    );
    let maps = maps(&linux, &namespaces, given.default_maps.clone())?;
    let mut warnings = Vec::new();
    let new_user = namespaces.makes(CloneFlags::CLONE_NEWUSER);
    let means = Means {
        capabilities: if new_user {
            given.capabilities.in_new_user_namespace()
        } else {
            given.capabilities
        },
        maps: maps.as_ref(),
        linux: Some(&linux),
        keep_groups: spec.annotations().as_ref().is_some_and(keeps_groups),
    };
    let process = spec.process().as_ref().context("/process: want a program to run")?;
    let program = Program::plan(process, means, &mut warnings)?;
    let limits = Limits::new(linux.resources().as_ref())?;
    warnings.extend_from_slice(limits.warnings());
    Ok(Plan {
        hostname: text(spec.hostname()),
        domainname: text(spec.domainname()),
        root: root(spec, &linux, given, own_ids(&namespaces, maps.as_ref()).as_ref())?,
        limits,
        cgroup_owner: delegation::owner(spec, &namespaces, maps.as_ref()),
        net_devices: netdevices::wanted(&linux),
        time_offsets: time_offsets(&linux),
        sysctl: sysctl(&linux)?,
        program,
        hooks: spec.hooks().clone().unwrap_or_default(),
        new_keyring: !given.no_new_keyring,
        warnings,
        namespaces,
        maps,
    })
}

/// `linux` as it stands; the library's `Linux::default()` is a whole example container, while a
/// configuration without it asks for nothing.
fn linux_or_nothing(spec: &Spec) -> oci::Linux {
    spec.linux().clone().unwrap_or_else(|| {
        let mut linux = oci::Linux::default();
        linux.set_namespaces(None).set_masked_paths(None).set_readonly_paths(None);
        linux.set_uid_mappings(None).set_gid_mappings(None).set_resources(None);
        linux
    })
}

fn text(value: &Option<String>) -> Option<String> {
    value.clone().filter(|text| !text.is_empty())
}

fn namespaces(spec: &Spec, needs_user_namespace: bool) -> Namespaces {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone());
    let mut namespaces = Namespaces::of(wanted.as_deref().unwrap_or_default());
    if needs_user_namespace && !namespaces.has(CloneFlags::CLONE_NEWUSER) {
        namespaces.new |= CloneFlags::CLONE_NEWUSER;
    }
    namespaces
}

fn mappings(linux: &oci::Linux) -> (&[oci::LinuxIdMapping], &[oci::LinuxIdMapping]) {
    (
        linux.uid_mappings().as_deref().unwrap_or_default(),
        linux.gid_mappings().as_deref().unwrap_or_default(),
    )
}

fn maps(
    linux: &oci::Linux,
    namespaces: &Namespaces,
    default: Option<IdMaps>,
) -> anyhow::Result<Option<IdMaps>> {
    if !namespaces.makes(CloneFlags::CLONE_NEWUSER) {
        return Ok(None);
    }
    match mappings(linux) {
        ([], _) => Ok(default),
        (uids, gids) => Ok(Some(IdMaps::from_oci(uids, gids)?)),
    }
}

/// The user namespace that the container has of its own.
#[must_use]
pub fn own_ids(namespaces: &Namespaces, maps: Option<&IdMaps>) -> Option<OwnIds> {
    let joined = namespaces.join.iter().find(|join| join.kind == CloneFlags::CLONE_NEWUSER);
    let joined = joined.map(|join| OwnIds::Joined(join.path.clone()));
    joined.or_else(|| maps.cloned().map(OwnIds::Made))
}

fn sysctl(linux: &oci::Linux) -> anyhow::Result<Vec<(String, String)>> {
    let mut values: Vec<_> = linux.sysctl().clone().unwrap_or_default().into_iter().collect();
    values.sort();
    let path = |(name, value): (String, String)| {
        let path = rrun_spec::sysctl_path(&name);
        Ok((path.with_context(|| format!("/linux/sysctl: {name:?} is no name"))?, value))
    };
    values.into_iter().map(path).collect()
}

fn root(
    spec: &Spec,
    linux: &oci::Linux,
    given: &Given<'_>,
    ids: Option<&OwnIds>,
) -> anyhow::Result<RootPlan> {
    let root = spec.root().as_ref().context("/root: want the path of a root directory")?;
    let wanted = spec.mounts().as_deref().unwrap_or_default();
    let around =
        Surroundings { bundle: given.bundle, ids, caller_is_root: !given.needs_user_namespace };
    let mounts = wanted
        .iter()
        .enumerate()
        .map(|(at, mount)| mounts::plan(mount, around).with_context(|| format!("/mounts/{at}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    // Once is enough.
    let paths = |list: &Option<Vec<String>>| -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        list.iter().flatten().filter(|path| seen.insert(*path)).map(PathBuf::from).collect()
    };
    let fill_dev = !mounts.iter().any(is_bound_dev);
    let label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
    if label.is_some() {
        require_selinux("/linux/mountLabel", SecurityModules::probe())?;
    }
    Ok(RootPlan {
        path: given.bundle.join(root.path()),
        overlay: given.overlay.clone(),
        readonly: root.readonly().unwrap_or(false),
        propagation: propagation(linux.rootfs_propagation().as_deref())?,
        no_pivot: given.no_pivot,
        mounts: mounts
            .into_iter()
            .map(|mount| without_unmapped_group(mount, ids))
            .map(|mount| labelled(mount, label))
            .collect(),
        devices: devices(linux)?,
        fill_dev,
        masked: paths(linux.masked_paths()),
        readonly_paths: paths(linux.readonly_paths()),
    })
}

fn is_bound_dev(mount: &MountPlan) -> bool {
    let bind = matches!(mount.what, mounts::What::Bind { .. });
    bind && mount.destination.components().eq(Path::new("/dev").components())
}

/// The usual `gid=5` of devpts means nothing where group 5 is not mapped: it is left out, as crun
/// does, and terminals belong to the container's root.
fn without_unmapped_group(mut mount: MountPlan, ids: Option<&OwnIds>) -> MountPlan {
    let Some(OwnIds::Made(maps)) = ids else { return mount };
    if let mounts::What::New(new) = &mut mount.what
        && new.fstype == "devpts"
    {
        new.options.retain(|(name, value)| {
            let group = value.as_deref().and_then(|value| value.parse().ok());
            let is_mapped = |gid| crate::userns::map::inside_to_outside(&maps.gids, gid).is_some();
            name != "gid" || group.is_none_or(is_mapped)
        });
    }
    mount
}

/// File systems whose files SELinux does not label by a mount option.
const LABELLED_OTHERWISE: [&str; 3] = ["proc", "sysfs", "mqueue"];

/// Gives the files of a new file system the label of `linux.mountLabel`, unless they have one.
fn labelled(mut mount: MountPlan, label: Option<&str>) -> MountPlan {
    if let (mounts::What::New(new), Some(label)) = (&mut mount.what, label) {
        let has_one = new.options.iter().any(|(name, _)| name == "context");
        if !has_one && !LABELLED_OTHERWISE.contains(&new.fstype.as_str()) {
            new.options.push(("context".to_owned(), Some(label.to_owned())));
        }
    }
    mount
}

fn propagation(name: Option<&str>) -> anyhow::Result<u64> {
    match name.unwrap_or_default() {
        "" => Ok(0),
        "shared" | "rshared" => Ok(ms::SHARED),
        "slave" | "rslave" => Ok(ms::SLAVE),
        "private" | "rprivate" => Ok(ms::PRIVATE),
        "unbindable" | "runbindable" => Ok(ms::UNBINDABLE),
        other => anyhow::bail!(
            "/linux/rootfsPropagation: {other:?}: want shared, slave, private or unbindable"
        ),
    }
}

/// What runc gives a device whose mode is not said.
const DEVICE_MODE: u32 = 0o666;

fn devices(linux: &oci::Linux) -> anyhow::Result<Vec<DevicePlan>> {
    let list = linux.devices().as_deref().unwrap_or_default();
    let plan = |(at, device): (usize, &oci::LinuxDevice)| {
        let number = |number: i64, name: &str| {
            u64::try_from(number).with_context(|| format!("/linux/devices/{at}/{name}"))
        };
        Ok(DevicePlan {
            path: Path::new("/").join(device.path()),
            kind: match device.typ() {
                LinuxDeviceType::B => libc::S_IFBLK,
                LinuxDeviceType::P => libc::S_IFIFO,
                LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
                LinuxDeviceType::A => anyhow::bail!("/linux/devices/{at}/type: want c, b, u or p"),
            },
            major: number(device.major(), "major")?,
            minor: number(device.minor(), "minor")?,
            mode: device.file_mode().map_or(DEVICE_MODE, |mode| mode & 0o7777),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        })
    };
    list.iter().enumerate().map(plan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_has_both_spellings() {
        assert_eq!(propagation(Some("rslave")).unwrap(), ms::SLAVE);
        assert_eq!(propagation(Some("shared")).unwrap(), ms::SHARED);
        assert_eq!(propagation(None).unwrap(), 0);
        assert!(propagation(Some("sideways")).is_err());
    }

    #[test]
    fn new_file_systems_are_labelled() {
        let options = |fstype: &str, options: &[&str], label| {
            let mut mount = oci::Mount::default();
            mount.set_destination("/a".into()).set_typ(Some(fstype.to_owned()));
            mount.set_source(Some("/b".into()));
            mount.set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
            let around = Surroundings { bundle: Path::new("/"), ids: None, caller_is_root: true };
            match labelled(mounts::plan(&mount, around).unwrap(), label).what {
                mounts::What::New(new) => new.options,
                _ => Vec::new(),
            }
        };
        let context = |label: &str| vec![("context".to_owned(), Some(label.to_owned()))];
        assert_eq!(options("tmpfs", &[], Some("a:b:c")), context("a:b:c"));
        assert_eq!(options("tmpfs", &[], None), []);
        assert_eq!(options("tmpfs", &["context=x"], Some("a:b:c")), context("x"));
        assert_eq!(options("proc", &[], Some("a:b:c")), []);
        assert_eq!(options("bind", &["bind"], Some("a:b:c")), []);
    }

    #[test]
    fn devpts_keeps_its_group_where_it_exists() {
        let mut mount = oci::Mount::default();
        mount
            .set_destination("/dev/pts".into())
            .set_typ(Some("devpts".to_owned()))
            .set_options(Some(vec!["newinstance".into(), "gid=5".into()]));
        let around = Surroundings { bundle: Path::new("/"), ids: None, caller_is_root: true };
        let plan = mounts::plan(&mount, around).unwrap();
        let single = OwnIds::Made(IdMaps::single(1000, 1000));
        let options = |mount: MountPlan| match mount.what {
            mounts::What::New(new) => new.options.len(),
            _ => 0,
        };
        assert_eq!(options(without_unmapped_group(plan.clone(), Some(&single))), 1);
        assert_eq!(options(without_unmapped_group(plan, None)), 2);
    }
}
