//! Compiled profiles, kept for the next container with the same profile.
//!
//! libseccomp needs 14 ms for docker's default profile, more than all the rest of starting a
//! container, and engines give nearly every container the same one. A directory that is the user's
//! alone holds one file for each profile:
//!
//! ```text
//! key             all that the program depends on, as text without NUL
//! NUL
//! instructions    struct sock_filter, 8 bytes each, in this machine's byte order
//! ```
//! The whole key is compared, so that the file's name, a hash of it, needs no strength. A file that
//! is not as it should be is no error: the profile is compiled again and the file replaced.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use libc::sock_filter;
use libseccomp::ScmpVersion;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use oci_spec::runtime::LinuxSeccomp;

use super::{MAX_INSTRUCTIONS, from_bytes, to_bytes};
use crate::store;

/// To be increased when the same profile gives another program.
const REVISION: u32 = 1;

/// Files that are kept, of about 20 KiB each; the oldest goes first.
const MOST: usize = 64;

/// The place of one profile's program.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    directory: &'a Path,
    path: PathBuf,
    key: Vec<u8>,
}

impl<'a> Entry<'a> {
    /// The place of the program of `profile` in `directory`, which need not exist.
    ///
    /// # Errors
    ///
    /// If the library does not tell its version.
    pub(super) fn of(directory: &'a Path, profile: &LinuxSeccomp) -> Result<Self> {
        let (library, arch) = (ScmpVersion::current()?, std::env::consts::ARCH);
        let ours = env!("CARGO_PKG_VERSION");
        let profile = serde_json::to_string(profile)?;
        let key = format!("rrun {ours}.{REVISION}, libseccomp {library}, {arch}\n{profile}\0");
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let path = directory.join(format!("{:016x}", hasher.finish()));
        Ok(Self { directory, path, key: key.into_bytes() })
    }

    /// The program, if it was kept and nobody else can have written it.
    pub(super) fn read(&self) -> Option<Vec<sock_filter>> {
        let largest = self.key.len() + MAX_INSTRUCTIONS * size_of::<sock_filter>();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path).ok()?;
        let found = file.metadata().ok()?;
        let ours = found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0;
        if !found.is_file() || !ours {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(u64::try_from(largest + 1).ok()?).read_to_end(&mut bytes).ok()?;
        let program = from_bytes(bytes.strip_prefix(&*self.key)?)?;
        (1..=MAX_INSTRUCTIONS).contains(&program.len()).then_some(program)
    }

    /// Keeps `program`; or not, if another command is just keeping one.
    ///
    /// # Errors
    ///
    /// Those of writing a file; a directory that is not the user's alone.
    pub(super) fn keep(&self, program: &[sock_filter]) -> Result<()> {
        store::make_private(self.directory)?;
        let Some(_alone) = lock(self.directory)? else { return Ok(()) };
        make_room(self.directory)?;
        store::replace(&self.path, &[&*self.key, &to_bytes(program)].concat())
    }
}

/// None if somebody else has it.
fn lock(directory: &Path) -> Result<Option<Flock<File>>> {
    let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(directory);
    let opened = opened.with_context(|| format!("open {}", directory.display()))?;
    let found = opened.metadata()?;
    ensure!(
        found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0,
        "{} is not a directory of yours alone",
        directory.display()
    );
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_opened, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_opened, errno)) => bail!("lock {}: {errno}", directory.display()),
    }
}

