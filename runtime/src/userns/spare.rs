//! User namespaces without processes, which only say which ID is which: for ID-mapped mounts.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, ensure};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::map::IdMaps;
use super::write::write_maps;
use crate::sys::process::{Clone, clone, close_all_but};

/// The longest number of a process, in digits.
const LONGEST_NUMBER: usize = 20;

/// A new user namespace with these maps, below the caller's own.
///
/// A child holds it until it is mapped and opened, and has ended when this returns.
///
/// # Errors
///
/// Why it could not be made, or mapped.
pub fn namespace(maps: &IdMaps) -> anyhow::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().context("make a channel")?;
    let new_user = u64::from(CloneFlags::CLONE_NEWUSER.bits().cast_unsigned());
    let how = Clone { namespaces: new_user, ..Clone::default() };
    let child = clone(how, || hold(theirs)).context("make a user namespace")?;
    let opened = map_and_open(&ours, maps);
    drop(ours);
    waitpid(child.pid, None).context("wait for the process that made a user namespace")?;
    opened.context("make a user namespace for the mapped IDs")
}

fn map_and_open(child: &UnixStream, maps: &IdMaps) -> anyhow::Result<OwnedFd> {
    let mut name = [0; LONGEST_NUMBER];
    let length = (&*child).read(&mut name)?;
    let name = String::from_utf8_lossy(name.get(..length).unwrap_or_default()).into_owned();
    let number = name.parse().with_context(|| format!("no process number: {name:?}"))?;
    write_maps(Pid::from_raw(number), maps)?;
    let path = format!("/proc/{name}/ns/user");
    Ok(File::open(&path).with_context(|| format!("open {path}"))?.into())
}

/// The child: says what it is called in `/proc`, which may be that of another process namespace, and
/// waits until nobody holds the other end.
fn hold(mut parent: UnixStream) -> u8 {
    let mut held = || -> anyhow::Result<()> {
        close_all_but(3, &[parent.as_fd()])?;
        // Otherwise its maps would be root's to write, of the whole machine.
        prctl::set_dumpable(true)?;
        let name = std::fs::read_link("/proc/self").context("read /proc/self")?;
        let name = name.to_str().context("a number")?;
        parent.write_all(name.as_bytes())?;
        ensure!(parent.read(&mut [0])? == 0, "nothing more is said");
        Ok(())
    };
    held().is_err().into()
}
