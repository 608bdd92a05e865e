//! Writable layers that outlive their container: kept across `delete`, gone with `delete --purge`.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::container::ContainerId;
use crate::process::channel::pair;
use crate::store;
use crate::sys::process::{Clone, clone, close_all_but};
use crate::userns::map::{IdMaps, inside_to_outside};
use crate::userns::write::write_maps;

/// The place of one container's writable layer.
#[derive(Debug, Clone)]
pub struct KeptLayer {
    directory: PathBuf,
}

/// The root directory of a container is everybody's to enter.
const UPPER_MODE: u32 = 0o755;

impl KeptLayer {
    /// The layer of `id` below `data_root`, whether it exists or not.
    #[must_use]
    pub fn of(id: &ContainerId, data_root: &Path) -> Self {
        Self { directory: data_root.join("containers").join(id) }
    }

    /// The directory that takes the container's changes.
    #[must_use]
    pub fn upperdir(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// The directory in which the overlay builds what it renames into the upper directory.
    #[must_use]
    pub fn workdir(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Makes the directories, unless an earlier container of this name left them, and says whether
    /// they are new.
    ///
    /// `maps` are those of the container's user namespace: its root is to own the layer.
    ///
    /// # Errors
    ///
    /// Those of making directories, or if the layer was written under other ID maps.
    pub fn prepare(&self, maps: Option<&IdMaps>) -> anyhow::Result<bool> {
        let is_new = !self.directory.exists();
        store::make_private(&self.directory)?;
        self.check_maps(maps)?;
        for directory in [self.upperdir(), self.workdir()] {
            match fs::create_dir(&directory) {
                Ok(()) => hand_over(&directory, maps)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("make directory {}", directory.display()));
                }
            }
        }
        Ok(is_new)
    }

    fn check_maps(&self, maps: Option<&IdMaps>) -> anyhow::Result<()> {
        let is_new = !self.upperdir().exists();
        match (self.maps()?, maps) {
            (None, Some(maps)) if is_new => store::replace(&self.ids(), &serde_json::to_vec(maps)?),
            (kept, maps) if kept.as_ref() == maps => Ok(()),
            _ => bail!(
                "the writable layer {} was written under other user ID maps: use those again, \
                 or remove it with delete --purge",
                self.directory.display()
            ),
        }
    }

    fn ids(&self) -> PathBuf {
        self.directory.join("ids.json")
    }

    /// The maps the layer was made under; `None` if its IDs are those of the host.
    fn maps(&self) -> anyhow::Result<Option<IdMaps>> {
        let path = self.ids();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Removes the layer and says whether there was one.
    ///
    /// # Errors
    ///
    /// Those of removing files.
    pub fn purge(&self) -> anyhow::Result<bool> {
        if !self.directory.exists() {
            return Ok(false);
        }
        match self.maps()? {
            Some(maps) if !nix::unistd::geteuid().is_root() => self.empty_as_owner(&maps)?,
            _ => {}
        }
        fs::remove_dir_all(&self.directory)
            .with_context(|| format!("remove {}", self.directory.display()))?;
        Ok(true)
    }

    /// Removes the files in a user namespace in which they are ours.
    fn empty_as_owner(&self, maps: &IdMaps) -> anyhow::Result<()> {
        let (here, there) = pair::<(), String>()?;
        let new =
            Clone { namespaces: libc::CLONE_NEWUSER.cast_unsigned().into(), ..Clone::default() };
        let child = clone(new, || {
            let alone = close_all_but(0, &[there.as_fd()]).map_err(anyhow::Error::from);
            match alone.and_then(|()| there.receive()).and_then(|()| self.remove_contents()) {
                Ok(()) => 0,
                Err(error) => {
                    let _parent_sees_the_exit_code = there.send(&format!("{error:#}"));
                    1
                }
            }
        })
        .map_err(|errno| anyhow!(crate::userns::write::explain_userns_refusal(errno)))?;
        drop(there);
        let mapped = write_maps(child.pid, maps).and_then(|()| here.send(&()));
        let complaint = here.receive();
        match waitpid(child.pid, None)? {
            WaitStatus::Exited(_, 0) => mapped,
            _ => Err(mapped.err().unwrap_or_else(|| anyhow!(complaint.unwrap_or_default()))),
        }
    }

    fn remove_contents(&self) -> anyhow::Result<()> {
        nix::unistd::setresgid(0.into(), 0.into(), 0.into())?;
        nix::unistd::setresuid(0.into(), 0.into(), 0.into())?;
        for directory in [self.upperdir(), self.workdir()] {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", directory.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes the container's root the owner of `directory`.
fn hand_over(directory: &Path, maps: Option<&IdMaps>) -> anyhow::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(UPPER_MODE))?;
    let Some(maps) = maps else { return Ok(()) };
    let uid = inside_to_outside(&maps.uids, 0);
    let gid = inside_to_outside(&maps.gids, 0);
    let (own_uid, own_gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    if (uid, gid) == (Some(own_uid), Some(own_gid)) {
        return Ok(());
    }
    chown(directory, uid, gid)
        .with_context(|| format!("give {} to the container's root", directory.display()))
}
