//! Requests: ask the tree, write what it says into the reply.

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use crate::awake::Awake;
use crate::inode::Ino;
use crate::layer::type_of_mode;
use crate::session::reply::Reply;
use crate::session::request::{Operation, Request};
use crate::session::{Answer, Kernel};
use crate::tree::{Exchange, Kind, Listed, Tree, Wanted, Written};
use crate::view::View;

/// Largest answer to a READ, in bytes; the kernel asks for no more than a write may have.
const LARGEST_READ: u32 = crate::session::handshake::LARGEST_WRITE;

/// Answers the kernel's requests from a tree.
#[derive(Debug)]
pub(crate) struct Server {
    tree: Tree,
    view: View,
    awake: Awake,
}

impl Server {
    pub(crate) fn new(tree: Tree, view: View) -> Self {
        Self { tree, view, awake: Awake::new() }
    }
}

impl Answer for Server {
    fn answer(
        &self,
        request: &Request<'_>,
        reply: &mut Reply,
        kernel: &Kernel<'_>,
    ) -> nix::Result<()> {
        self.awake.note_request();
        let done = self.perform(request, reply, kernel);
        match done {
            // What the caller will hardly expect is worth a line.
            Err(Errno::EIO) => log::warn!("{:?}: EIO", request.operation),
            Err(errno) => log::debug!("{:?}: {errno}", request.operation),
            Ok(()) => {}
        }
        done
    }
}

