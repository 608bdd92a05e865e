//! `rrun overlay`: the copy-on-write file system by hand, and as the program `fuse-overlayfs`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rrun_fusefs::{Config, ConfigError, Options, PermissionsKept};

use super::{Global, print};
use crate::process::server::mount_by_hand;

/// The name under which this command is that program.
const OTHER_NAME: &str = "fuse-overlayfs";

/// What fuse-overlayfs would print; engines look at the first line.
const VERSION: &str = concat!(
    "fuse-overlayfs: version 1.10 (rrun ",
    env!("CARGO_PKG_VERSION"),
    ")\nFUSE kernel interface version 7.45\n"
);

const OPTIONS: &str = "\
    lowerdir=A[:B…]            read-only layers, topmost first; required
    upperdir=U, workdir=W      where changes go, and an empty directory beside it; both or neither
    uidmapping=ID:SHOWN:COUNT[:…], gidmapping=…
                               show other owners than those on disk
    squash_to_root, squash_to_uid=ID, squash_to_gid=ID
                               show everything as owned by one
    xattr_permissions=0|1|2|3  keep owners and permissions on disk, or in the attribute
                               security.fuseoverlayfs, user.fuseoverlayfs or user.containers
                               .override_stat
    redirect_dir=on|off        let directories of lower layers be renamed
    volatile, fsync=0          fsync(2) does nothing
    writeback                  the kernel gathers writes
    noacl, noxattrs=1          no access control lists, no extended attributes
    static_nlink               every directory has one link
    ino32_t                    inode numbers of 32 bits
    timeout=SECONDS            how long the kernel may believe what it was told; for ever unless given
    context=CONTEXT            SELinux context of everything
    ro, nosuid, nodev, noexec, noatime, nodiratime
                               as mount(8)
    xino=off|auto|on           accepted: inode numbers are the same with each mount in any case
    allow_other, default_permissions, threaded=, fast_ino=, suid, dev and the like
                               accepted: it is so, or makes no difference
";

/// Mount layers as one tree, in the caller's user and mount namespace
///
/// Read-only layers and one writable layer become one tree at MOUNTPOINT. Without being root, do it
/// in a user and mount namespace of your own: unshare --user --map-root-user --mount. Elsewhere
/// fusermount3 mounts for you.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Options of -o, separated by commas:\n{OPTIONS}"))]
pub(super) struct Overlay {
    /// Directory to mount on
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// lowerdir=A:B (topmost first), upperdir=U, workdir=W; without an upperdir nobody can write
    #[arg(short, value_name = "OPTIONS", required = true)]
    options: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short)]
    foreground: bool,
    /// Stay in the foreground and tell what is done
    #[arg(short)]
    debug: bool,
}

impl Overlay {
    /// Mounts the tree and serves it, in the background unless asked otherwise.
    ///
    /// # Errors
    ///
    /// What is wrong with the options or the layers, or why the kernel refuses the mount.
    pub(super) fn run(&self, _global: &Global) -> Result<u8> {
        let operation = || format!("overlay {}", self.mountpoint.display());
        let options = Options::parse(&self.options.join(OsStr::new(",")), Config::default())
            .and_then(|options| match options.unknown.first() {
                Some(unknown) => Err(ConfigError::Unknown(unknown.clone())),
                None => Ok(options),
            })
            .context("option -o")
            .with_context(operation)?;
        let foreground = self.foreground || self.debug || options.debug;
        mount_by_hand(&options, &self.mountpoint, foreground).with_context(operation)?;
        Ok(0)
    }

    /// Whether what is done is to be told.
    pub(super) fn tells(&self) -> bool {
        self.debug
    }
}

/// Whether this command was called by the name of fuse-overlayfs.
#[must_use]
pub fn is_fuse_overlayfs() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().is_some_and(|name| name == OTHER_NAME)
}

/// What fuse-overlayfs does with this command line: what it does not know it names and ignores.
///
/// # Errors
///
/// As those of `rrun overlay`.
pub fn run_as_fuse_overlayfs() -> Result<u8> {
    let (mountpoint, options, ignored, foreground, debug) =
        match Line::read(std::env::args_os().skip(1))? {
            Line::Help => return print(&help()).map(|()| 0),
            Line::Version => return print(VERSION).map(|()| 0),
            Line::Mount { mountpoint, options, ignored, foreground, debug } => {
                (mountpoint, options, ignored, foreground, debug)
            }
        };
    let defaults =
        Config { redirect_dir: false, permissions: PermissionsKept::OnDisk, ..Config::default() };
    let options = Options::parse(&options, defaults).context("option -o")?;
    let debug = debug || options.debug;
    crate::log::start(None, crate::log::Format::Text, debug)?;
    for unknown in ignored.iter().chain(&options.unknown) {
        log::warn!("unknown argument ignored: {unknown}");
    }
    mount_by_hand(&options, &mountpoint, foreground || debug)
        .with_context(|| format!("mount {}", mountpoint.display()))?;
    Ok(0)
}

fn help() -> String {
    format!(
        "usage: {OTHER_NAME} [options] <mountpoint>\n\n    -o OPTION[,OPTION…]\n    -f                         stay in the foreground\n    -d, --debug                … and tell what is done\n    -h, --help\n    -V, --version\n\nOptions of -o:\n{OPTIONS}"
    )
}

/// A command line of fuse-overlayfs.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Help,
    Version,
    Mount {
        mountpoint: PathBuf,
        options: OsString,
        ignored: Vec<String>,
        foreground: bool,
        debug: bool,
    },
}

impl Line {
    fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let (mut mountpoint, mut all, mut ignored) = (None, Vec::new(), Vec::new());
        let (mut foreground, mut debug) = (false, false);
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                b"-h" | b"--help" => return Ok(Self::Help),
                b"-V" | b"--version" => return Ok(Self::Version),
                b"-f" => foreground = true,
                b"-d" | b"--debug" => debug = true,
                b"-o" => all.push(arguments.next().context("-o: names no option")?),
                [b'-', b'o', rest @ ..] => all.push(OsStr::from_bytes(rest).to_owned()),
                [b'-', ..] => ignored.push(argument.to_string_lossy().into_owned()),
                _ => mountpoint = Some(PathBuf::from(argument)),
            }
        }
        let Some(mountpoint) = mountpoint else { bail!("no mountpoint specified") };
        let options = all.join(OsStr::new(","));
        Ok(Self::Mount { mountpoint, options, ignored, foreground, debug })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Line> {
        Line::read(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    #[test]
    fn lines_of_fuse_overlayfs_are_understood() {
        let mount = |options: &str, ignored: &[&str], foreground, debug| Line::Mount {
            mountpoint: "/m".into(),
            options: options.into(),
            ignored: ignored.iter().map(|name| (*name).to_owned()).collect(),
            foreground,
            debug,
        };
        for (line, expected) in [
            ("-o lowerdir=/a /m", mount("lowerdir=/a", &[], false, false)),
            ("-f -olowerdir=/a -o noacl /m", mount("lowerdir=/a,noacl", &[], true, false)),
            ("/old /m --what -d", mount("", &["--what"], false, true)),
            ("-o a --help", Line::Help),
            ("-V", Line::Version),
        ] {
            assert_eq!(read(line).unwrap(), expected, "{line}");
        }
        assert!(read("/m -o").is_err());
        assert!(read("-o lowerdir=/a").unwrap_err().to_string().contains("no mountpoint"));
    }
}
