//! A root made of layers: init's side of mounting fusefs.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail};

use crate::process::channel::Channel;
use crate::process::protocol::{FromServer, ToServer};

/// Mounts the overlay that the server at the other end has opened; attached nowhere yet.
///
/// The server has opened `/dev/fuse` in our user namespace; the mount is made here, in our mount
/// namespace, so that the host never sees it. Our copy of the descriptor is closed: nothing of the
/// server is left in the container.
///
/// # Errors
///
/// What is wrong with the layers, as the server says it, or why the kernel refuses the mount.
pub fn mount(server: &Channel<ToServer, FromServer>) -> anyhow::Result<OwnedFd> {
    let device = match server.receive_with().context("the overlay's server")? {
        (FromServer::Device, Some(device)) => device,
        (FromServer::Device, None) => bail!("the overlay's server sent no device"),
        (FromServer::Failed { chain }, _) => bail!("{chain}"),
    };
    let mount = rrun_fusefs::mount_detached(device.as_fd())
        .context("mount the overlay through /dev/fuse")?;
    server.send(&ToServer::Mounted)?;
    Ok(mount)
}
