//! The server's life: limits, the conversation with the kernel, the end.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::ops::Server;
use crate::overlay::Overlay;
use crate::session::Session;
use crate::session::handshake::Wishes;
use crate::session::reply::Validity;
use crate::tree::Tree;

/// Descriptors left for what is open only for a moment, and for files that have lost their name.
const SPARE_DESCRIPTORS: u64 = 256;
/// Descriptors kept open at most, however many the process may have.
const MOST_DESCRIPTORS: u64 = 8192;

/// Serves `overlay` on `device` until it is unmounted everywhere. The mount must exist already.
///
/// Raises the soft limit of open files to the hard one and clears the umask, which is why it
/// wants a process of its own, forked before there was a second thread. One thread answers: a
/// second one made a single client slower, since idle readers are woken in turn.
///
/// # Errors
///
/// Those of the first look at the layers, `EPERM` if nothing is mounted on `device`, and those of
/// the device itself.
pub fn serve(overlay: Overlay, device: OwnedFd) -> io::Result<()> {
    umask(Mode::empty());
    let mut view = overlay.view.clone();
    view.acl &= overlay.upper.as_ref().is_none_or(|upper| upper.keeping.has_acl());
    let validity = view.timeout.map_or(Validity::FOREVER, Validity::new);
    let wishes = Wishes { writeback: overlay.writeback, acl: view.acl, validity };
    let tree = Tree::new(overlay, descriptors()?)?;
    let server = Server::new(tree.clone(), view);
    let ended = Session::new(device, &wishes).run(&wishes, &server);
    tree.finish();
    ended
}

/// How many descriptors the tree may keep, after asking for as many as there are.
fn descriptors() -> io::Result<usize> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let spare = hard.saturating_sub(SPARE_DESCRIPTORS).max(hard / 2);
    Ok(usize::try_from((spare / 2).min(MOST_DESCRIPTORS)).unwrap_or(usize::MAX))
}
