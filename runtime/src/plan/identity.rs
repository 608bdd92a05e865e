//! Who a program inside is: user, groups, capabilities, limits; the same for `create` and `exec`.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use rrun_spec::oci::{Linux, LinuxCapabilities, Process};

use crate::confine::attributes::{Affinity, Attributes};
use crate::confine::capabilities::{Available, Sets};
use crate::confine::labels::Labels;
use crate::confine::rlimits::{self, Rlimit};
use crate::confine::seccomp;
use crate::host::SecurityModules;
use crate::plan::landlock;
use crate::userns::map::{IdMaps, inside_to_outside};

/// A program to be run inside, with all that confines it.
#[derive(Debug)]
pub struct Program {
    /// Its arguments; the first is its name, looked up in the `PATH` of `environment`.
    pub arguments: Vec<CString>,
    /// Its environment, `NAME=value`.
    pub environment: Vec<CString>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Its user ID inside.
    pub uid: u32,
    /// Its group ID inside.
    pub gid: u32,
    /// Its other groups inside; `None` leaves the caller's.
    pub groups: Option<Vec<u32>>,
    /// Its umask; `None` leaves 0o022.
    pub umask: Option<u32>,
    /// Its capabilities; a configuration that names none gives none, as with runc.
    pub capabilities: Sets,
    /// Its limits.
    pub rlimits: Vec<Rlimit>,
    /// Whether exec can give it no more privileges than it has.
    pub no_new_privileges: bool,
    /// Its badness for the killer of processes when memory runs out; `None` leaves the caller's.
    pub oom_score_adj: Option<i32>,
    /// Whether it gets a terminal of its own.
    pub terminal: bool,
    /// The terminal's columns and lines.
    pub console_size: Option<(u16, u16)>,
    /// How it is scheduled, where its memory lies, what it takes itself for.
    pub attributes: Attributes,
    /// On which processors it is made and runs; only `exec` looks at it.
    pub affinity: Affinity,
    /// What the kernel's security modules call it.
    pub labels: Labels,
    /// What it may touch at all; decided once all else is planned, since that asks the kernel.
    pub landlock: Option<landlock::Profile>,
    /// What system calls it may make; compiled once all else is planned, since that reads files.
    pub seccomp: Option<seccomp::Program>,
}

/// What a program may be given where the container is made.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// The capabilities there are to give.
    pub capabilities: Available,
    /// The IDs of the container's user namespace, if they are known.
    pub maps: Option<&'a IdMaps>,
    /// What holds for all programs of the container.
    pub linux: Option<&'a Linux>,
    /// Whether the caller's groups stay.
    pub keep_groups: bool,
}

/// Whether the annotation asks that the caller's groups stay: podman's `--group-add keep-groups`.
///
/// Source: crun(1), `run.oci.keep_original_groups`.
#[must_use]
pub fn keeps_groups(annotations: &HashMap<String, String>) -> bool {
    annotations.get("run.oci.keep_original_groups").is_some_and(|value| value != "0")
}

impl Program {
    /// The plan of `process`, without a filter yet; warnings are added to `warnings`.
    ///
    /// # Errors
    ///
    /// What cannot be had, with its JSON pointer.
    pub fn plan(
        process: &Process,
        means: Means<'_>,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        let user = process.user();
        let groups = user.additional_gids().clone().unwrap_or_default();
        check_ids(user.uid(), user.gid(), &groups, means.maps)?;
        let wanted = process.capabilities().clone().unwrap_or_else(no_capabilities);
        let (capabilities, dropped) = Sets::new(&wanted, means.capabilities);
        warnings.extend(dropped);
        let rlimits = process.rlimits().as_deref().unwrap_or_default();
        Ok(Self {
            arguments: c_strings(process.args()).context("/process/args")?,
            environment: c_strings(&last_values(process.env())).context("/process/env")?,
            directory: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: (!means.keep_groups).then_some(groups),
            umask: user.umask(),
            capabilities,
            rlimits: rlimits::resolve(rlimits).context("/process/rlimits")?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: process.oom_score_adj(),
            terminal: process.terminal().unwrap_or(false),
            console_size: process.console_size().and_then(|size| {
                let side = |length: u64| u16::try_from(length).ok().filter(|length| *length > 0);
                Some((side(size.width())?, side(size.height())?))
            }),
            attributes: Attributes::plan(process, means.linux)?,
            affinity: Affinity::plan(process.exec_cpu_affinity().as_ref())?,
            labels: Labels::plan(process, SecurityModules::probe)?,
            landlock: None,
            seccomp: None,
        })
    }

