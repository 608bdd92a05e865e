//! Landlock (`landlock(7)`): a program gives up, for ever and for its children, what its profile does
//! not allow.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::plan::landlock::{LANDLOCK, Profile};
use crate::sys::landlock::{allow_path, allow_port, create_ruleset, restrict};

/// The rights that a file can have which is no directory: `ACCESS_FILE` of Linux
/// `security/landlock/fs.c`.
const OF_FILES: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15;

/// A profile whose paths were found.
#[derive(Debug)]
pub struct Ruleset(OwnedFd);

impl Ruleset {
    /// Finds the paths of `profile`, as this process sees them, which is inside its root.
    ///
    /// # Errors
    ///
    /// A path that is not there, with its JSON pointer.
    pub fn build(profile: &Profile) -> Result<Self> {
        let ruleset = create_ruleset(profile.handled).context("make a Landlock ruleset")?;
        for (path, rights) in &profile.paths {
            let allow = || -> nix::Result<()> {
                let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
                let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT;
                let possible = if kind == SFlag::S_IFDIR { u64::MAX } else { OF_FILES };
                match rights & possible {
                    0 => Ok(()),
                    rights => allow_path(ruleset.as_fd(), file.as_fd(), rights),
                }
            };
            let path = path.display();
            allow().with_context(|| format!("/annotations/{LANDLOCK}/paths: {path}"))?;
        }
        for (port, rights) in &profile.ports {
            allow_port(ruleset.as_fd(), *port, *rights)
                .with_context(|| format!("/annotations/{LANDLOCK}/tcp: {port}"))?;
        }
        Ok(Self(ruleset))
    }

    /// Puts this process under it.
    ///
    /// # Errors
    ///
    /// `EPERM` without `no_new_privs` or `CAP_SYS_ADMIN` in the user namespace.
    pub fn enforce(&self) -> Result<()> {
        restrict(self.0.as_fd()).context("enforce the Landlock profile")
    }
}
