//! The last steps of a process of ours inside: it takes the program's identity and becomes it.
//! The same for init and for `exec`.

use std::ffi::{CStr, CString, OsStr};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, PosixFadviseAdvice, open, posix_fadvise};
use nix::sys::prctl;
use nix::sys::stat::{Mode, makedev, umask};
use nix::unistd::{
    AccessFlags, Gid, Uid, chdir, execve, faccessat, getcwd, setgroups, setresgid, setresuid,
};

use crate::confine::capabilities::Sets;
use crate::confine::labels::Opened;
use crate::confine::landlock::Ruleset;
use crate::confine::rlimits;
use crate::confine::seccomp::Program as Filter;
use crate::plan::identity::Program;
use crate::process::channel::Channel;
use crate::process::protocol::{ToInit, ToParent};
use crate::sys::process::close_on_exec_from;

/// Where a program is looked for if its environment has no `PATH` (POSIX `_CS_PATH`, and `sbin`).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of the program's file is read ahead, in bytes: all of a shell, and as many requests as the
/// overlay's server lets wait.
const MOST_AHEAD: i64 = 2 << 20;

/// What a file system reads ahead at once at the most, in bytes, whatever it is asked for (Linux
/// `mm/readahead.c`, `force_page_cache_ra()`, for one that says nothing of itself).
const AHEAD_AT_ONCE: i64 = 128 << 10;

/// The longest `/etc/passwd` that is read, in bytes: it belongs to the image.
const LONGEST_PASSWD: u64 = 1 << 20;

/// What a process needs in order to become its program.
#[derive(Debug)]
pub struct Ready<'a> {
    program: &'a Program,
    executable: CString,
    environment: Vec<CString>,
    capabilities: Sets,
    labels: Opened,
    ruleset: Option<Ruleset>,
    is_filtered: bool,
}

/// Takes the identity of `program`, inside its root, and finds its file; `labels` are its own.
///
/// Afterwards nothing is privileged any more, except what [`Ready::become_program`] needs to
/// install the filter for system calls.
///
/// # Errors
///
/// In runc's words where engines look for them: an executable that is not there or may not be run.
pub fn prepare(program: &Program, labels: Opened) -> anyhow::Result<Ready<'_>> {
    rlimits::apply(&program.rlimits)?;
    program.attributes.apply()?;
    let environment = environment(program);
    let ruleset = program.landlock.as_ref().map(Ruleset::build).transpose()?;
    let capabilities = program.capabilities;
    capabilities.apply_bounding()?;
    capabilities.keep_on_user_change()?;
    // As with runc, it may be a directory that only one of the two may enter.
    let entered = enter_working_directory(&program.directory);
    take_user(program)?;
    interim(program, capabilities).apply()?;
    if program.no_new_privileges {
        prctl::set_no_new_privs().context("set no_new_privs")?;
    }
    umask(Mode::from_bits_truncate(program.umask.unwrap_or(0o022)));
    if entered.is_err() {
        enter_working_directory(&program.directory)?;
    }
    let executable = find(program, &environment)?;
    Ok(Ready {
        program,
        executable,
        environment,
        capabilities,
        labels,
        ruleset,
        is_filtered: false,
    })
}

/// The capabilities to keep until the last restrictions are in force.
fn interim(program: &Program, last: Sets) -> Sets {
    let restricts = program.seccomp.is_some() || program.landlock.is_some();
    if restricts && !program.no_new_privileges { last.with_sys_admin() } else { last }
}

