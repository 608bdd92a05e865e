//! What the options of one mount ask for, taken together.

use anyhow::{Context as _, bail};
use rrun_spec::mount_options::{MountOption, attr, mount_option, ms};

use crate::plan::mounts::{Links, Options};
use crate::sys::mount::Attributes;

/// The flags that belong to a file system and not to a mount.
const SUPERBLOCK: u64 = ms::SYNCHRONOUS | ms::DIRSYNC | ms::MANDLOCK | ms::LAZYTIME | ms::I_VERSION;

/// The sum of all options.
#[derive(Default)]
pub(super) struct Wish {
    pub(super) attributes: Attributes,
    pub(super) recursive: Attributes,
    /// Whether a flag of this mount is named at all.
    has_flags: bool,
    /// Whether one of them says how access times are kept, rather than how not.
    sets_atime: bool,
    pub(super) superblock: u64,
    pub(super) propagation: Vec<(u64, bool)>,
    pub(super) bind: Option<bool>,
    pub(super) remount: bool,
    pub(super) copy_up: bool,
    pub(super) links: Links,
    /// The whole option `idmap` or `ridmap`.
    pub(super) id_option: Option<String>,
    data: Options,
}

impl Wish {
    pub(super) fn add(&mut self, option: &str) -> anyhow::Result<()> {
        match mount_option(option).context("is no mount option")? {
            MountOption::Flag { ms, clear } => self.flag(ms, clear),
            MountOption::RecursiveAttr { attr, clear } => merge(&mut self.recursive, attr, clear),
            MountOption::Propagation(flags) => {
                self.propagation.push((flags & !ms::REC, flags & ms::REC != 0));
            }
            MountOption::Bind { recursive } => {
                self.bind = Some(recursive || self.bind.unwrap_or(false));
            }
            MountOption::Extension(name) => self.extension(name, option)?,
            MountOption::Data => self.data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
        Ok(())
    }

    fn extension(&mut self, name: &str, option: &str) -> anyhow::Result<()> {
        match name {
            "tmpcopyup" => self.copy_up = true,
            "copy-symlink" => self.links.copied = true,
            "src-nofollow" => self.links.source_itself = true,
            "dest-nofollow" => self.links.destination_itself = true,
            "idmap" | "ridmap" => self.id_option = Some(option.to_owned()),
            _ => bail!("is no mount option"),
        }
        Ok(())
    }

    /// The options of the file system, taken out of the wish.
    pub(super) fn options(&mut self) -> Options {
        let mut options: Options = [
            (ms::SYNCHRONOUS, "sync"),
            (ms::DIRSYNC, "dirsync"),
            (ms::MANDLOCK, "mand"),
            (ms::LAZYTIME, "lazytime"),
        ]
        .into_iter()
        .filter(|(flag, _)| self.superblock & flag != 0)
        .map(|(_, name)| (name.to_owned(), None))
        .collect();
        options.append(&mut self.data);
        options
    }

    fn flag(&mut self, flags: u64, clear: bool) {
        const ATIME: u64 = ms::NOATIME | ms::NODIRATIME | ms::RELATIME | ms::STRICTATIME;
        self.remount |= flags & ms::REMOUNT != 0;
        self.has_flags |= flags & !ms::REMOUNT != 0;
        self.sets_atime |= flags & ATIME != 0 && !clear;
        for (flag, attribute) in [
            (ms::RDONLY, attr::RDONLY),
            (ms::NOSUID, attr::NOSUID),
            (ms::NODEV, attr::NODEV),
            (ms::NOEXEC, attr::NOEXEC),
            (ms::NODIRATIME, attr::NODIRATIME),
            (ms::NOSYMFOLLOW, attr::NOSYMFOLLOW),
            (ms::NOATIME, attr::NOATIME),
            (ms::STRICTATIME, attr::STRICTATIME),
        ] {
            if flags & flag != 0 {
                merge(&mut self.attributes, attribute, clear);
            }
        }
        if flags & ms::RELATIME != 0 {
            merge(&mut self.attributes, attr::RELATIME, clear);
        }
        let superblock = flags & SUPERBLOCK;
        if clear {
            self.superblock &= !superblock;
        } else {
            self.superblock |= superblock;
        }
    }
}

impl Wish {
    /// What a bind changes of what its source has: with no flag at all nothing, else all flags that are
    /// not named are cleared; only access times stay unless one says how they are kept. So runc does it,
    /// and mount(8) but for flags that are only cleared. In a user namespace flags that may have been set
    /// to keep it out are cleared only if they are named.
    pub(super) fn of_bind(&self, in_user_namespace: bool) -> Attributes {
        const KEEP_OUT: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        const TIMES: u64 = attr::ATIME | attr::NODIRATIME;
        if !self.has_flags {
            return self.attributes;
        }
        let Attributes { set, clear, .. } = self.attributes;
        let flags = if in_user_namespace { clear & KEEP_OUT } else { KEEP_OUT } | attr::NOSYMFOLLOW;
        let (set, times) = if self.sets_atime { (set, TIMES) } else { (set & !TIMES, 0) };
        // The field of access times is cleared as a whole; a flag that is set is not cleared, too.
        let clear = (flags | times) & !(set & !attr::ATIME);
        Attributes { set, clear, ..self.attributes }
    }
}

/// Adds one attribute to what is to change; the last word on it counts.
///
/// The access time is one field with three values: to set one, the field is cleared first; to clear
/// one is to go back to relatime.
fn merge(attributes: &mut Attributes, attribute: u64, clear: bool) {
    let is_atime = attribute == attr::RELATIME || attribute & attr::ATIME != 0;
    let mask = if is_atime { attr::ATIME } else { attribute };
    attributes.set &= !mask;
    attributes.clear &= !mask;
    if is_atime {
        attributes.clear |= mask;
        attributes.set |= if clear { attr::RELATIME } else { attribute };
    } else if clear {
        attributes.clear |= mask;
    } else {
        attributes.set |= mask;
    }
}
