//! New files, directories, links and nodes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::{State, Tree, attr::Spot, check_new_name, up};
use crate::format::permissions::Permissions;
use crate::format::{opaque, whiteout, xattr as attribute};
use crate::inode::Ino;
use crate::inode::attr::{Attr, decode_device};
use crate::inode::handles::{Held, OpenFile};
use crate::inode::node::{Link, Opened, Place};
use crate::layer::LayerIndex;
use crate::sys::xattr;
use crate::upper::permissions::{Keeping, Target};
use crate::upper::staging::Staged;
use crate::upper::{Upper, UpperFolder};

/// On whose behalf something is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Owner of what is made (the asking process's `fsuid`).
    pub uid: u32,
    /// Its group, unless the directory is set-group-id.
    pub gid: u32,
    /// Permissions to leave out, unless the directory has a default access control list.
    pub umask: u32,
}

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// An empty regular file.
    File,
    /// A directory.
    Folder,
    /// A fifo, socket or device: its type (`S_IFIFO` …) and number in the protocol's 32-bit form.
    Node {
        /// Type bits of a mode.
        kind: u32,
        /// Device number; ignored for what is no device.
        device: u32,
    },
    /// A symbolic link that leads there.
    Symlink(&'a OsStr),
    /// The whiteout of an overlay inside: to it a character device 0:0. Never one of ours.
    Whiteout,
}

impl Tree {
    /// Makes a new object with the permissions in `mode`; counts one reference to it.
    ///
    /// # Errors
    ///
    /// `EEXIST`; `EROFS`; `ENOSPC`; `EPERM` for what the layer's file system refuses; `EINVAL` for
    /// names that start with `.wh.`.
    pub fn make(
        &self,
        parent: Ino,
        name: &OsStr,
        what: Kind<'_>,
        mode: u32,
        asker: &Asker,
    ) -> nix::Result<Attr> {
        self.state().make(parent, name, what, mode, asker)
    }

    /// Makes a regular file without a name in `parent`; counts one reference to it. With
    /// `stays_nameless` nobody can give it one (`O_EXCL` beside `O_TMPFILE`).
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the upper directory's file system has no such files; `EROFS`; `ENOSPC`.
    pub fn make_nameless(
        &self,
        parent: Ino,
        mode: u32,
        stays_nameless: bool,
        asker: &Asker,
    ) -> nix::Result<Attr> {
        self.state().make_nameless(parent, mode, stays_nameless, asker)
    }

    /// Gives `ino` another name; counts one reference to it.
    ///
    /// # Errors
    ///
    /// `EEXIST`; `EROFS`; `EPERM` for a directory; `ENOENT` if `ino` has lost its last name;
    /// `EMLINK`; `ENOSPC`.
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> nix::Result<Attr> {
        self.copy_up_whole(ino)?;
        self.state().link(ino, parent, name)
    }
}

/// Something new and the directory it belongs to.
struct Making<'a> {
    what: Kind<'a>,
    /// Permissions to ask for, and whether an inherited list has the last word on them.
    mode: u32,
    inherits: bool,
    uid: u32,
    gid: u32,
    keeping: Keeping,
}

impl State {
    pub(super) fn make(
        &mut self,
        parent: Ino,
        name: &OsStr,
        mut what: Kind<'_>,
        mode: u32,
        asker: &Asker,
    ) -> nix::Result<Attr> {
        if let Kind::Node { kind, device } = what
            && whiteout::is_whiteout(kind, decode_device(device))
        {
            what = Kind::Whiteout;
        }
        let (folder, over) = self.room_for(parent, name)?;
        let making = self.making(parent, what, mode, asker)?;
        let made = if what == Kind::Whiteout {
            self.upper()?.expect_whiteouts_in(&folder)?;
            making.build_over(self.upper()?, &folder, name)?
        } else if over {
            making.build_over(self.upper()?, &folder, name)?
        } else {
            making.build(self.upper()?, &folder, name)?
        };
        self.enter(parent, name, made, over)
    }

    /// Checks that `name` is free in `parent`; its upper directory, and whether a whiteout there
    /// has to go.
    fn room_for(&mut self, parent: Ino, name: &OsStr) -> nix::Result<(Arc<UpperFolder>, bool)> {
        check_new_name(name)?;
        let over = self.opened(parent)?.listing.whiteouts.contains(name);
        if self.table.entry((parent, name)).is_some() {
            return Err(Errno::EEXIST);
        }
        self.table.reserve()?;
        Ok((self.raise_folder(parent)?, over))
    }

