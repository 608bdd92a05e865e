//! `linux.intelRdt`: shares of caches and memory bandwidth, by the kernel's resctrl file system.
//!
//! ```text
//! resctrl/                        the default class of service
//!     schemata  tasks  info/
//!     CLASS/                      closID, or the container's name
//!         schemata  tasks
//!         mon_groups/CONTAINER/   with enableMonitoring
//!             tasks
//! ```
//! Source: runtime-spec 1.3, `intelRdt`; Linux `Documentation/filesystems/resctrl.rst`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::unistd::Pid;
use rrun_spec::oci::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::container::ContainerId;

/// Directories that are no class of service.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// Where the processes of a container are in resctrl, and what of that goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resctrl {
    /// The directory of its class of service.
    class: PathBuf,
    /// Whether that was made for it alone.
    own_class: bool,
    /// The directory of its monitoring group, which is always its own.
    monitor: Option<PathBuf>,
}

/// Where resctrl is mounted, by the text of `/proc/self/mountinfo`.
#[must_use]
pub fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, superblock) = line.split_once(" - ")?;
        let is_resctrl = superblock.split(' ').next() == Some("resctrl");
        let place = mount.split(' ').nth(4).filter(|_place| is_resctrl)?;
        Some(PathBuf::from(place))
    })
}

/// Makes the class of service of `id` below `root`, as `wanted` says.
///
/// # Errors
///
/// What cannot be had, with its JSON pointer; nothing is left behind.
pub fn prepare(wanted: &LinuxIntelRdt, root: &Path, id: &ContainerId) -> Result<Resctrl> {
    let name = wanted.clos_id().as_deref().filter(|name| !name.is_empty());
    let class = match name {
        Some("/") => root.to_owned(),
        _ => root.join(name.unwrap_or(id.as_str())),
    };
    let reserved = RESERVED.iter().any(|reserved| class == root.join(reserved));
    ensure!(!reserved, "/linux/intelRdt/closID: {} is no class of service", class.display());
    let exists = class.is_dir();
    if !exists {
        make_class(wanted, &class, name.is_some())?;
    }
    let mut resctrl = Resctrl { class, own_class: !exists && name.is_none(), monitor: None };
    let set = resctrl.share(wanted, root, exists && name.is_some());
    let set = set.and_then(|()| resctrl.add_monitor(wanted, id));
    if let Err(error) = set {
        let made_now = Resctrl { own_class: !exists, ..resctrl };
        let _best_effort = made_now.remove();
        return Err(error);
    }
    Ok(resctrl)
}

fn make_class(wanted: &LinuxIntelRdt, class: &Path, named: bool) -> Result<()> {
    let place = class.display();
    ensure!(
        !named || !lines(wanted).is_empty(),
        "/linux/intelRdt/closID: there is no class of service {place}, and no schema to make one by"
    );
    fs::create_dir(class)
        .with_context(|| format!("/linux/intelRdt: make the class of service {place}"))
}

/// What is to be written to `schemata`, in this order.
fn lines(wanted: &LinuxIntelRdt) -> Vec<&str> {
    let single = [wanted.l3_cache_schema(), wanted.mem_bw_schema()];
    let single = single.into_iter().filter_map(|line| line.as_deref());
    let all = wanted.schemata().iter().flatten().map(String::as_str);
    single.chain(all).filter(|line| !line.is_empty()).collect()
}

impl Resctrl {
    /// Writes the shares; those of a class that others made have to be what is wanted already.
    fn share(&self, wanted: &LinuxIntelRdt, root: &Path, is_others: bool) -> Result<()> {
        let file = self.class.join("schemata");
        let single =
            [("l3CacheSchema", wanted.l3_cache_schema()), ("memBwSchema", wanted.mem_bw_schema())];
        let given = single.map(|(name, line)| (name, line.as_deref().unwrap_or_default()));
        for (name, line) in given.into_iter().filter(|(_, line)| is_others && !line.is_empty()) {
            let place = file.display();
            let present = fs::read_to_string(&file)
                .with_context(|| format!("/linux/intelRdt: read {place}"))?;
            ensure!(
                agrees(line, &present),
                "/linux/intelRdt/{name}: {place} is not {line:?}, and belongs to others too"
            );
        }
        let lines = if is_others {
            wanted.schemata().iter().flatten().map(String::as_str).collect()
        } else {
            lines(wanted)
        };
        if lines.is_empty() {
            return Ok(());
        }
        write_schemata(&file, &lines, root)
    }

    /// Changes shares of the class; what `schemata` do not speak of stays.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what the processor does not have, with the kernel's reason.
    pub fn change(&self, schemata: &[&str]) -> Result<()> {
        let above = self.class.parent().filter(|root| root.join("info").is_dir());
        write_schemata(&self.class.join("schemata"), schemata, above.unwrap_or(&self.class))
    }

    fn add_monitor(&mut self, wanted: &LinuxIntelRdt, id: &ContainerId) -> Result<()> {
        if wanted.enable_monitoring() != &Some(true) {
            return Ok(());
        }
        let monitor = self.class.join("mon_groups").join(id.as_str());
        fs::create_dir(&monitor).with_context(|| {
            format!("/linux/intelRdt/enableMonitoring: make {}", monitor.display())
        })?;
        self.monitor = Some(monitor);
        Ok(())
    }

    /// Puts the process `pid` into it.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended.
    pub fn add(&self, pid: Pid) -> Result<()> {
        for directory in [Some(&self.class), self.monitor.as_ref()].into_iter().flatten() {
            let tasks = directory.join("tasks");
            fs::write(&tasks, pid.to_string())
                .with_context(|| format!("/linux/intelRdt: write {pid} to {}", tasks.display()))?;
        }
        Ok(())
    }

