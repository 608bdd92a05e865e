//! What each of `mounts` asks for, in the kernel's terms.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rrun_spec::mount_options::attr;
use rrun_spec::oci::Mount;

use crate::plan::idmap::{self, IdMapping, OwnIds};
use crate::plan::mount_wish::Wish;
use crate::sys::mount::Attributes;

/// What is put at a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A file or tree of the host.
    Bind {
        /// Where it is on the host.
        source: PathBuf,
        /// Whether the mounts below it come along.
        recursive: bool,
        /// What is done about symbolic links.
        links: Links,
    },
    /// A new file system.
    New(NewMount),
    /// The container's cgroups, in whatever form this machine has them.
    Cgroup,
    /// Nothing: what is mounted there is changed (`remount`, or propagation alone).
    Change {
        /// Options of its file system, with or without a value.
        options: Options,
    },
}

/// What is done about symbolic links at the ends of a bind; by default both are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Links {
    /// `src-nofollow`: a link at the source is bound itself.
    pub source_itself: bool,
    /// `dest-nofollow`: a link at the destination is covered itself.
    pub destination_itself: bool,
    /// `copy-symlink`: a link at the source is made again at the destination.
    pub copied: bool,
}

/// A file system that is made for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMount {
    /// Its type, as in `/proc/filesystems`.
    pub fstype: String,
    /// What is shown as its source.
    pub source: String,
    /// Its options, with or without a value.
    pub options: Options,
    /// `MS_*` flags of the file system, named among the options too but for `MS_I_VERSION`.
    pub superblock: u64,
    /// Whether what the image has at the destination is copied into it.
    pub copy_up: bool,
}

/// One mount, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Where it goes, as seen from inside.
    pub destination: PathBuf,
    /// What goes there.
    pub what: What,
    /// Attributes of this mount alone.
    pub attributes: Attributes,
    /// Attributes of this mount and all below.
    pub recursive: Attributes,
    /// `MS_SHARED` and so on, with whether it holds for the mounts below too; in order.
    pub propagation: Vec<(u64, bool)>,
    /// Whose its files seem to be.
    pub ids: Option<IdMapping>,
    /// Whether the parent opens it, with the caller's rights and in the host's namespaces.
    pub by_parent: bool,
}

impl MountPlan {
    /// Whether nothing can be written here; for a new file system that holds only when all other
    /// mounts are made, since their mount points may lie in it.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        (self.attributes.set | self.recursive.set) & attr::RDONLY != 0
    }
}

/// What the mounts of a container depend on besides their own description.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where relative sources of binds lie.
    pub bundle: &'a Path,
    /// The container's user namespace, if it has one of its own.
    pub ids: Option<&'a OwnIds>,
    /// Whether the caller is root, in whatever user namespace.
    pub caller_is_root: bool,
}

/// The plan of `mount`.
///
/// # Errors
///
/// A bind without source, an option that contradicts the type, IDs that cannot be mapped.
pub fn plan(mount: &Mount, around: Surroundings<'_>) -> anyhow::Result<MountPlan> {
    let mut wish = Wish::default();
    for option in mount.options().iter().flatten() {
        wish.add(option).with_context(|| format!("option {option:?}"))?;
    }
    let fstype = mount.typ().as_deref().unwrap_or_default();
    ensure!(!wish.copy_up || fstype == "tmpfs", "option \"tmpcopyup\": only a tmpfs has it");
    let what = what(mount, fstype, around.bundle, &mut wish)?;
    if matches!(what, What::Bind { .. }) {
        wish.attributes = wish.of_bind(around.ids.is_some());
    }
    let ids = idmap::plan(mount, &what, wish.id_option.as_deref(), around)?;
    Ok(MountPlan {
        by_parent: is_for_parent(&what, ids.as_ref(), around),
        // Without slashes at the end, which would say that it is a directory.
        destination: Path::new("/").join(mount.destination()).components().collect(),
        what,
        attributes: wish.attributes,
        recursive: wish.recursive,
        propagation: wish.propagation,
        ids,
    })
}

