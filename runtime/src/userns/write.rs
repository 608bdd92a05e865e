//! Id maps reach the kernel: directly where we may, else through newuidmap and newgidmap.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, Pid, access, getegid, geteuid};

use super::map::{self, IdMap, IdMaps};

/// A setuid program of the package uidmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// newuidmap
    Uids,
    /// newgidmap
    Gids,
}

impl Helper {
    fn program(self) -> &'static str {
        match self {
            Self::Uids => "newuidmap",
            Self::Gids => "newgidmap",
        }
    }

    fn ranges_file(self) -> &'static str {
        match self {
            Self::Uids => "/etc/subuid",
            Self::Gids => "/etc/subgid",
        }
    }
}

/// Where `helper` is: in `/usr/bin`, else the first of its name in `PATH` that we may execute.
#[must_use]
pub fn find(helper: Helper) -> Option<PathBuf> {
    let usual = Path::new("/usr/bin").join(helper.program());
    let executable = |path: &PathBuf| access(path, AccessFlags::X_OK).is_ok();
    Some(usual).filter(executable).or_else(|| {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|dir| dir.join(helper.program())).find(executable)
    })
}

/// Writes the id maps of the user namespace that `pid` has just made.
///
/// Called by the process that made it, from the parent namespace, once. `pid` must be dumpable:
/// otherwise its files in `/proc` belong to root. With capabilities the maps are written directly;
/// so is the single own id, for which `setgroups` is denied first, as the kernel demands; anything
/// else is asked of newuidmap and newgidmap, which run at the same time.
///
/// # Errors
///
/// The cause and its cure: a range that is not the caller's, a helper that is missing or not setuid,
/// user namespaces restricted by the administrator.
///
/// Source: `user_namespaces(7)`.
pub fn write_maps(pid: Pid, maps: &IdMaps) -> Result<()> {
    let may = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    if may(Capability::CAP_SETUID) && may(Capability::CAP_SETGID) {
        write_files(pid, maps)
    } else if maps.is_only(geteuid().as_raw(), getegid().as_raw()) {
        write_file(pid, "setgroups", "deny")?;
        write_files(pid, maps)
    } else {
        ask_helpers(pid, maps)
    }
}

fn write_files(pid: Pid, maps: &IdMaps) -> Result<()> {
    write_file(pid, "uid_map", &map::text(&maps.uids))?;
    write_file(pid, "gid_map", &map::text(&maps.gids))
}

fn write_file(pid: Pid, name: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{name}");
    let written = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let hint = match errno {
            Errno::EPERM | Errno::EACCES => {
                format!(": {}", explain_userns_refusal(errno))
            }
            _ => String::new(),
        };
        anyhow!("write {:?} to {path}: {errno}{hint}", text.trim_end())
    })
}

fn ask_helpers(pid: Pid, maps: &IdMaps) -> Result<()> {
    let started = [(Helper::Uids, &maps.uids), (Helper::Gids, &maps.gids)]
        .map(|(helper, ranges)| (helper, start(helper, pid, ranges)));
    // Both are waited for, whatever the first one says: none may stay behind as a zombie.
    let ended = started.map(|(helper, child)| finish(helper, child?));
    ended.into_iter().collect()
}

