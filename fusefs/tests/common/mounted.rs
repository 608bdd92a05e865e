//! A real mount with a server process of its own.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;
use rrun_fusefs::{Config, Overlay, attach, mount_detached, open_device, serve};

use super::fork;
use super::watch::{Watch, put_calls_to_others};

/// A mounted overlay. Dropping it without [`Mounted::unmount`] detaches it.
pub(crate) struct Mounted {
    root: PathBuf,
    server: Option<Pid>,
}

impl Mounted {
    /// Mounts an overlay at `root`.
    pub(crate) fn new(config: &Config, root: &Path) -> Self {
        Self::with_server(config, root, || ())
    }

    /// The same with a watch over the server's system calls.
    pub(crate) fn watched(config: &Config, root: &Path) -> (Self, Watch) {
        let (mut filtered, mut tell) = pipe().unwrap();
        let mounted = Self::with_server(config, root, move || {
            tell.write_all(&put_calls_to_others().to_ne_bytes()).unwrap();
        });
        let mut listener = [0; size_of::<RawFd>()];
        filtered.read_exact(&mut listener).unwrap();
        let watch = Watch::over(mounted.server(), RawFd::from_ne_bytes(listener));
        // Answered once the server has begun.
        fs::metadata(root).unwrap();
        (mounted, watch)
    }

    /// The same with a server that begins with `start`.
    fn with_server(config: &Config, root: &Path, start: impl FnOnce()) -> Self {
        let overlay = Overlay::open(config).unwrap();
        let device = open_device().unwrap();
        let (mut mounted, mut tell) = pipe().unwrap();
        let server_device = device.try_clone().unwrap();
        let server = fork::child(move || {
            mounted.read_exact(&mut [0]).unwrap();
            start();
            serve(overlay, server_device).unwrap();
        });
        let mount = mount_detached(device.as_fd()).unwrap();
        let target = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(root).unwrap();
        attach(mount.as_fd(), target.as_fd()).unwrap();
        tell.write_all(b"m").unwrap();
        Self { root: root.to_owned(), server: Some(server) }
    }

    /// The merged tree.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The contents of a file in it.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// The server's process.
    pub(crate) fn server(&self) -> Pid {
        self.server.unwrap()
    }

    /// Unmounts, and waits until the server has ended, which it must without an error.
    pub(crate) fn unmount(mut self) {
        umount2(&self.root, MntFlags::empty()).unwrap();
        assert!(fork::succeeded(self.server.take().unwrap()), "the server failed");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.server.is_some() {
            let _gone_already = umount2(&self.root, MntFlags::MNT_DETACH);
        }
    }
}