fn what(mount: &Mount, fstype: &str, bundle: &Path, wish: &mut Wish) -> anyhow::Result<What> {
    let bind = wish.bind.or((fstype == "bind").then_some(false));
    let names_nothing = matches!(fstype, "" | "none") && !wish.propagation.is_empty();
    Ok(match bind {
        _ if wish.remount => What::Change { options: wish.options() },
        Some(recursive) => {
            What::Bind { source: source(mount, bundle)?, recursive, links: wish.links }
        }
        None if names_nothing => What::Change { options: wish.options() },
        None if fstype == "cgroup" || fstype == "cgroup2" => What::Cgroup,
        None => new(mount, fstype, wish)?,
    })
}

/// Root opens what the container's own root, another user to the host, may not reach, and maps IDs,
/// for which one must be privileged over the file system. A descriptor of the caller is there only
/// before init begins.
fn is_for_parent(what: &What, ids: Option<&IdMapping>, around: Surroundings<'_>) -> bool {
    match what {
        What::Bind { source, .. } => {
            (around.caller_is_root && (around.ids.is_some() || ids.is_some()))
                || names_descriptor(source)
        }
        What::New(_) => around.caller_is_root && ids.is_some(),
        What::Cgroup | What::Change { .. } => false,
    }
}

/// Whether `path` leads through a descriptor of the process that looks it up.
fn names_descriptor(path: &Path) -> bool {
    ["/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"].iter().any(|at| path.starts_with(at))
}

fn source(mount: &Mount, bundle: &Path) -> anyhow::Result<PathBuf> {
    let source = mount.source().as_deref().filter(|path| !path.as_os_str().is_empty());
    Ok(bundle.join(source.context("a bind mount needs a source")?))
}

/// Names of options, with or without a value.
pub type Options = Vec<(String, Option<String>)>;

fn new(mount: &Mount, fstype: &str, wish: &mut Wish) -> anyhow::Result<What> {
    ensure!(!fstype.is_empty(), "neither a type nor the option bind");
    let source = mount.source().as_deref().unwrap_or(Path::new(fstype));
    let source = source.to_str().context("the source is not UTF-8")?.to_owned();
    Ok(What::New(NewMount {
        fstype: fstype.to_owned(),
        source,
        superblock: wish.superblock,
        options: wish.options(),
        copy_up: wish.copy_up,
    }))
}

#[cfg(test)]
mod tests {
    use rrun_spec::mount_options::ms;

    use super::*;