    /// Tells the program, which is process 1 as a rule, of `count` sockets from descriptor 3 on
    /// (`sd_listen_fds(3)`).
    pub fn announce_sockets(&mut self, count: u32) {
        let is_old = |pair: &CString| {
            let text = pair.to_bytes();
            text.starts_with(b"LISTEN_FDS=") || text.starts_with(b"LISTEN_PID=")
        };
        self.environment.retain(|pair| !is_old(pair));
        self.environment.extend(CString::new(format!("LISTEN_FDS={count}")));
        self.environment.push(c"LISTEN_PID=1".to_owned());
    }
}

/// No capability at all; the library's default has some.
#[must_use]
pub fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None).set_effective(None).set_permitted(None);
    none.set_inheritable(None).set_ambient(None);
    none
}

/// `environment` without the values that a later one of the same name replaces: getenv(3) would take
/// the first.
fn last_values(environment: &Option<Vec<String>>) -> Option<Vec<String>> {
    let mut names = HashSet::new();
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let mut kept: Vec<String> = environment
        .iter()
        .flatten()
        .rev()
        .filter(|pair| names.insert(name(pair)))
        .cloned()
        .collect();
    kept.reverse();
    Some(kept)
}

fn c_strings(texts: &Option<Vec<String>>) -> anyhow::Result<Vec<CString>> {
    let texts = texts.as_deref().unwrap_or_default();
    texts.iter().map(|text| CString::new(text.as_str()).context("holds a NUL byte")).collect()
}

fn check_ids(uid: u32, gid: u32, groups: &[u32], maps: Option<&IdMaps>) -> anyhow::Result<()> {
    let Some(maps) = maps else { return Ok(()) };
    let cure = "map it in linux.uidMappings and linux.gidMappings, or choose a mapped one";
    ensure!(
        inside_to_outside(&maps.uids, uid).is_some(),
        "/process/user/uid: user ID {uid} is not mapped in the user namespace: {cure}"
    );
    for (pointer, gid) in
        std::iter::once(("gid", gid)).chain(groups.iter().map(|gid| ("additionalGids", *gid)))
    {
        ensure!(
            inside_to_outside(&maps.gids, gid).is_some(),
            "/process/user/{pointer}: group ID {gid} is not mapped in the user namespace: {cure}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userns::map::IdMap;

    #[test]
    fn the_last_value_of_a_name_counts() {
        let given = ["A=1", "PATH=/bin", "A=2=3", "AB=4"].map(str::to_owned).to_vec();
        assert_eq!(last_values(&Some(given)).unwrap(), ["PATH=/bin", "A=2=3", "AB=4"]);
        assert_eq!(last_values(&None).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_id_that_nobody_has_is_refused_with_its_pointer() {
        let maps = IdMaps {
            uids: vec![IdMap { inside: 0, outside: 1000, count: 1 }],
            gids: vec![IdMap { inside: 0, outside: 1000, count: 6 }],
        };
        let refusal = |uid, gid, groups: &[u32]| {
            check_ids(uid, gid, groups, Some(&maps)).map_err(|error| error.to_string())
        };
        assert!(refusal(0, 5, &[1, 2]).is_ok());
        assert!(refusal(1, 0, &[]).unwrap_err().starts_with("/process/user/uid"));
        assert!(refusal(0, 6, &[]).unwrap_err().starts_with("/process/user/gid"));
        assert!(refusal(0, 0, &[7]).unwrap_err().starts_with("/process/user/additionalGids"));
    }
}