    fn making<'a>(
        &mut self,
        parent: Ino,
        what: Kind<'a>,
        mode: u32,
        asker: &Asker,
    ) -> nix::Result<Making<'a>> {
        let inherits = self.inherits_acl(parent)?;
        let directory = self.table.get(parent)?.mode();
        let mut mode = mode & 0o7777;
        if !inherits {
            mode &= !asker.umask;
        }
        let mut gid = asker.gid;
        if directory & libc::S_ISGID != 0 {
            gid = self.attr(parent)?.gid;
            if what == Kind::Folder {
                mode |= libc::S_ISGID;
            }
        }
        let keeping = self.upper()?.keeping;
        Ok(Making { what, mode, inherits, uid: asker.uid, gid, keeping })
    }

    /// Enters what was made into listing and table.
    fn enter(&mut self, parent: Ino, name: &OsStr, made: Made, covers: bool) -> nix::Result<Attr> {
        let number = self.overlay.number(made.stat.st_dev, made.stat.st_ino);
        self.opened(parent)?.listing.whiteouts.remove(name);
        let mut attr = Attr::new(Ino::ROOT, number, &made.stat);
        if made.is_whiteout {
            attr.show_as_whiteout();
        }
        let ino = self.table.insert_made((parent, name), (attr.mode, number), covers)?;
        attr.ino = ino;
        self.table.set_held(ino, made.held);
        if attr.is_folder() {
            // Nothing can be in it, so that there is nothing to merge.
            self.table.node(ino)?.opened = Some(Box::new(Opened::empty()));
        }
        if let Some(file) = made.file {
            self.table.node(ino)?.file = Some(Arc::new(OpenFile::whole(file, true)));
            self.hold(Held::File(ino));
        }
        self.table.set_attr(ino, &attr);
        self.table.outdate(parent);
        Ok(attr)
    }

    fn make_nameless(
        &mut self,
        parent: Ino,
        mode: u32,
        stays_nameless: bool,
        asker: &Asker,
    ) -> nix::Result<Attr> {
        self.table.reserve()?;
        let folder = self.raise_folder(parent)?;
        let making = self.making(parent, Kind::File, mode, asker)?;
        let file = folder.create_nameless(making.disk_mode(), stays_nameless)?;
        let made = making.finish(self.upper()?, &Target::Open(file.as_fd()))?;
        let number = self.overlay.number(made.stat.st_dev, made.stat.st_ino);
        let ino = self.table.insert_nameless(made.stat.st_mode, number)?;
        let attr = Attr::new(ino, number, &made.stat);
        self.table.set_held(ino, made.held);
        self.table.set_place(ino, Place::Nameless(Arc::new(OpenFile::whole(file, true))))?;
        self.table.set_attr(ino, &attr);
        Ok(attr)
    }

    fn link(&mut self, ino: Ino, parent: Ino, name: &OsStr) -> nix::Result<Attr> {
        if self.table.get(ino)?.is_folder() {
            return Err(Errno::EPERM);
        }
        let (folder, over) = self.room_for(parent, name)?;
        let spot = self.spot(ino)?;
        // Nothing may fail once the link is there.
        let (mut attr, stat) = (self.attr(ino)?, self.stat(ino)?);
        if attr.is_whiteout() {
            self.upper()?.expect_whiteouts_in(&folder)?;
        }
        attr.links += 1;
        self.link_object(&spot, &folder, name, over)?;
        self.enter_link((parent, name), attr, &stat, over)
    }

    /// The link on disk.
    fn link_object(
        &self,
        spot: &Spot,
        folder: &UpperFolder,
        name: &OsStr,
        over: bool,
    ) -> nix::Result<()> {
        let upper = self.upper()?;
        let link = |to: &UpperFolder, to_name: &OsStr| match spot {
            Spot::Named(from, from_name) => from.link(from_name, to, to_name),
            Spot::Indexed(indexed) => upper.index.folder()?.link(indexed, to, to_name),
            // `ENOENT` unless it was made without a name.
            Spot::Open(file) => to.link_open(file.as_fd(), to_name),
        };
        if !over {
            return link(folder, name);
        }
        let staged = Staged::reserve(upper);
        link(staged.folder(), staged.name())?;
        staged.place(folder, name)?;
        upper.unhide(folder, name);
        Ok(())
    }

    /// Enters a link that was made; `attr` is what it is thought to show now, unless asked.
    fn enter_link(
        &mut self,
        (parent, name): (Ino, &OsStr),
        attr: Attr,
        stat: &FileStat,
        covers: bool,
    ) -> nix::Result<Attr> {
        let ino = attr.ino;
        self.opened(parent)?.listing.whiteouts.remove(name);
        self.table.insert_name((parent, name), ino, covers)?;
        self.table.outdate(parent);
        let key = (LayerIndex::UPPER, stat.st_dev, stat.st_ino);
        self.table.links.insert(key, Link { ino, removed: 0 });
        if let Place::Nameless(file) = self.table.get(ino)?.place() {
            self.table.node(ino)?.file = Some(file);
            self.table.set_place(ino, Place::Upper)?;
            self.hold(Held::File(ino));
        }
        self.table.set_link_key(ino, key)?;
        self.table.outdate(ino);
        let attr = self.attr(ino).unwrap_or(attr);
        self.table.refer(ino)?;
        Ok(attr)
    }
}