    fn nowhere() -> Surroundings<'static> {
        Surroundings { bundle: Path::new("/bundle"), ids: None, caller_is_root: true }
    }

    fn mount(fstype: &str, options: &[&str]) -> MountPlan {
        let mut mount = Mount::default();
        mount
            .set_destination("/a".into())
            .set_typ(Some(fstype.to_owned()))
            .set_source(Some("here".into()))
            .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
        plan(&mount, nowhere()).unwrap()
    }

    #[test]
    fn the_last_word_on_a_flag_counts() {
        for (options, set, clear) in [
            (&["ro", "nosuid"][..], attr::RDONLY | attr::NOSUID, 0),
            (&["ro", "rw"], 0, attr::RDONLY),
            (&["dev", "nodev"], attr::NODEV, 0),
            (&["noatime"], attr::NOATIME, attr::ATIME),
            (&["noatime", "strictatime"], attr::STRICTATIME, attr::ATIME),
            (&["noatime", "relatime"], 0, attr::ATIME),
            (&["strictatime", "nodiratime"], attr::STRICTATIME | attr::NODIRATIME, attr::ATIME),
        ] {
            let attributes = mount("tmpfs", options).attributes;
            assert_eq!((attributes.set, attributes.clear), (set, clear), "{options:?}");
        }
        assert_eq!(mount("bind", &["rbind", "rro"]).recursive.set, attr::RDONLY);
    }

    #[test]
    fn a_bind_with_flags_has_these_alone() {
        const RO: u64 = attr::RDONLY;
        const REST: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
        let times = attr::ATIME | attr::NODIRATIME;
        for (options, set, clear) in [
            (&["rbind", "rslave"][..], 0, 0),
            (&["bind", "defaults"], 0, 0),
            (&["bind", "ro"], RO, REST),
            (&["bind", "ro", "rw"], 0, RO | REST),
            (&["bind", "dev"], 0, RO | REST),
            (&["bind", "atime", "norelatime"], 0, RO | REST),
            (&["bind", "relatime"], 0, RO | REST | times),
            (&["bind", "nodiratime"], attr::NODIRATIME, RO | REST | attr::ATIME),
            (&["bind", "noatime", "ro"], attr::NOATIME | RO, REST | times),
        ] {
            let attributes = mount("bind", options).attributes;
            assert_eq!((attributes.set, attributes.clear), (set, clear), "{options:?}");
        }
    }

    #[test]
    fn binds_are_told_from_new_file_systems() {
        let links = Links::default();
        let bind = |recursive| What::Bind { source: "/bundle/here".into(), recursive, links };
        assert_eq!(mount("bind", &[]).what, bind(false));
        assert_eq!(mount("none", &["rbind"]).what, bind(true));
        assert_eq!(mount("", &["bind", "rbind"]).what, bind(true));
        assert_eq!(mount("cgroup", &["ro"]).what, What::Cgroup);
        let What::New(new) = mount("tmpfs", &["sync", "size=64k", "mode=755"]).what else {
            panic!("a tmpfs is new");
        };
        let names: Vec<_> = new.options.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["sync", "size", "mode"]);
    }

    #[test]
    fn only_a_tmpfs_is_filled_from_the_image() {
        let is_filled = |options| match mount("tmpfs", options).what {
            What::New(new) => new.copy_up,
            other => panic!("{other:?}"),
        };
        assert!(is_filled(&["tmpcopyup"]) && !is_filled(&["rw"]));
        let mut proc = Mount::default();
        proc.set_destination("/proc".into())
            .set_typ(Some("proc".to_owned()))
            .set_options(Some(vec!["tmpcopyup".into()]));
        let error = plan(&proc, nowhere()).unwrap_err();
        assert_eq!(error.to_string(), "option \"tmpcopyup\": only a tmpfs has it");
    }

    #[test]
    fn what_is_there_already_can_be_changed() {
        let change = |options: &[(&str, Option<&str>)]| What::Change {
            options: options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
                .collect(),
        };
        assert_eq!(mount("none", &["rslave"]).what, change(&[]));
        assert_eq!(mount("", &["bind", "remount", "ro"]).what, change(&[]));
        let resized = mount("tmpfs", &["remount", "size=1m"]).what;
        assert_eq!(resized, change(&[("size", Some("1m"))]));
    }

    #[test]
    fn links_are_followed_unless_told() {
        let links = |options| match mount("bind", options).what {
            What::Bind { links, .. } => links,
            other => panic!("{other:?}"),
        };
        assert_eq!(links(&["bind"]), Links::default());
        let all = ["copy-symlink", "src-nofollow", "dest-nofollow"];
        let expected = Links { source_itself: true, destination_itself: true, copied: true };
        assert_eq!(links(&all), expected);
    }

    #[test]
    fn the_parent_opens_what_init_could_not() {
        let ids = OwnIds::Joined("/proc/1/ns/user".into());
        let opened = |source: &str, ids, caller_is_root| {
            let mut mount = Mount::default();
            mount.set_destination("/a".into()).set_typ(Some("bind".to_owned()));
            mount.set_source(Some(source.into())).set_options(None);
            let around = Surroundings { bundle: Path::new("/"), ids, caller_is_root };
            plan(&mount, around).unwrap().by_parent
        };
        assert!(!opened("/a", None, true) && opened("/a", Some(&ids), true));
        assert!(!opened("/a", Some(&ids), false) && opened("/dev/fd/3", Some(&ids), false));
        assert!(opened("/proc/self/fd/3", None, true) && !opened("/proc/self/fdx", None, true));
    }

    #[test]
    fn propagation_keeps_its_order() {
        let plan = mount("bind", &["rbind", "rslave", "shared"]);
        assert_eq!(plan.propagation, [(ms::SLAVE, true), (ms::SHARED, false)]);
    }
}
