//! The server's life: limits, negotiation, the loop that receives requests, the end.

use std::io;
use std::os::fd::OwnedFd;

use fuser::{Config, InitFlags, KernelConfig, Session, SessionACL};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::ops::{Messenger, Server};
use crate::overlay::Overlay;
use crate::tree::Tree;

/// Largest write in one request, in bytes. Larger ones were no faster: they only displace more
/// of the processor's cache.
const LARGEST_WRITE: u32 = 128 * 1024;
/// Descriptors left for what is open only for a moment, and for files that have lost their name.
const SPARE_DESCRIPTORS: u64 = 256;
/// Descriptors kept open at most, however many the process may have.
const MOST_DESCRIPTORS: u64 = 8192;
/// Threads that wait for requests. A second one made a single client slower, since idle readers
/// are woken in turn.
const THREADS: usize = 1;

/// Serves `overlay` on `device` until it is unmounted everywhere. The mount must exist already.
///
/// Raises the soft limit of open files to the hard one and clears the umask, which is why it
/// wants a process of its own, forked before there was a second thread.
///
/// # Errors
///
/// Those of the first look at the layers, `EPERM` if nothing is mounted on `device`, and those of
/// the device itself.
pub fn serve(overlay: Overlay, device: OwnedFd) -> io::Result<()> {
    umask(Mode::empty());
    let writeback = overlay.writeback;
    let tree = Tree::new(overlay, descriptors()?)?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    let messenger = Messenger::default();
    let server = Server::new(tree, writeback, Messenger::clone(&messenger));
    match Session::from_fd(server, device, SessionACL::All, config) {
        Ok(session) => {
            let _first = messenger.set(session.notifier());
            session.run()
        }
        // Unmounted before we were there.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        Err(error) => Err(error),
    }
}

/// How many descriptors the tree may keep, after asking for as many as there are.
fn descriptors() -> io::Result<usize> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let spare = hard.saturating_sub(SPARE_DESCRIPTORS).max(hard / 2);
    Ok(usize::try_from((spare / 2).min(MOST_DESCRIPTORS)).unwrap_or(usize::MAX))
}

/// Tells the kernel how to deal with us.
///
/// Not asked for: `SETXATTR_EXT` (the library stops at the first setxattr with it),
/// `ATOMIC_O_TRUNC` (without OPEN requests the truncation would be lost), `AUTO_INVAL_DATA`
/// (nobody else changes files), locks (the kernel's own are right: there is no other client).
pub(crate) fn negotiate(kernel: &mut KernelConfig, writeback: bool) -> io::Result<()> {
    let required = [
        (InitFlags::FUSE_DO_READDIRPLUS, "readdirplus"),
        (InitFlags::FUSE_NO_OPEN_SUPPORT, "no-open"),
        (InitFlags::FUSE_POSIX_ACL, "POSIX ACL"),
        (InitFlags::FUSE_DONT_MASK, "umask"),
    ];
    for (flag, name) in required {
        kernel.add_capabilities(flag).map_err(|_missing| {
            io::Error::new(io::ErrorKind::Unsupported, format!("the kernel's FUSE lacks {name}"))
        })?;
    }
    let mut wanted = InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_ASYNC_DIO;
    if writeback {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    // What an older kernel lacks costs speed only.
    if let Err(missing) = kernel.add_capabilities(wanted & kernel.capabilities()) {
        log::debug!("the kernel took back {missing:?}");
    }
    if let Err(nearest) = kernel.set_max_write(LARGEST_WRITE) {
        log::debug!("largest write is {nearest} bytes");
    }
    Ok(())
}