impl Server {
    #[expect(clippy::too_many_lines, reason = "a table: one entry for each kind of request")]
    fn perform(
        &self,
        request: &Request<'_>,
        reply: &mut Reply,
        kernel: &Kernel<'_>,
    ) -> nix::Result<()> {
        let (tree, view, node) = (&self.tree, &self.view, request.node);
        let asker = |umask| view.asker(request.asker(umask));
        match request.operation {
            Operation::Lookup { name } => match tree.lookup(node, name) {
                Err(Errno::ENOENT) => reply.nothing(),
                found => reply.entry(&view.shown(found?)),
            },
            Operation::Forget { count } => tree.forget(node, count),
            Operation::ForgetMany(ref many) => {
                many.clone().for_each(|(ino, count)| tree.forget(ino, count));
            }
            Operation::Attr => reply.attr(&view.shown(tree.attr(node)?)),
            Operation::Statx => reply.statx(&view.shown(tree.attr(node)?), tree.born(node)?),
            Operation::SetAttr(changes) => {
                reply.attr(&view.shown(tree.set_attr(node, &view.changes(changes))?));
            }
            Operation::ReadLink => reply.put(tree.read_link(node)?.as_encoded_bytes()),
            Operation::Symlink { name, target } => {
                let made = tree.make(node, name, Kind::Symlink(target), 0o777, &asker(0))?;
                reply.entry(&view.shown(made));
            }
            Operation::MakeNode { name, mode, umask, device } => {
                let is_file = type_of_mode(mode) == Type::File;
                let what = if is_file { Kind::File } else { Kind::Node { kind: mode, device } };
                reply.entry(&view.shown(tree.make(node, name, what, mode, &asker(umask))?));
            }
            Operation::MakeFolder { name, mode, umask } => {
                let made = tree.make(node, name, Kind::Folder, mode, &asker(umask))?;
                reply.entry(&view.shown(made));
            }
            Operation::Nameless { flags, mode, umask } => {
                let stays = flags & libc::O_EXCL.cast_unsigned() != 0;
                reply.opened(&view.shown(tree.make_nameless(node, mode, stays, &asker(umask))?));
            }
            Operation::Unlink { name } => tree.unlink(node, name)?,
            Operation::RemoveFolder { name } => tree.remove_folder(node, name)?,
            Operation::Rename { name, to, to_name, flags } => {
                tree.rename(node, name, to, to_name, exchange(flags)?)?;
            }
            Operation::Link { of, name } => reply.entry(&view.shown(tree.link(of, node, name)?)),
            Operation::Read { offset, size } => {
                let size = usize::try_from(size.min(LARGEST_READ)).unwrap_or(0);
                reply.fill(size, |room| tree.read(node, offset, room))?;
            }
            Operation::Write { offset, data, clears_set_id } => {
                let written = tree.write(node, offset, data, clears_set_id)?;
                reply.count(note(node, written, kernel));
            }
            // The kernel then believes everything synced, and asks no more.
            Operation::Sync { .. } | Operation::SyncFolder | Operation::SyncAll if !view.fsync => {
                return Err(Errno::ENOSYS);
            }
            Operation::Sync { data_only } => tree.sync(node, data_only)?,
            Operation::SyncFolder => tree.sync_folder(node)?,
            Operation::SyncAll => tree.sync_all()?,
            Operation::StatFs => reply.stat_fs(&tree.stat_fs()?),
            Operation::List { cookie, size, with_metadata } => {
                self.list(node, cookie, (size, with_metadata), reply)?;
            }
            Operation::SetXattr { .. }
            | Operation::GetXattr { .. }
            | Operation::ListXattr { .. }
            | Operation::RemoveXattr { .. }
                if !view.xattrs =>
            {
                return Err(Errno::ENOSYS);
            }
            Operation::SetXattr { name, .. }
            | Operation::GetXattr { name, .. }
            | Operation::RemoveXattr { name }
                if view.lacks(name) =>
            {
                return Err(Errno::EOPNOTSUPP);
            }
            Operation::SetXattr { name, value, flags, clears_set_gid } => {
                tree.set_xattr(node, name, value, flags.cast_signed())?;
                if clears_set_gid {
                    tree.clear_set_gid(node)?;
                }
            }
            Operation::GetXattr { name, size } => {
                reply.xattr(&tree.get_xattr(node, name)?, size)?;
            }
            Operation::ListXattr { size } => {
                reply.xattr(&view.listed(tree.list_xattr(node)?), size)?;
            }
            Operation::RemoveXattr { name } => tree.remove_xattr(node, name)?,
            Operation::Allocate { flags, offset, length } => {
                let done = tree.allocate(node, flags.cast_signed(), offset, length)?;
                note(node, done, kernel);
            }
            Operation::Seek { offset, hole } => {
                let found = tree.seek(node, offset.cast_signed(), hole)?;
                reply.u64(found.cast_unsigned());
            }
            Operation::CopyRange { from, to_node, to, length, wide } => {
                let copied = tree.copy_range((node, from), (to_node, to), length)?;
                let bytes = note(to_node, copied, kernel);
                if wide { reply.u64(bytes as u64) } else { reply.count(bytes) }
            }
            Operation::Flags => reply.ioctl(&tree.flags(node)?.to_ne_bytes()),
            Operation::ExtendedFlags => reply.ioctl(&tree.extended_flags(node)?),
            Operation::SetFlags { flags } => {
                tree.set_flags(node, flags)?;
                reply.ioctl(&[]);
            }
            Operation::Done => {}
            Operation::Init(_) => return Err(Errno::EIO),
            Operation::Unknown => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn list(
        &self,
        node: Ino,
        cookie: u64,
        (size, with_metadata): (u32, bool),
        reply: &mut Reply,
    ) -> nix::Result<()> {
        let wanted = if with_metadata { Wanted::Metadata } else { Wanted::Names };
        let size = usize::try_from(size).unwrap_or(0);
        self.tree.list(node, cookie, wanted, |line| {
            let attr = line.attr.map(|attr| self.view.shown(*attr));
            let number = self.view.number(line.number);
            reply.line(&Listed { attr: attr.as_ref(), number, ..*line }, size)
        })
    }
}

/// How many bytes were written. Where that has taken set-id bits away the kernel is told: it would go
/// on honouring them for as long as it may believe us.
fn note(node: Ino, written: Written, kernel: &Kernel<'_>) -> usize {
    if written.cleared_set_id {
        kernel.forget_attributes(node);
    }
    written.bytes
}

/// What a rename leaves behind. The kernel refuses other flags, and `RENAME_EXCHANGE` beside them.
fn exchange(flags: u32) -> nix::Result<Exchange> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let (no_replace, whiteout) = (RenameFlags::RENAME_NOREPLACE, RenameFlags::RENAME_WHITEOUT);
    match flags {
        RenameFlags::RENAME_EXCHANGE => Ok(Exchange::Swap),
        flags if flags.is_empty() => Ok(Exchange::Replace),
        flags if flags == no_replace => Ok(Exchange::Refuse),
        flags if flags == whiteout => Ok(Exchange::Whiteout),
        flags if flags == no_replace | whiteout => Ok(Exchange::RefuseOrWhiteout),
        _ => Err(Errno::EINVAL),
    }
}
