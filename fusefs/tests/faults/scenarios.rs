//! What is done while calls fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, FallocateFlags, RenameFlags, copy_file_range, fallocate, renameat2,
};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{linkat, mkfifo};

use super::Scenario;
use crate::common::look::look;
use crate::common::{acl, xattr};

#[expect(clippy::unnecessary_wraps, reason = "as the others of its kind")]
pub(super) fn nothing(_root: &Path) -> io::Result<()> {
    Ok(())
}

/// Something done to what lies in lower layers, with nothing in memory.
const fn cold(name: &'static str, act: super::Act) -> Scenario {
    Scenario { name, before: None, warm: nothing, act, part: None }
}

/// The same with all that is to be known in memory.
const fn known(name: &'static str, act: super::Act) -> Scenario {
    warm(name, everything, act)
}

/// Something done after something else in the same mount.
const fn warm(name: &'static str, warm: super::Act, act: super::Act) -> Scenario {
    Scenario { name, before: None, warm, act, part: None }
}

/// Something done after something else in an earlier mount.
const fn after(name: &'static str, before: super::Act, act: super::Act) -> Scenario {
    Scenario { name, before: Some(before), warm: everything, act, part: None }
}

/// Looks at all of it.
#[expect(clippy::unnecessary_wraps, reason = "as the others of its kind")]
fn everything(root: &Path) -> io::Result<()> {
    drop(look(root));
    Ok(())
}

pub(super) const SCENARIOS: [Scenario; 60] = [
    cold("look", look_around),
    cold("append to a lower file", |root| append(root, "d/a")),
    known("write to a hard link", |root| write(root, "links/one")),
    warm(
        "write to a copied hard link",
        |root| write(root, "links/one"),
        |root| write(root, "links/two"),
    ),
    known("truncate", |root| OpenOptions::new().write(true).open(root.join("d/a"))?.set_len(3)),
    known("chmod a file", |root| mode(root, "d/a", 0o640)),
    known("chmod a directory", |root| mode(root, "d", 0o700)),
    known("chmod a hard link", |root| mode(root, "links/two", 0o640)),
    known("chmod to set-id", |root| mode(root, "d/a", 0o4755)),
    known("chmod from set-id", |root| mode(root, "set-id", 0o755)),
    Scenario {
        // As every file system: the bits go first.
        part: Some(|root| mode(root, "set-id", 0o755)),
        ..known("write to set-id", |root| write(root, "set-id"))
    },
    known("chown", |root| std::os::unix::fs::lchown(root.join("d/a"), Some(5), Some(6))),
    known("chown a link", |root| std::os::unix::fs::lchown(root.join("link"), Some(5), Some(6))),
    known("set an attribute", |root| Ok(xattr::set(&root.join("d/a"), "user.new", b"value")?)),
    known("remove an attribute", |root| Ok(xattr::remove(&root.join("d/a"), "user.kept")?)),
    known("set a default list", |root| list(root, "d")),
    after("create below a default list", |root| list(root, "d"), |root| create(root, "d/new")),
    cold("create", |root| create(root, "d/sub/new")),
    warm(
        "create in a new directory",
        |root| fs::create_dir(root.join("new")),
        |root| create(root, "new/f"),
    ),
    after(
        "create over a whiteout",
        |root| fs::remove_file(root.join("d/a")),
        |root| create(root, "d/a"),
    ),
    warm(
        "create over a fresh whiteout",
        |root| fs::remove_file(root.join("d/a")),
        |root| create(root, "d/a"),
    ),
    known("make a directory", |root| fs::create_dir(root.join("d/new"))),
    after(
        "make a directory over a whiteout",
        |root| fs::remove_dir_all(root.join("e")),
        |root| fs::create_dir(root.join("e")),
    ),
    known("make a symbolic link", |root| symlink("somewhere", root.join("d/new"))),
    known("make a whiteout of an overlay inside", |root| {
        Ok(mknod(&root.join("d/new"), SFlag::S_IFCHR, Mode::empty(), 0)?)
    }),
    known("make a fifo", |root| Ok(mkfifo(&root.join("d/new"), Mode::S_IRUSR)?)),
    known("make a file without a name", |root| {
        let file = nameless(root)?;
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        Ok(linkat(
            AT_FDCWD,
            path.as_str(),
            AT_FDCWD,
            &root.join("d/new"),
            AtFlags::AT_SYMLINK_FOLLOW,
        )?)
    }),
    known("unlink a lower file", |root| fs::remove_file(root.join("d/a"))),
    after(
        "unlink an upper file",
        |root| create(root, "d/new"),
        |root| fs::remove_file(root.join("d/new")),
    ),
    after("unlink a copy", |root| append(root, "d/a"), |root| fs::remove_file(root.join("d/a"))),
    cold("unlink a hard link", |root| fs::remove_file(root.join("links/one"))),
    after(
        "unlink a copied hard link",
        |root| write(root, "links/one"),
        |root| fs::remove_file(root.join("links/one")),
    ),
    after(
        "unlink an uncopied name",
        |root| write(root, "links/one"),
        |root| fs::remove_file(root.join("links/two")),
    ),
    after(
        "unlink a last name",
        |root| fs::remove_file(root.join("links/one")),
        |root| fs::remove_file(root.join("links/two")),
    ),
    known("unlink a file in use", unlink_in_use),
    known("remove a lower directory", |root| fs::remove_dir(root.join("empty"))),
    known("remove a directory of whiteouts", |root| fs::remove_dir(root.join("d/hollow"))),
    after(
        "remove an upper directory",
        |root| fs::create_dir(root.join("new")),
        |root| fs::remove_dir(root.join("new")),
    ),
    after(
        "remove a merged directory",
        |root| fs::remove_file(root.join("e/f")),
        |root| fs::remove_dir(root.join("e")),
    ),
    known("rename a lower file", |root| fs::rename(root.join("d/a"), root.join("e/new"))),
    known("rename over a lower file", |root| fs::rename(root.join("d/a"), root.join("e/f"))),
    after(
        "rename over a whiteout",
        |root| fs::remove_file(root.join("e/f")),
        |root| fs::rename(root.join("d/a"), root.join("e/f")),
    ),
    after(
        "rename an upper file over an upper file",
        |root| create(root, "new").and_then(|()| create(root, "d/new")),
        |root| fs::rename(root.join("new"), root.join("d/new")),
    ),
    known("exchange files", |root| rename(root, "d/a", "over", RenameFlags::RENAME_EXCHANGE)),
    known("exchange a file and a directory", |root| {
        rename(root, "d/a", "other", RenameFlags::RENAME_EXCHANGE)
    }),
    known("rename and leave a whiteout", |root| {
        rename(root, "d/a", "d/new", RenameFlags::RENAME_WHITEOUT)
    }),
    known("rename a lower directory beside itself", |root| {
        fs::rename(root.join("d"), root.join("new"))
    }),
    cold("rename a lower directory elsewhere", |root| {
        fs::rename(root.join("d/sub"), root.join("e/new"))
    }),
    known("rename a directory over an empty one", |root| {
        fs::rename(root.join("d/sub"), root.join("empty"))
    }),
    after(
        "rename an upper directory over a lower one",
        |root| fs::create_dir(root.join("new")),
        |root| fs::rename(root.join("new"), root.join("empty")),
    ),
    known("rename a hard link", |root| fs::rename(root.join("links/one"), root.join("d/new"))),
    after(
        "rename an uncopied name",
        |root| write(root, "links/one"),
        |root| fs::rename(root.join("links/two"), root.join("d/new")),
    ),
    known("rename over a hard link", |root| fs::rename(root.join("over"), root.join("links/one"))),
    known("link a lower file", |root| fs::hard_link(root.join("d/a"), root.join("e/new"))),
    after(
        "link over a whiteout",
        |root| fs::remove_file(root.join("e/f")),
        |root| fs::hard_link(root.join("d/a"), root.join("e/f")),
    ),
    known("link a hard link", |root| fs::hard_link(root.join("links/one"), root.join("e/new"))),
    known("punch a hole", |root| {
        let file = OpenOptions::new().write(true).open(root.join("d/a"))?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&file, flags, 2, 3)?)
    }),
    known("copy between files", |root| {
        let to = OpenOptions::new().write(true).open(root.join("over"))?;
        let from = File::open(root.join("d/a"))?;
        copy_file_range(&from, Some(&mut 0), &to, Some(&mut 2), 5)?;
        Ok(())
    }),
    Scenario {
        // As every file system: the times go first.
        part: Some(|root| {
            OpenOptions::new().write(true).open(root.join("huge"))?.set_modified(SystemTime::now())
        }),
        ..known("write into a huge file", |root| write_at(root, "huge", 5 << 20))
    },
    warm(
        "rename a huge file meanwhile",
        |root| write_at(root, "huge", 5 << 20),
        |root| fs::rename(root.join("huge"), root.join("d/new")),
    ),
];

