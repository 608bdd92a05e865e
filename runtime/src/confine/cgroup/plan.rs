//! Where a container's cgroup goes, and making it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use super::limits::Limits;
use super::{Cgroup, Directory, Hierarchies, Hierarchy, errno_of, files};

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPlan {
    places: Vec<Place>,
    /// Whether a refusal is an error rather than a fact of life.
    must: bool,
}

/// The directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    controllers: Vec<String>,
    mount: PathBuf,
    /// To be tried in this order.
    candidates: Vec<PathBuf>,
}

/// Decides where the cgroup of container `id` goes; none if no hierarchy is mounted.
///
/// An absolute `cgroups_path` is taken from the mount on, a relative one (without one: the id) from the
/// caller's own cgroup. Where version 2 is alone, from the parent of that first, as in runc: a cgroup
/// with processes cannot hand controllers to its children.
///
/// `privileged` says whether the caller is root on the host, to whom a refusal is an error.
///
/// # Errors
///
/// A path with `..`, or one that names the hierarchy's root.
pub fn plan(
    hierarchies: &Hierarchies,
    id: &str,
    cgroups_path: Option<&Path>,
    privileged: bool,
) -> Result<Option<CgroupPlan>> {
    let given = cgroups_path.filter(|path| !path.as_os_str().is_empty());
    let path = given.unwrap_or(Path::new(id));
    let name = below(path).with_context(|| format!("/linux/cgroupsPath {}", path.display()))?;
    let place = |hierarchy: &Hierarchy| {
        let bases = match hierarchy.own.parent() {
            _ if path.is_absolute() => vec![hierarchy.mount.as_path()],
            Some(parent) if hierarchies.is_unified() && hierarchy.own != hierarchy.mount => {
                vec![parent, hierarchy.own.as_path()]
            }
            _ => vec![hierarchy.own.as_path()],
        };
        Place {
            controllers: hierarchy.controllers.clone(),
            mount: hierarchy.mount.clone(),
            candidates: bases.into_iter().map(|base| base.join(&name)).collect(),
        }
    };
    let places = hierarchies.all().map(place).collect::<Vec<_>>();
    Ok((!places.is_empty()).then_some(CgroupPlan { places, must: privileged }))
}

/// `path` without its root and without `.`.
fn below(path: &Path) -> Result<PathBuf> {
    let mut name = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => name.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => bail!("may not contain `..`"),
        }
    }
    ensure!(!name.as_os_str().is_empty(), "names the root of the hierarchy");
    Ok(name)
}

impl CgroupPlan {
    /// Makes the directories. A caller without the right to gets those that he may make, or none.
    ///
    /// # Errors
    ///
    /// A refusal to root, or to anybody who asked for `limits`; a cgroup that is there already and
    /// holds processes. What was made is removed again.
    pub fn create(&self, limits: &Limits) -> Result<Option<Cgroup>> {
        let mut made = Cgroup { privileged: self.must, ..Cgroup::default() };
        let mut refusal = None;
        for place in &self.places {
            match place.create() {
                Ok(directory) => made.add(directory),
                Err(error) if !self.must && is_refusal(&error) => {
                    log::debug!("no cgroup in {}: {error}", place.mount.display());
                    refusal = Some(error);
                }
                Err(error) => {
                    let _best_effort = made.remove();
                    let path = place.candidates[0].display();
                    return Err(error).with_context(|| format!("make cgroup {path}"));
                }
            }
        }
        if !made.is_empty() {
            return Ok(Some(made));
        }
        limits.refuse_without_cgroup()?;
        // Version 1 is never for ordinary users: there is nothing that they could do.
        if let Some(error) = refusal.filter(|_| self.places.iter().all(Place::is_unified)) {
            log::warn!(
                "the container gets no cgroup of its own, since none may be made: {error} (cure: \
                 systemd-run --user --scope -p Delegate=yes, or --systemd-cgroup; or say \
                 --cgroup-manager disabled)"
            );
        }
        Ok(None)
    }

    /// Removes what a creation that died has left. Its processes end by themselves and are waited
    /// for; directories with others' processes are not touched.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there are processes after 2 s.
    pub fn remove_remains(&self) -> Result<()> {
        let mut remains = Cgroup { privileged: self.must, ..Cgroup::default() };
        for place in &self.places {
            for path in place.candidates.iter().filter(|path| path.is_dir()) {
                remains.add(Directory {
                    controllers: place.controllers.clone(),
                    mount: place.mount.clone(),
                    path: path.clone(),
                });
            }
        }
        remains.remove()
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(errno_of(error), Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ENOENT)
}

impl Place {
    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn create(&self) -> io::Result<Directory> {
        let mut refusal = None;
        for path in &self.candidates {
            match self.create_at(path) {
                Ok(()) => {
                    return Ok(Directory {
                        controllers: self.controllers.clone(),
                        mount: self.mount.clone(),
                        path: path.clone(),
                    });
                }
                Err(error) if is_refusal(&error) => refusal.get_or_insert(error),
                Err(error) => return Err(error),
            };
        }
        Err(refusal.unwrap_or_else(|| Errno::ENOENT.into()))
    }