    /// Removes what was made for the container alone.
    ///
    /// # Errors
    ///
    /// Those of `rmdir(2)`, but not that it is gone already.
    pub fn remove(&self) -> Result<()> {
        let class = self.own_class.then_some(&self.class);
        for directory in [self.monitor.as_ref(), class].into_iter().flatten() {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.with_context(|| format!("remove {}", directory.display()))?,
            }
        }
        Ok(())
    }
}

fn write_schemata(file: &Path, lines: &[&str], root: &Path) -> Result<()> {
    fs::write(file, lines.join("\n") + "\n").map_err(|error| {
        let status = fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
        anyhow!("/linux/intelRdt: write {}: {error}: {}", file.display(), status.trim())
    })
}

/// Whether all that `line` says of a resource is what the file `present` says of it.
fn agrees(line: &str, present: &str) -> bool {
    let Some((resource, shares)) = line.split_once(':') else { return false };
    let there = present.lines().filter_map(|line| line.trim().split_once(':'));
    let there: Vec<_> = there
        .filter(|(name, _)| *name == resource.trim())
        .flat_map(|(_, shares)| shares.split(';').filter_map(share))
        .collect();
    shares.split(';').all(|wanted| share(wanted).is_some_and(|wanted| there.contains(&wanted)))
}

/// A domain and its share, without the zeros that the kernel pads with.
fn share(text: &str) -> Option<(&str, String)> {
    let (domain, value) = text.split_once('=')?;
    let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
    Some((domain.trim(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wanted(value: &Value) -> LinuxIntelRdt {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn web() -> ContainerId {
        "web".parse().unwrap()
    }

    fn read(root: &Path, name: &str) -> String {
        fs::read_to_string(root.join(name)).unwrap()
    }

    /// A directory like resctrl, with the class `shared`.
    fn resctrl() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("shared/mon_groups")).unwrap();
        fs::write(root.path().join("shared/schemata"), "    MB:0=100\n    L3:0=00ff;1=0F\n")
            .unwrap();
        root
    }

    #[test]
    fn a_container_without_a_name_for_it_gets_a_class_of_its_own() {
        let root = resctrl();
        let rdt = wanted(&json!({"memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=f",
            "schemata": ["L2:0=1"]}));
        let made = prepare(&rdt, root.path(), &web()).unwrap();
        made.add(Pid::from_raw(77)).unwrap();
        assert_eq!(read(root.path(), "web/schemata"), "L3:0=f\nMB:0=20\nL2:0=1\n");
        assert_eq!(read(root.path(), "web/tasks"), "77");
        made.change(&["L3:0=3"]).unwrap();
        assert_eq!(read(root.path(), "web/schemata"), "L3:0=3\n");
        // The kernel's own files go with their directory.
        fs::remove_file(root.path().join("web/schemata")).unwrap();
        fs::remove_file(root.path().join("web/tasks")).unwrap();
        made.remove().unwrap();
        assert!(!root.path().join("web").exists());
        made.remove().unwrap();
    }

    #[test]
    fn a_class_of_others_is_joined_if_it_is_as_wanted_and_stays() {
        let root = resctrl();
        let rdt = wanted(&json!({"closID": "shared", "l3CacheSchema": "L3:0=ff;1=0f",
            "enableMonitoring": true}));
        let joined = prepare(&rdt, root.path(), &web()).unwrap();
        joined.add(Pid::from_raw(78)).unwrap();
        assert_eq!(read(root.path(), "shared/tasks"), "78");
        assert_eq!(read(root.path(), "shared/mon_groups/web/tasks"), "78");
        fs::remove_file(root.path().join("shared/mon_groups/web/tasks")).unwrap();
        joined.remove().unwrap();
        assert!(root.path().join("shared").exists());
        assert!(!root.path().join("shared/mon_groups/web").exists());

        let other = wanted(&json!({"closID": "shared", "memBwSchema": "MB:0=50"}));
        let error = prepare(&other, root.path(), &web()).unwrap_err().to_string();
        assert!(error.starts_with("/linux/intelRdt/memBwSchema: "), "{error}");
        let root_class = wanted(&json!({"closID": "/"}));
        let joined = prepare(&root_class, root.path(), &web()).unwrap();
        joined.add(Pid::from_raw(79)).unwrap();
        assert_eq!(read(root.path(), "tasks"), "79");
    }

    #[test]
    fn a_class_that_is_not_there_needs_a_schema() {
        let root = resctrl();
        let none = wanted(&json!({"closID": "none"}));
        let error = prepare(&none, root.path(), &web()).unwrap_err().to_string();
        assert!(error.starts_with("/linux/intelRdt/closID: there is no class"), "{error}");
        let made = wanted(&json!({"closID": "none", "schemata": ["L3:0=f"]}));
        prepare(&made, root.path(), &web()).unwrap().remove().unwrap();
        assert!(root.path().join("none").exists(), "it has a name, so it is not ours to remove");
        let info = "info".parse().unwrap();
        assert!(prepare(&wanted(&json!({})), root.path(), &info).is_err());
        // Without a place for monitoring groups nothing is left of the class.
        let monitored = wanted(&json!({"enableMonitoring": true}));
        assert!(prepare(&monitored, root.path(), &web()).is_err());
        assert!(!root.path().join("web").exists());
    }

    #[test]
    fn the_mount_point_is_found() {
        let text = "22 1 0:20 / /proc rw shared:5 - proc proc rw\n\
            40 22 0:33 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw\n";
        assert_eq!(mount_point(text), Some("/sys/fs/resctrl".into()));
        assert_eq!(mount_point("22 1 0:20 / /resctrl rw - proc proc rw\n"), None);
    }
}