fn start(helper: Helper, pid: Pid, ranges: &[IdMap]) -> Result<Child> {
    let program = find(helper).with_context(|| {
        let (name, file) = (helper.program(), helper.ranges_file());
        format!("map ids of {file}: no {name} in PATH (cure: apt install uidmap)")
    })?;
    let words = ranges.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    Command::new(&program)
        .arg(pid.to_string())
        .args(words.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", program.display()))
}

fn finish(helper: Helper, child: Child) -> Result<()> {
    let output =
        child.wait_with_output().with_context(|| format!("wait for {}", helper.program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default().trim();
    bail!("{} ({}): {}", said, output.status, helper_cure(helper, said))
}

/// What to do about a helper's complaint.
fn helper_cure(helper: Helper, said: &str) -> String {
    let (name, file) = (helper.program(), helper.ranges_file());
    if said.contains("not allowed") {
        return format!("a range is not the caller's (cure: add it to {file}, or ask for less)");
    }
    if said.contains("user name") {
        return "the caller has no line in /etc/passwd (cure: run as a user who has one)"
            .to_owned();
    }
    match find(helper).filter(|program| !is_privileged(program)) {
        Some(program) => format!(
            "{name} is not setuid root (cure: sudo chmod u+s {0} or apt install --reinstall uidmap)",
            program.display()
        ),
        None => explain_userns_refusal(Errno::EPERM),
    }
}

/// Whether `program` is root's when executed: setuid, or with file capabilities.
fn is_privileged(program: &Path) -> bool {
    const SETUID: u32 = 0o4000;
    let setuid = |data: fs::Metadata| data.uid() == 0 && data.permissions().mode() & SETUID != 0;
    fs::metadata(program).is_ok_and(setuid) || crate::sys::filter::has_file_capabilities(program)
}

/// The switches with which an administrator takes user namespaces away.
#[derive(Clone, Copy)]
struct Switches {
    most: Option<u64>,
    unprivileged_clone: Option<u64>,
    apparmor_restricts: Option<u64>,
}

/// Says why the kernel refused to make a user namespace, or to let it be used, and what cures it.
#[must_use]
pub fn explain_userns_refusal(errno: Errno) -> String {
    let number = |name| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
        text.trim().parse().ok()
    };
    explain(
        errno,
        &Switches {
            most: number("user/max_user_namespaces"),
            unprivileged_clone: number("kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("kernel/apparmor_restrict_unprivileged_userns"),
        },
    )
}

fn explain(errno: Errno, switches: &Switches) -> String {
    if switches.most == Some(0) {
        "user namespaces are switched off (cure: sudo sysctl user.max_user_namespaces=15000)"
            .to_owned()
    } else if switches.unprivileged_clone == Some(0) {
        "user namespaces are switched off for ordinary users (cure: sudo sysctl \
         kernel.unprivileged_userns_clone=1)"
            .to_owned()
    } else if matches!(errno, Errno::ENOSPC | Errno::EUSERS) {
        "there are too many user namespaces, or they are nested too deeply (cure: fewer containers, \
         or a larger sysctl user.max_user_namespaces)"
            .to_owned()
    } else if switches.apparmor_restricts.is_some_and(|value| value != 0) {
        "AppArmor keeps ordinary users from using user namespaces (cure: a profile for rrun that \
         says `userns,`, or sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
            .to_owned()
    } else {
        format!(
            "the kernel refused the user namespace with {errno}: a chroot, a seccomp filter, \
             no_new_privs or an outer container forbids it (cure: start rrun outside of it)"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

    use super::*;
    use crate::sys::filter::tests::in_child;
    use crate::userns::subid::rootless_maps;

    /// A process in a new user namespace without maps.
    struct Namespace(Child);

    impl Namespace {
        fn new() -> Self {
            let mut command = Command::new("unshare");
            let mut namespace = Self(command.args(["--user", "sleep", "1000"]).spawn().unwrap());
            let link = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).unwrap();
            while link(&namespace.pid().to_string()) == link("self") {
                let ended = namespace.0.try_wait().unwrap();
                assert!(ended.is_none(), "unshare --user: {ended:?}");
                sleep(Duration::from_millis(1));
            }
            namespace
        }

        fn pid(&self) -> Pid {
            Pid::from_raw(i32::try_from(self.0.id()).unwrap())
        }

        fn shown(&self, file: &str) -> Vec<IdMap> {
            map::parse(&fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap())
                .unwrap()
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            // Whoever has ended cannot be killed; waiting is right for both.
            let _ended_already = self.0.kill();
            self.0.wait().unwrap();
        }
    }

    /// Becomes somebody without privileges and without subordinate ids, if we are root.
    fn become_nobody() {
        const NOBODY: u32 = 65_534;
        if geteuid().is_root() {
            setgroups(&[]).unwrap();
            setgid(Gid::from_raw(NOBODY)).unwrap();
            setuid(Uid::from_raw(NOBODY)).unwrap();
        }
    }

    #[test]
    fn the_maps_of_whoever_runs_this_arrive() {
        let (maps, _warning) = rootless_maps().unwrap();
        let namespace = Namespace::new();
        write_maps(namespace.pid(), &maps).unwrap();
        assert_eq!(namespace.shown("uid_map"), maps.uids);
        assert_eq!(namespace.shown("gid_map"), maps.gids);
    }

    #[test]
    fn anybody_may_map_his_own_ids() {
        in_child(|| {
            become_nobody();
            let maps = IdMaps::single(geteuid().as_raw(), getegid().as_raw());
            let namespace = Namespace::new();
            write_maps(namespace.pid(), &maps).unwrap();
            assert_eq!(namespace.shown("uid_map"), maps.uids);
            assert_eq!(namespace.shown("gid_map"), maps.gids);
            let error = format!("{:#}", write_maps(namespace.pid(), &maps).unwrap_err());
            assert!(error.contains("/proc/") && error.contains("EPERM"), "{error}");
        });
    }

    #[test]
    fn a_range_of_somebody_else_is_refused_with_the_cure() {
        in_child(|| {
            become_nobody();
            let stolen = vec![IdMap { inside: 0, outside: 5, count: 10 }];
            let maps = IdMaps { uids: stolen.clone(), gids: stolen };
            let namespace = Namespace::new();
            let error = format!("{:#}", write_maps(namespace.pid(), &maps).unwrap_err());
            assert!(error.starts_with("newuidmap: "), "{error}");
            assert!(error.contains("/etc/subuid"), "{error}");
            assert_eq!(namespace.shown("uid_map"), []);
        });
    }

    #[test]
    fn only_root_maps_any_range() {
        let range = vec![IdMap { inside: 0, outside: 4_000_000_000, count: 1000 }];
        let maps = IdMaps { uids: range.clone(), gids: range };
        let namespace = Namespace::new();
        let written = write_maps(namespace.pid(), &maps);
        if geteuid().is_root() {
            written.unwrap();
            assert_eq!(namespace.shown("gid_map"), maps.gids);
        } else {
            assert!(format!("{:#}", written.unwrap_err()).contains("is not the caller's"));
        }
    }

    #[test]
    fn every_switch_has_its_cure() {
        let on = Switches { most: Some(100), unprivileged_clone: None, apparmor_restricts: None };
        for (errno, switches, cure) in [
            (Errno::ENOSPC, Switches { most: Some(0), ..on }, "user.max_user_namespaces=15000"),
            (
                Errno::EPERM,
                Switches { unprivileged_clone: Some(0), ..on },
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                Errno::EPERM,
                Switches { apparmor_restricts: Some(1), ..on },
                "apparmor_restrict_unprivileged_userns=0",
            ),
            (Errno::EUSERS, Switches { apparmor_restricts: Some(0), ..on }, "nested too deeply"),
            (Errno::EPERM, on, "a chroot, a seccomp filter"),
        ] {
            let text = explain(errno, &switches);
            assert!(text.contains(cure) && text.contains("(cure: "), "{text}");
        }
    }

    #[test]
    fn helpers_are_known_by_their_complaints() {
        let said = "newuidmap: uid range [0-10) -> [5-15) not allowed";
        assert!(helper_cure(Helper::Uids, said).contains("add it to /etc/subuid"));
        assert!(
            helper_cure(Helper::Gids, "Cannot determine your user name.").contains("/etc/passwd")
        );
        assert!(is_privileged(&find(Helper::Gids).unwrap()));
        assert!(!is_privileged(Path::new("/bin/sh")));
    }
}