impl Ready<'_> {
    /// The environment that the program will have.
    #[must_use]
    pub fn environment(&self) -> &[CString] {
        &self.environment
    }

    /// Has the program's file read ahead, without waiting for it: a server in user space is then asked for
    /// many parts at once, and no more for one after the other with each page that is missing.
    pub fn read_ahead(&self) {
        let path = self.executable.as_c_str();
        // Neither a device nor a fifo is opened.
        let Ok(stat) = nix::sys::stat::stat(path) else { return };
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        // The first file that is closed costs a request, to which the server says that no other need be:
        // better now than behind all that is read.
        drop(open(path, flags, Mode::empty()));
        // What may only be executed is read when it is.
        let Ok(file) = open(path, flags, Mode::empty()) else { return };
        let end = stat.st_size.min(MOST_AHEAD);
        let mut offset = 0;
        while offset < end {
            let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            if posix_fadvise(&file, offset, AHEAD_AT_ONCE, advice).is_err() {
                return;
            }
            offset += AHEAD_AT_ONCE;
        }
    }

    /// Installs the filter for system calls ahead of the other last steps, with the command that `parent`
    /// leads to on the other side. From then on the profile must allow what this process still needs.
    ///
    /// # Errors
    ///
    /// Those of `seccomp(2)`, and that no agent was told.
    pub fn filter(&mut self, parent: &Channel<ToParent, ToInit>) -> anyhow::Result<()> {
        self.is_filtered = true;
        match self.program.seccomp.as_ref().map(Filter::install).transpose()?.flatten() {
            Some(listener) => hand_over(&listener, parent),
            None => Ok(()),
        }
    }

    /// Becomes the program, with `starter` on the other side. Descriptors from `first_closed` upwards are
    /// closed by it; signals are as they were reset when this process began.
    ///
    /// Returns only if that fails.
    #[must_use]
    pub fn become_program(
        &mut self,
        first_closed: u32,
        starter: &Channel<ToParent, ToInit>,
    ) -> anyhow::Error {
        match self.last_steps(first_closed, starter) {
            Ok(()) => {}
            Err(error) => return error,
        }
        let Err(errno) = execve(&self.executable, &self.program.arguments, &self.environment);
        let reason = lower_case(errno);
        anyhow!("exec {}: {reason}", self.executable.to_string_lossy())
    }

    fn last_steps(
        &mut self,
        first_closed: u32,
        starter: &Channel<ToParent, ToInit>,
    ) -> anyhow::Result<()> {
        close_on_exec_from(first_closed).context("close the descriptors")?;
        self.labels.apply()?;
        if let Some(ruleset) = &self.ruleset {
            ruleset.enforce()?;
        }
        if !self.is_filtered {
            self.filter(starter)?;
        }
        if self.ruleset.is_some() || self.program.seccomp.is_some() {
            self.capabilities.apply()?;
        }
        Ok(())
    }
}

/// Lets the command that starts us pass `listener` on to the agent that answers for system calls: ours
/// too, from now on.
fn hand_over(listener: &OwnedFd, starter: &Channel<ToParent, ToInit>) -> anyhow::Result<()> {
    starter.write(&ToParent::SeccompListener { fd: listener.as_raw_fd() })?;
    match starter.read()? {
        ToInit::ListenerSent => Ok(()),
        other => bail!("expected ListenerSent, not {other:?}"),
    }
}

/// Gives the standard streams to the program's user and group, who may want to open them again by
/// `/dev/stderr`; the null device is everybody's already, and a terminal stays with its group.
fn give_streams(uid: Uid, gid: Gid) {
    for stream in [0, 1, 2] {
        let Ok(stat) = crate::sys::process::stat_number(stream) else { continue };
        if stat.st_uid != uid.as_raw() && stat.st_rdev != makedev(1, 3) {
            let is_device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
            // Files of the host's may not be given away, and need not be.
            let _as_it_was =
                crate::sys::process::chown_number(stream, uid, (!is_device).then_some(gid));
        }
    }
}

fn take_user(program: &Program) -> anyhow::Result<()> {
    let gid = Gid::from_raw(program.gid);
    give_streams(Uid::from_raw(program.uid), gid);
    if let Some(groups) = &program.groups {
        let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        match setgroups(&groups) {
            // Where groups may not be set (a user namespace with one ID), there are none to drop.
            Err(Errno::EPERM) if groups.is_empty() => {}
            result => result.context("set the additional groups")?,
        }
    }
    setresgid(gid, gid, gid).with_context(|| format!("become group {gid}"))?;
    let uid = Uid::from_raw(program.uid);
    setresuid(uid, uid, uid).with_context(|| format!("become user {uid}"))
}

/// Goes to `path` and makes sure that it is inside: a descriptor of the host that leaked would
/// show as a path that cannot be reached (CVE-2024-21626).
fn enter_working_directory(path: &Path) -> anyhow::Result<()> {
    chdir(path).map_err(|errno| {
        anyhow!(
            "chdir to cwd ({}) set in config.json failed: {}",
            path.display(),
            lower_case(errno)
        )
    })?;
    // The kernel says "(unreachable)" before such a path, the C library ENOENT then.
    ensure!(
        getcwd().is_ok_and(|reached| reached.is_absolute()),
        "the working directory {} is outside of the container",
        path.display()
    );
    Ok(())
}