fn look_around(root: &Path) -> io::Result<()> {
    fs::read(root.join("d/a"))?;
    fs::read_link(root.join("link"))?;
    for entry in fs::read_dir(root.join("d"))? {
        entry?.metadata()?;
    }
    match xattr::get(&root.join("d/a"), "user.kept") {
        Ok(value) if value == b"value" => Ok(()),
        other => Err(other.err().unwrap_or(Errno::EBADMSG).into()),
    }
}

fn append(root: &Path, path: &str) -> io::Result<()> {
    use std::io::Write as _;
    OpenOptions::new().append(true).open(root.join(path))?.write_all(b" and more")
}

fn write(root: &Path, path: &str) -> io::Result<()> {
    write_at(root, path, 3)
}

fn write_at(root: &Path, path: &str, at: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(root.join(path))?.write_all_at(b"written", at)
}

fn mode(root: &Path, path: &str, mode: u32) -> io::Result<()> {
    fs::set_permissions(root.join(path), PermissionsExt::from_mode(mode))
}

fn list(root: &Path, path: &str) -> io::Result<()> {
    Ok(xattr::set(&root.join(path), "system.posix_acl_default", &acl::list(0o750, 7, 5))?)
}

fn create(root: &Path, path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(root.join(path)).map(drop)
}

fn nameless(root: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(root.join("d"))
}

fn rename(root: &Path, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, &root.join(from), AT_FDCWD, &root.join(to), flags)?)
}

/// Whoever has it open can go on.
fn unlink_in_use(root: &Path) -> io::Result<()> {
    let file = File::open(root.join("d/a"))?;
    fs::remove_file(root.join("d/a"))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0)
}