    fn create_at(&self, path: &Path) -> io::Result<()> {
        const ALL: Mode = Mode::from_bits_truncate(0o755);
        let is_cpuset = self.controllers.iter().any(|name| name == "cpuset");
        match mkdir(path, ALL) {
            Ok(()) if is_cpuset => return fill_cpuset(path, &self.mount),
            Ok(()) => return Ok(()),
            Err(Errno::ENOENT) => fs::create_dir_all(path)?,
            Err(Errno::EEXIST) => must_be_free(path)?,
            Err(errno) => return Err(errno.into()),
        }
        if is_cpuset {
            for file in CPUSET {
                inherited(path, &self.mount, file)?;
            }
        }
        Ok(())
    }
}

/// Makes the directory `path` of `hierarchy` and those above it, as they must be to take processes.
///
/// # Errors
///
/// Those of `mkdir(2)`; a cpuset that nobody above has processors for.
pub(super) fn make_with_parents(path: &Path, hierarchy: &Hierarchy) -> Result<()> {
    let make = || -> io::Result<()> {
        fs::create_dir_all(path)?;
        if hierarchy.controllers.iter().any(|name| name == "cpuset") {
            for file in CPUSET {
                inherited(path, &hierarchy.mount, file)?;
            }
        }
        Ok(())
    };
    make().with_context(|| format!("make cgroup {}", path.display()))
}

/// A cgroup that somebody else uses must not become ours: delete would kill what is in it. In one that
/// is frozen, init would stand still for ever.
fn must_be_free(path: &Path) -> io::Result<()> {
    let cure = "cure: another cgroupsPath or id";
    if !files::read(&path.join("cgroup.procs"))?.is_empty() {
        return Err(io::Error::other(format!("container's cgroup is not empty ({cure})")));
    }
    let is_frozen = [("freezer.state", "THAWED"), ("cgroup.freeze", "0")]
        .iter()
        .any(|(file, no)| files::read(&path.join(file)).is_ok_and(|state| state.trim_end() != *no));
    if is_frozen {
        let text = format!("container's cgroup unexpectedly frozen ({cure}, or thaw it)");
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// No process may enter a cpuset of version 1 without processors and memory nodes, and a new one has
/// neither: it gets its parent's.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

fn fill_cpuset(path: &Path, mount: &Path) -> io::Result<()> {
    CPUSET.into_iter().try_for_each(|file| fill(path, mount, file).map(drop))
}

fn fill(path: &Path, mount: &Path, file: &str) -> io::Result<String> {
    let from = path.parent().unwrap_or(mount);
    let text = inherited(from, mount, file)?;
    files::write(&path.join(file), text.trim_end())?;
    Ok(text)
}

/// What `path` has, after it got its parent's if it had nothing.
fn inherited(path: &Path, mount: &Path, file: &str) -> io::Result<String> {
    let own = files::read(&path.join(file))?;
    if own.trim_end().is_empty() && path != mount { fill(path, mount, file) } else { Ok(own) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "1 0 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu\n\
                          2 0 0:2 / /cg/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str = "2 0 0:2 / /cg rw - cgroup2 cgroup2 rw\n";

    fn candidates(mounts: &str, own: &str, path: Option<&str>) -> Vec<Vec<String>> {
        let hierarchies = Hierarchies::parse(mounts, own);
        let plan = plan(&hierarchies, "web", path.map(Path::new), true).unwrap().unwrap();
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        plan.places.iter().map(|place| place.candidates.iter().map(text).collect()).collect()
    }

    #[test]
    fn where_the_cgroup_goes() {
        for (mounts, own, path, expected) in [
            (
                HYBRID,
                "1:cpu:/a\n0::/b\n",
                None,
                vec![vec!["/cg/cpu/a/web"], vec!["/cg/unified/b/web"]],
            ),
            (
                HYBRID,
                "1:cpu:/a\n0::/b\n",
                Some("/x/y"),
                vec![vec!["/cg/cpu/x/y"], vec!["/cg/unified/x/y"]],
            ),
            (HYBRID, "1:cpu:/\n", Some("x/./y"), vec![vec!["/cg/cpu/x/y"]]),
            (V2, "0::/\n", None, vec![vec!["/cg/web"]]),
            (V2, "0::/a/b\n", Some(""), vec![vec!["/cg/a/web", "/cg/a/b/web"]]),
            (V2, "0::/a/b\n", Some("/x"), vec![vec!["/cg/x"]]),
        ] {
            assert_eq!(candidates(mounts, own, path), expected, "{own:?} {path:?}");
        }
    }

    #[test]
    fn a_path_may_not_climb() {
        let hierarchies = Hierarchies::parse(V2, "0::/\n");
        for path in ["..", "/a/../b", "a/..", "/", "."] {
            let error = plan(&hierarchies, "web", Some(Path::new(path)), true).unwrap_err();
            assert!(format!("{error:#}").starts_with("/linux/cgroupsPath "), "{error:#}");
        }
    }

    #[test]
    fn without_hierarchies_there_is_no_plan() {
        assert_eq!(plan(&Hierarchies::default(), "web", None, true).unwrap(), None);
    }
}
