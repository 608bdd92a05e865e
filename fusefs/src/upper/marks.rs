//! What the attributes of an object of the upper directory say about it, and writing that down.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use crate::format::origin::{self, Origin};
use crate::format::xattr as attribute;
use crate::layer::{Folder, Layer};
use crate::sys::stat::file_handle;
use crate::sys::xattr::{self, Subject};

/// What overlayfs calls files that have metadata of their own and the contents of a lower file.
const METACOPY: [&CStr; 2] = [c"user.overlay.metacopy", c"trusted.overlay.metacopy"];

/// What the attributes of an object say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// What it was copied from.
    pub(crate) origin: Option<Origin>,
    /// Whether its contents lie elsewhere, where nobody but overlayfs mounted by real root may look.
    pub(crate) metacopy: bool,
}

impl Marks {
    /// Reads them; nearly always there are none.
    ///
    /// # Errors
    ///
    /// Those of listxattr(2), except the lack of attributes.
    pub(crate) fn read(subject: &Subject<'_>) -> nix::Result<Self> {
        let list = match xattr::list(subject) {
            Err(Errno::EOPNOTSUPP) => return Ok(Self::default()),
            list => list?,
        };
        let has = |name: &CStr| attribute::names(&list).any(|known| known == name.to_bytes());
        let mut marks = Self { metacopy: METACOPY.into_iter().any(has), ..Self::default() };
        for (name, parse) in [
            (origin::OWN_ATTRIBUTE, origin::parse_own as fn(&[u8]) -> Option<Origin>),
            (origin::ATTRIBUTE, origin::parse),
        ] {
            if marks.origin.is_none() && has(name) {
                marks.origin = parse(&xattr::get(subject, name)?);
            }
        }
        Ok(marks)
    }
}

/// Hands back a regular file of a lower layer.
///
/// # Errors
///
/// `EPERM` if its contents lie elsewhere, as in kernel overlayfs that is not to follow.
pub(crate) fn contents(file: OwnedFd) -> nix::Result<OwnedFd> {
    let marks = Marks::read(&Subject::open(file.as_fd())?)?;
    if marks.metacopy { Err(Errno::EPERM) } else { Ok(file) }
}

/// An attribute to be set.
pub(crate) type Record = (&'static CStr, Vec<u8>);

/// The record that a copy of `name` in `folder`, whose metadata is `stat`, comes from there: in
/// overlayfs' form if that tells the inode number, else in ours.
///
/// # Errors
///
/// Those of open(2) and `name_to_handle_at(2)`, except the lack of handles.
pub(crate) fn origin_of(
    layer: &Layer,
    folder: &Folder,
    name: &OsStr,
    stat: &FileStat,
) -> nix::Result<Record> {
    let own = || (origin::OWN_ATTRIBUTE, origin::format_own(layer.file_system, stat.st_ino));
    // Beneath another mount, the layer's file system would be the wrong one.
    let Some(uuid) = layer.uuid.filter(|_| stat.st_dev == layer.device) else { return Ok(own()) };
    let file = folder.path_only(name)?;
    let (kind, handle) = match file_handle(file.as_fd()) {
        Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW | Errno::ENOSYS) => return Ok(own()),
        found => found?,
    };
    let record = origin::format(&uuid, kind, &handle)
        .filter(|record| origin::parse(record).is_some_and(|told| told.number == stat.st_ino));
    Ok(record.map_or_else(own, |record| (origin::ATTRIBUTE, record)))
}

/// Writes the record down on a regular file or directory; nothing else can have such attributes.
/// Without it the copy gets another inode number with the next mount, which is no reason to fail.
pub(crate) fn write_origin(subject: &Subject<'_>, (name, value): &Record) {
    if let Err(errno) = xattr::set(subject, name, value, 0) {
        log::debug!("{}: {errno}: the inode number will change", name.to_string_lossy());
    }
}
