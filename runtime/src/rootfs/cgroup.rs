//! What a mount of type `cgroup` shows: the container's own cgroups, in the form of this machine.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;
use rrun_spec::mount_options::attr;

use crate::confine::cgroup::{Cgroup, Hierarchies, Hierarchy};
use crate::host::hierarchies;
use crate::plan::mounts::MountPlan;
use crate::rootfs::mounts::{create, make_readonly, place};
use crate::rootfs::paths::Root;
use crate::sys::mount::{Attributes, attach, attach_in, clone_tree, set_attributes};

/// The hierarchies of the host, and where in them the container is.
#[derive(Debug)]
pub struct CgroupView {
    /// What the host has mounted.
    pub hierarchies: Hierarchies,
    /// The container's own directories, where it has any.
    pub cgroup: Option<Cgroup>,
    /// Whether the container has a cgroup namespace, in which its own directory is the root.
    pub own_namespace: bool,
    /// Whether systemd puts init into a cgroup that is not known before.
    pub by_systemd: bool,
}

impl CgroupView {
    /// The same as init sees it where systemd has put it, if it has. For init, before it has a cgroup
    /// namespace of its own.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn seen_by_init(&self) -> Result<Option<Self>> {
        if !self.by_systemd {
            return Ok(None);
        }
        let hierarchies = hierarchies()?;
        Ok(Some(Self { hierarchies, cgroup: None, by_systemd: true, ..*self }))
    }

    /// Mounts what there is at the destination of `plan`.
    ///
    /// # Errors
    ///
    /// Those of the mount calls.
    pub fn mount(&self, root: &mut Root, plan: &MountPlan) -> Result<()> {
        match &self.hierarchies.unified {
            Some(unified) if self.hierarchies.is_unified() => {
                let tree = self.tree(unified, plan.attributes.set)?;
                place(root, plan, tree.as_fd())
            }
            _ => self.mount_each(root, plan),
        }
    }

    /// Version 1: a directory that has one mount for each hierarchy.
    fn mount_each(&self, root: &Root, plan: &MountPlan) -> Result<()> {
        let options = [("mode".to_owned(), Some("755".to_owned()))];
        let attributes = plan.attributes.set & !attr::RDONLY;
        let top = create("tmpfs", "tmpfs", &options, attributes)?;
        let target = root.make_directory(&plan.destination)?;
        attach(top.as_fd(), target.as_fd()).context("attach")?;
        let all = self.hierarchies.v1.iter().chain(&self.hierarchies.unified);
        for hierarchy in all {
            let name = hierarchy.mount.file_name().context("a hierarchy mounted on /")?;
            let tree = self.tree(hierarchy, plan.attributes.set)?;
            // In a file system that nobody else has seen yet, a name is what we made it.
            mkdirat(&top, name, Mode::from_bits_truncate(0o755)).context("make a directory")?;
            attach_in(tree.as_fd(), top.as_fd(), name).context("attach")?;
            for controller in &hierarchy.controllers {
                link(&top, controller, Path::new(name))?;
            }
        }
        if plan.is_readonly() {
            make_readonly(top.as_fd())?;
        }
        Ok(())
    }

    /// The mount for one hierarchy: a new one if that shows the container its own part only, else a
    /// copy of the host's, from the container's directory on.
    fn tree(&self, hierarchy: &Hierarchy, attributes: u64) -> Result<OwnedFd> {
        if self.own_namespace {
            let (fstype, options) = options(hierarchy);
            match create(fstype, fstype, &options, attributes) {
                Err(error) if is_refused(&error) => {}
                made => return made,
            }
        }
        let controller = hierarchy.controllers.first().map_or("", String::as_str);
        let own = self.cgroup.as_ref().and_then(|cgroup| cgroup.dir_of(controller));
        let tree = clone_tree(AT_FDCWD, own.unwrap_or(&hierarchy.own), true)
            .with_context(|| format!("bind {}", hierarchy.mount.display()))?;
        // Without a namespace this is the host's tree: nobody may write there (CVE-2023-25809).
        let set = attributes | attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        set_attributes(tree.as_fd(), Attributes { set, ..Attributes::default() }, true)?;
        Ok(tree)
    }
}

fn options(hierarchy: &Hierarchy) -> (&'static str, Vec<(String, Option<String>)>) {
    if hierarchy.controllers.is_empty() {
        return ("cgroup2", Vec::new());
    }
    let mut options = Vec::new();
    for controller in &hierarchy.controllers {
        match controller.strip_prefix("name=") {
            Some(name) => {
                options.push(("none".to_owned(), None));
                options.push(("name".to_owned(), Some(name.to_owned())));
            }
            None => options.push((controller.clone(), None)),
        }
    }
    ("cgroup", options)
}

fn is_refused(error: &anyhow::Error) -> bool {
    let errno = error.root_cause().downcast_ref::<Errno>();
    matches!(errno, Some(Errno::EPERM | Errno::EBUSY | Errno::EINVAL))
}

/// `cpu` leads to `cpu,cpuacct` where two controllers share a hierarchy.
fn link(top: &OwnedFd, controller: &str, name: &Path) -> Result<()> {
    if controller.starts_with("name=") || Path::new(controller) == name {
        return Ok(());
    }
    match symlinkat(name, top, controller) {
        Err(Errno::EEXIST) => Ok(()),
        made => Ok(made?),
    }
}
