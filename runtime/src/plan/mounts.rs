//! What each of `mounts` asks for, in the kernel's terms.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rrun_spec::mount_options::{MountOption, attr, mount_option, ms};
use rrun_spec::oci::Mount;

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
    },
    /// A new file system.
    New(NewMount),
    /// The container's cgroups, in whatever form this machine has them.
    Cgroup,
}

/// A file system that is made for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMount {
    /// Its type, as in `/proc/filesystems`.
    pub fstype: String,
    /// What is shown as its source.
    pub source: String,
    /// Its options, with or without a value.
    pub options: Vec<(String, Option<String>)>,
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
}

impl MountPlan {
    /// Whether nothing can be written here; for a new file system that holds only when all other
    /// mounts are made, since their mount points may lie in it.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.attributes.set & attr::RDONLY != 0
    }
}

/// The plan of `mount`; relative sources of binds lie below `bundle`.
///
/// # Errors
///
/// A bind without source, an option that contradicts the type.
pub fn plan(mount: &Mount, bundle: &Path) -> anyhow::Result<MountPlan> {
    let mut wish = Wish::default();
    for option in mount.options().iter().flatten() {
        wish.add(option).with_context(|| format!("option {option:?}"))?;
    }
    let fstype = mount.typ().as_deref().unwrap_or_default();
    ensure!(!wish.copy_up || fstype == "tmpfs", "option \"tmpcopyup\": only a tmpfs has it");
    let bind = wish.bind.or((fstype == "bind").then_some(false));
    let what = match bind {
        Some(recursive) => What::Bind { source: source(mount, bundle)?, recursive },
        None if fstype == "cgroup" || fstype == "cgroup2" => What::Cgroup,
        None => new(mount, fstype, &mut wish)?,
    };
    Ok(MountPlan {
        destination: Path::new("/").join(mount.destination()),
        what,
        attributes: wish.attributes,
        recursive: wish.recursive,
        propagation: wish.propagation,
    })
}

fn source(mount: &Mount, bundle: &Path) -> anyhow::Result<PathBuf> {
    let source = mount.source().as_deref().filter(|path| !path.as_os_str().is_empty());
    Ok(bundle.join(source.context("a bind mount needs a source")?))
}

type Options = Vec<(String, Option<String>)>;

fn new(mount: &Mount, fstype: &str, wish: &mut Wish) -> anyhow::Result<What> {
    ensure!(!fstype.is_empty(), "neither a type nor the option bind");
    let mut options: Options = [
        (ms::SYNCHRONOUS, "sync"),
        (ms::DIRSYNC, "dirsync"),
        (ms::MANDLOCK, "mand"),
        (ms::LAZYTIME, "lazytime"),
    ]
    .into_iter()
    .filter(|(flag, _)| wish.superblock & flag != 0)
    .map(|(_, name)| (name.to_owned(), None))
    .collect();
    options.append(&mut wish.data);
    let source = mount.source().as_deref().unwrap_or(Path::new(fstype));
    let source = source.to_str().context("the source is not UTF-8")?.to_owned();
    Ok(What::New(NewMount { fstype: fstype.to_owned(), source, options, copy_up: wish.copy_up }))
}

#[derive(Default)]
struct Wish {
    attributes: Attributes,
    recursive: Attributes,
    superblock: u64,
    propagation: Vec<(u64, bool)>,
    bind: Option<bool>,
    copy_up: bool,
    data: Options,
}

impl Wish {
    fn add(&mut self, option: &str) -> anyhow::Result<()> {
        match mount_option(option).context("is no mount option")? {
            MountOption::Flag { ms, clear } => self.flag(ms, clear),
            MountOption::RecursiveAttr { attr, clear } => merge(&mut self.recursive, attr, clear),
            MountOption::Propagation(flags) => {
                self.propagation.push((flags & !ms::REC, flags & ms::REC != 0));
            }
            MountOption::Bind { recursive } => {
                self.bind = Some(recursive || self.bind.unwrap_or(false));
            }
            MountOption::Extension("tmpcopyup") => self.copy_up = true,
            MountOption::Extension(name) => bail!("{name} is not supported yet"),
            MountOption::Data => self.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
        Ok(())
    }

    fn flag(&mut self, flags: u64, clear: bool) {
        for (flag, attribute) in [
            (ms::RDONLY, attr::RDONLY),
            (ms::NOSUID, attr::NOSUID),
            (ms::NODEV, attr::NODEV),
            (ms::NOEXEC, attr::NOEXEC),
            (ms::NODIRATIME, attr::NODIRATIME),
            (ms::NOSYMFOLLOW, attr::NOSYMFOLLOW),
            (ms::NOATIME, attr::NOATIME),
            (ms::STRICTATIME, attr::STRICTATIME),
        ] {
            if flags & flag != 0 {
                merge(&mut self.attributes, attribute, clear);
            }
        }
        if flags & ms::RELATIME != 0 {
            merge(&mut self.attributes, attr::RELATIME, clear);
        }
        if clear {
            self.superblock &= !flags;
        } else {
            self.superblock |= flags;
        }
    }
}

/// Adds one attribute to what is to change; the last word on it counts.
///
/// The access time is one field with three values: to set one, the field is cleared first; to clear
/// one is to go back to relatime.
fn merge(attributes: &mut Attributes, attribute: u64, clear: bool) {
    let is_atime = attribute == attr::RELATIME || attribute & attr::ATIME != 0;
    let mask = if is_atime { attr::ATIME } else { attribute };
    attributes.set &= !mask;
    attributes.clear &= !mask;
    if is_atime {
        attributes.clear |= mask;
        attributes.set |= if clear { attr::RELATIME } else { attribute };
    } else if clear {
        attributes.clear |= mask;
    } else {
        attributes.set |= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fstype: &str, options: &[&str]) -> MountPlan {
        let mut mount = Mount::default();
        mount
            .set_destination("/a".into())
            .set_typ(Some(fstype.to_owned()))
            .set_source(Some("here".into()))
            .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
        plan(&mount, Path::new("/bundle")).unwrap()
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
    fn binds_are_told_from_new_file_systems() {
        let bind = |recursive| What::Bind { source: "/bundle/here".into(), recursive };
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
        let error = plan(&proc, Path::new("/bundle")).unwrap_err();
        assert_eq!(error.to_string(), "option \"tmpcopyup\": only a tmpfs has it");
    }

    #[test]
    fn propagation_keeps_its_order() {
        let plan = mount("bind", &["rbind", "rslave", "shared"]);
        assert_eq!(plan.propagation, [(ms::SLAVE, true), (ms::SHARED, false)]);
    }
}