/// Removes the oldest files until there is room for one more.
fn make_room(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()));
    let age = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut files: Vec<_> = entries?.flatten().filter_map(age).collect();
    files.sort();
    let excess = (files.len() + 1).saturating_sub(MOST);
    for (_age, path) in files.into_iter().take(excess) {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    fn program(answer: u32) -> Vec<sock_filter> {
        vec![sock_filter { code: 6, jt: 1, jf: 2, k: answer }]
    }

    /// A directory that is nobody else's, as long as the first one is kept.
    fn private() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("filters");
        store::make_private(&directory).unwrap();
        (place, directory)
    }

    /// What `keep` wrote for [`PROFILE`], and where.
    fn kept(directory: &Path) -> (PathBuf, Vec<u8>) {
        let profile = profile(PROFILE);
        let entry = Entry::of(directory, &profile).unwrap();
        entry.keep(&program(7)).unwrap();
        (entry.path.clone(), fs::read(&entry.path).unwrap())
    }

    #[test]
    fn what_was_kept_is_read_again_for_the_same_profile_alone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("not/yet/there");
        let (one, other) = (profile(PROFILE), profile(r#"{"defaultAction": "SCMP_ACT_LOG"}"#));
        let entry = Entry::of(&directory, &one).unwrap();
        assert!(entry.read().is_none());
        entry.keep(&program(7)).unwrap();
        assert_eq!(to_bytes(&entry.read().unwrap()), to_bytes(&program(7)));
        entry.keep(&program(8)).unwrap();
        assert_eq!(to_bytes(&entry.read().unwrap()), to_bytes(&program(8)));
        let mut other = Entry::of(&directory, &other).unwrap();
        assert!(other.read().is_none());
        // As if both had the same hash.
        other.path.clone_from(&entry.path);
        assert!(other.read().is_none());
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&entry.path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_not_as_it_should_be_is_not_read() {
        let (_place, directory) = private();
        let (path, good) = kept(&directory);
        let profile = profile(PROFILE);
        let entry = Entry::of(&directory, &profile).unwrap();
        let key = &good[..good.len() - 8];
        for (what, bad) in [
            ("cut off", good[..good.len() - 1].to_vec()),
            ("without a program", key.to_vec()),
            ("longer than the kernel takes", [key, &[0; 8 * (MAX_INSTRUCTIONS + 1)]].concat()),
            ("of another key", [b"x", &good[1..]].concat()),
            ("empty", Vec::new()),
        ] {
            fs::write(&path, bad).unwrap();
            assert!(entry.read().is_none(), "{what}");
        }
        fs::write(&path, [key, &[0; 8 * MAX_INSTRUCTIONS]].concat()).unwrap();
        assert_eq!(entry.read().unwrap().len(), MAX_INSTRUCTIONS);
    }

    #[test]
    fn a_file_that_another_may_have_written_is_not_read() {
        let (_place, directory) = private();
        let (path, _good) = kept(&directory);
        let profile = profile(PROFILE);
        let entry = Entry::of(&directory, &profile).unwrap();
        for (mode, readable) in [(0o620, false), (0o602, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(entry.read().is_some(), readable, "{mode:o}");
        }
        let beside = directory.join("beside");
        fs::rename(&path, &beside).unwrap();
        std::os::unix::fs::symlink(&beside, &path).unwrap();
        assert!(entry.read().is_none(), "a link");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(entry.read().is_none(), "a pipe");
        if geteuid().is_root() {
            fs::remove_file(&path).unwrap();
            fs::rename(&beside, &path).unwrap();
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert!(entry.read().is_none(), "another's");
        }
    }

    #[test]
    fn nothing_is_kept_where_others_can_write() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let profile = profile(PROFILE);
        let error = Entry::of(place.path(), &profile).unwrap().keep(&program(7)).unwrap_err();
        assert!(error.to_string().contains("not a directory of yours alone"), "{error}");
        assert!(fs::read_dir(place.path()).unwrap().next().is_none());
    }

    #[test]
    fn one_command_keeps_at_a_time() {
        let (_place, directory) = private();
        let profile = profile(PROFILE);
        let entry = Entry::of(&directory, &profile).unwrap();
        let other = lock(&directory).unwrap();
        assert!(other.is_some());
        entry.keep(&program(7)).unwrap();
        assert!(entry.read().is_none());
        drop(other);
        entry.keep(&program(7)).unwrap();
        assert!(entry.read().is_some());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let (_place, directory) = private();
        let seconds = std::time::Duration::from_secs;
        for age in 0..MOST + 3 {
            let file = File::create_new(directory.join(format!("{age:02}"))).unwrap();
            let then = std::time::SystemTime::now() - seconds(1000 - u64::try_from(age).unwrap());
            file.set_modified(then).unwrap();
        }
        let (path, _good) = kept(&directory);
        assert!(path.exists());
        let kept = |age: usize| directory.join(format!("{age:02}")).exists();
        assert!(!kept(3) && kept(4));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), MOST);
    }
}
