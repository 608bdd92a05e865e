//! Where a further process of a container goes: into the container's cgroup, or one below it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::unistd::Pid;

use super::{Cgroup, Directory, Hierarchies, errno_of, files};

impl Cgroup {
    /// The cgroup that `asked` names, each as `PATH` or `CONTROLLER[,CONTROLLER…]:PATH` below this
    /// one. If nothing is asked for, it is this one; but where version 2 takes no process in it any
    /// more, since the container has handed controllers down, or has left it, it is that of `init`.
    ///
    /// # Errors
    ///
    /// "bad sub cgroup path" for one that leads elsewhere; "unknown controller".
    pub fn within(&self, asked: &[String], init: Pid) -> Result<Self> {
        if asked.is_empty() {
            let mut cgroup = self.clone();
            if let Some(unified) = cgroup.unified.as_mut().filter(|it| !takes_processes(it)) {
                unified.path = own_of(init, unified).unwrap_or_else(|| unified.path.clone());
            }
            return Ok(cgroup);
        }
        let mut cgroup = self.clone();
        for one in asked {
            match one.split_once(':') {
                Some((controllers, path)) => {
                    let below = below(path)?;
                    for controller in controllers.split(',') {
                        let directory = cgroup.directory_of(controller)?;
                        directory.path =
                            self.own_directory(directory).iter().chain(&below).collect();
                    }
                }
                None => {
                    ensure!(
                        asked.len() == 1,
                        "--cgroup {one}: want CONTROLLER:PATH for more than one"
                    );
                    let below = below(one)?;
                    let all = cgroup.v1.iter_mut().chain(&mut cgroup.unified);
                    all.for_each(|directory| {
                        directory.path = directory.path.iter().chain(&below).collect();
                    });
                }
            }
        }
        Ok(cgroup)
    }

    fn directory_of(&mut self, controller: &str) -> Result<&mut Directory> {
        let is_it =
            |directory: &&mut Directory| directory.controllers.iter().any(|c| c == controller);
        if controller.is_empty() {
            return self
                .unified
                .as_mut()
                .context("unknown controller: none is named before the `:`");
        }
        match self.v1.iter_mut().find(is_it) {
            Some(directory) => Ok(directory),
            None => bail!("unknown controller {controller}"),
        }
    }

    /// The directory of the same hierarchy in this cgroup.
    fn own_directory<'a>(&'a self, of: &'a Directory) -> &'a Path {
        let same = |directory: &&Directory| directory.controllers == of.controllers;
        self.directories().find(same).map_or(&of.path, |directory| &directory.path)
    }
}

/// `path` below a cgroup, without a leading `/`.
fn below(path: &str) -> Result<PathBuf> {
    let mut below = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("bad sub cgroup path: {path}: `..` components are not allowed")
            }
        }
    }
    Ok(below)
}

/// No process may be where controllers are handed down from (cgroups(7), "no internal processes").
fn takes_processes(directory: &Directory) -> bool {
    match files::read(&directory.path.join("cgroup.subtree_control")) {
        Ok(handed_down) => handed_down.trim_end().is_empty(),
        Err(error) => !matches!(errno_of(&error), Errno::ENOENT | Errno::ENODEV),
    }
}

/// The directory of `pid` in the hierarchy of version 2.
fn own_of(pid: Pid, unified: &Directory) -> Option<PathBuf> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let found = Hierarchies::parse(&mounts, &own).unified?;
    (found.mount == unified.mount).then_some(found.own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(controllers: &[&str], path: &str) -> Directory {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        Directory { controllers, mount: "/cg".into(), path: path.into() }
    }

    fn paths(cgroup: &Cgroup) -> Vec<&str> {
        cgroup.directories().map(|directory| directory.path.to_str().unwrap()).collect()
    }

    #[test]
    fn sub_cgroups_are_below_and_named_by_controller() {
        let cgroup = Cgroup {
            v1: vec![
                directory(&["cpu", "cpuacct"], "/cg/cpu/a"),
                directory(&["memory"], "/cg/mem/a"),
            ],
            unified: Some(directory(&[], "/cg/u/a")),
            ..Cgroup::default()
        };
        let within = |asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
            cgroup.within(&asked, Pid::from_raw(1))
        };
        for (asked, expected) in [
            (&["/"][..], ["/cg/cpu/a", "/cg/mem/a", "/cg/u/a"]),
            (&["x/y"], ["/cg/cpu/a/x/y", "/cg/mem/a/x/y", "/cg/u/a/x/y"]),
            (&["cpu,cpuacct:b", "memory:/c"], ["/cg/cpu/a/b", "/cg/mem/a/c", "/cg/u/a"]),
        ] {
            assert_eq!(paths(&within(asked).unwrap()), expected, "{asked:?}");
        }
        for (asked, complaint) in [
            (&[".."][..], "bad sub cgroup path: ..: `..` components are not allowed"),
            (&["cpu:x/../../y"], "bad sub cgroup path: x/../../y"),
            (&["whaaat:/"], "unknown controller whaaat"),
            (&["x", "cpu:y"], "want CONTROLLER:PATH"),
        ] {
            let error = within(asked).unwrap_err().to_string();
            assert!(error.contains(complaint), "{asked:?}: {error}");
        }
    }
}