fn environment(program: &Program) -> Vec<CString> {
    let mut environment = program.environment.clone();
    if variable(&environment, "HOME").is_none_or(<[u8]>::is_empty) {
        environment.retain(|entry| !entry.as_bytes().starts_with(b"HOME="));
        let home = home_of(program.uid).unwrap_or_else(|| "/".into());
        environment.extend(CString::new(format!("HOME={home}")));
    }
    environment
}

fn variable<'a>(environment: &'a [CString], name: &str) -> Option<&'a [u8]> {
    environment
        .iter()
        .rev()
        .find_map(|entry| entry.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The home directory of `uid` in the image's `/etc/passwd`.
fn home_of(uid: u32) -> Option<String> {
    let mut options = std::fs::OpenOptions::new();
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = options.read(true).custom_flags(flags.bits()).open("/etc/passwd").ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LONGEST_PASSWD).read_to_end(&mut text).ok()?;
    home_in(&String::from_utf8_lossy(&text), uid)
}

/// The home directory of `uid` in the text of `/etc/passwd`, which the image may have written.
#[must_use]
pub fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let is_user = fields.get(2)?.parse() == Ok(uid);
        let home = fields.get(5).filter(|home| is_user && home.starts_with('/'))?;
        Some((*home).to_owned())
    })
}

/// The file to execute, found as runc finds it, with its words for what is wrong.
fn find(program: &Program, environment: &[CString]) -> anyhow::Result<CString> {
    let Some(name) = program.arguments.first() else { bail!("/process/args: want a program") };
    let text = name.to_string_lossy();
    if name.as_bytes().contains(&b'/') {
        return match check(name) {
            Ok(()) => Ok(name.clone()),
            Err(Errno::ENOENT) => bail!("exec: {text:?}: stat {text}: no such file or directory"),
            Err(Errno::EISDIR) => bail!("exec: {text:?}: is a directory: permission denied"),
            Err(errno) => bail!("exec: {text:?}: {}", lower_case(errno)),
        };
    }
    let path = variable(environment, "PATH").unwrap_or(DEFAULT_PATH.as_bytes());
    let mut worst = None;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let file =
            PathBuf::from(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name.as_bytes()));
        let file = CString::new(file.into_os_string().as_bytes())?;
        match check(&file) {
            Ok(()) => return Ok(file),
            Err(Errno::EACCES) => worst = Some(Errno::EACCES),
            Err(_) => {}
        }
    }
    match worst {
        Some(errno) => bail!("exec: {text:?}: {}", lower_case(errno)),
        None => bail!("exec: {text:?}: executable file not found in $PATH"),
    }
}

/// Whether this process may execute `file`.
fn check(file: &CStr) -> nix::Result<()> {
    let stat = nix::sys::stat::stat(file)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    // Root may "access" what has no execute bit at all; execve would refuse it.
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    faccessat(AT_FDCWD, file, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// The errno's text in lower case, as Go prints it: engines compare it.
fn lower_case(errno: Errno) -> String {
    let mut text = errno.desc().to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_found_by_user_id() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken:x\nada:x:7:7::/home/ada:\nx:x:8:8::rel:\n";
        for (uid, home) in [(0, Some("/root")), (7, Some("/home/ada")), (8, None), (9, None)] {
            assert_eq!(home_in(passwd, uid).as_deref(), home);
        }
    }

    #[test]
    fn the_last_variable_of_a_name_counts() {
        let environment = ["A=1", "PATH=/x", "A=2", "AB=3"].map(|text| CString::new(text).unwrap());
        assert_eq!(variable(&environment, "A"), Some(&b"2"[..]));
        assert_eq!(variable(&environment, "B"), None);
    }

    #[test]
    fn engines_find_their_words() {
        assert_eq!(lower_case(Errno::ENOENT), "no such file or directory");
        assert_eq!(lower_case(Errno::EACCES), "permission denied");
        assert_eq!(check(c"/etc"), Err(Errno::EISDIR));
        assert_eq!(check(c"/etc/passwd"), Err(Errno::EACCES));
        assert_eq!(check(c"/bin/sh"), Ok(()));
    }
}