/// What was made.
struct Made {
    /// What it shows.
    stat: FileStat,
    /// Whether an attribute holds its permissions.
    held: bool,
    /// Whether it is to be shown as the whiteout of an overlay inside.
    is_whiteout: bool,
    /// A regular file comes open: it will be written to.
    file: Option<OwnedFd>,
}

impl Making<'_> {
    /// Makes it at `name` in `folder`, where nothing is.
    fn build(&self, upper: &Upper, folder: &UpperFolder, name: &OsStr) -> nix::Result<Made> {
        let (mut file, mode) = (None, self.disk_mode());
        match self.what {
            Kind::File => file = Some(folder.create(name, mode)?),
            Kind::Folder => folder.make_folder(name, mode)?,
            Kind::Node { kind, device } => {
                folder.make_node(name, kind & libc::S_IFMT | mode, decode_device(device))?;
            }
            Kind::Symlink(target) => folder.make_symlink(target, name)?,
            Kind::Whiteout => {
                folder.make_node(name, libc::S_IFREG | mode, 0)?;
                xattr::set(&folder.attributes_of(name)?, attribute::WHITEOUT, b"y", 0)?;
            }
        }
        match self.finish(upper, &Target::Named(folder, name)) {
            Ok(made) => Ok(Made { file, ..made }),
            Err(errno) => {
                let removed = match self.what {
                    Kind::Folder => folder.remove_folder(name),
                    _ => folder.unlink(name),
                };
                removed.and(Err(errno))
            }
        }
    }

    /// The permissions to make it with.
    fn disk_mode(&self) -> u32 {
        self.keeping.on_disk(self.kind() | self.mode)
    }

    fn kind(&self) -> u32 {
        match self.what {
            Kind::File | Kind::Whiteout => libc::S_IFREG,
            Kind::Folder => libc::S_IFDIR,
            Kind::Symlink(_) => libc::S_IFLNK,
            Kind::Node { kind, .. } => kind & libc::S_IFMT,
        }
    }

    /// Gives it owner and permissions, where making it has not.
    fn finish(&self, upper: &Upper, target: &Target<'_>) -> nix::Result<Made> {
        let mut stat = target.stat()?;
        // An inherited list has made the permissions what they are, but for the bits above them.
        let kept = if self.inherits { stat.st_mode & 0o777 } else { self.mode & 0o777 };
        let (uid, gid, mode) = (self.uid, self.gid, kept | (self.mode & 0o7000));
        let given = upper.give(target, &stat, Permissions { uid, gid, mode })?;
        if given.changed {
            stat = target.stat()?;
        }
        if given.held {
            (stat.st_uid, stat.st_gid, stat.st_mode) = (uid, gid, self.kind() | mode);
        }
        let is_whiteout = self.what == Kind::Whiteout;
        Ok(Made { stat, held: given.held, is_whiteout, file: None })
    }

    /// Makes it where a whiteout is: aside first, then in one step. The directory it is made in
    /// has the default access control list of the real one, for the file system to inherit.
    fn build_over(&self, upper: &Upper, folder: &UpperFolder, name: &OsStr) -> nix::Result<Made> {
        let staged = Staged::reserve(upper);
        staged.folder().make_folder(staged.name(), 0o700)?;
        let nest = staged.folder().upper_folder(staged.name())?;
        if let Some(acl) = up::default_acl(folder)? {
            xattr::set(&nest.own_attributes(), attribute::DEFAULT_ACL, &acl, 0)?;
        }
        let made = self.build(upper, &nest, name)?;
        let is_folder = self.what == Kind::Folder;
        if is_folder {
            xattr::set(&nest.attributes_of(name)?, opaque::ATTRIBUTE, opaque::VALUE, 0)?;
        }
        upper.move_over_whiteout(&nest, name, is_folder, folder, name)?;
        Ok(made)
    }
}
