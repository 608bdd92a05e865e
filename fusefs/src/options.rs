//! The options of fuse-overlayfs, read.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, PermissionsKept};
use crate::device::MountOptions;
use crate::ids::IdMap;

/// What the options of a command line say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What to merge, and how.
    pub config: Config,
    /// How to mount it.
    pub mount: MountOptions,
    /// Whether to tell what is done (`debug`).
    pub debug: bool,
    /// What is no option of ours, as it was given.
    pub unknown: Vec<String>,
}

/// Why an option string cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An option that must be given once was given again.
    #[error("option {0}= is given twice: give it once")]
    Twice(&'static str),
    /// The option has no value.
    #[error("option {0}= is empty: name a directory")]
    Empty(&'static str),
    /// The option has a value that it cannot have.
    #[error("option {option}: {wanted}")]
    Value {
        /// As it was given.
        option: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// There is nothing to merge.
    #[error("no lowerdir= option: name at least one read-only directory")]
    NoLower,
    /// One of the pair is missing.
    #[error("upperdir= and workdir= belong together: {0}= is missing")]
    Incomplete(&'static str),
    /// The option is not one of ours.
    #[error("unknown option {0:?}: see --help")]
    Unknown(String),
}

/// Options that mean nothing here, as what they ask for is always so or makes no difference.
const WITHOUT_MEANING: [&[u8]; 21] = [
    b"allow_root",
    b"default_permissions",
    b"threaded",
    b"fast_ino",
    b"rw",
    b"fast_ino_check",
    b"splice_read",
    b"splice_write",
    b"splice_move",
    b"kernel_cache",
    b"suid",
    b"dev",
    b"exec",
    b"atime",
    b"diratime",
    b"max_write",
    b"max_read",
    b"subtype",
    b"fsname",
    b"auto_unmount",
    b"",
];

impl Options {
    /// Reads the value of a `-o` option: `lowerdir=A:B,upperdir=U,workdir=W` and so on, the topmost
    /// layer first. `\:`, `\,` and `\\` stand for characters of a path. What is not said is as in
    /// `defaults`.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the option and what to do. Unknown options are none: they are handed
    /// back by name.
    pub fn parse(options: &OsStr, defaults: Config) -> Result<Self, ConfigError> {
        let mount = MountOptions::default();
        let mut parsed = Self { config: defaults, mount, debug: false, unknown: Vec::new() };
        let mut squash = Squash::default();
        for option in split(options.as_bytes(), b',') {
            let (key, value) = match option.iter().position(|byte| *byte == b'=') {
                Some(at) => (option.get(..at).unwrap_or_default(), option.get(at + 1..)),
                None => (option.as_slice(), None),
            };
            let known = parsed.apply_layers(key, value)?
                || parsed.apply_owners(&option, key, value, &mut squash)?
                || parsed.apply_choice(&option, key, value)?
                || parsed.apply_mount(key, value)
                || WITHOUT_MEANING.contains(&key);
            if !known {
                parsed.unknown.push(text(&option));
            }
        }
        squash.finish(&mut parsed.config);
        parsed.check()
    }

    fn apply_layers(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<bool, ConfigError> {
        let (config, Some(value)) = (&mut self.config, value) else { return Ok(false) };
        match key {
            b"lowerdir" => {
                if !config.lowerdirs.is_empty() {
                    return Err(ConfigError::Twice("lowerdir"));
                }
                for layer in split(value, b':') {
                    config.lowerdirs.push(path("lowerdir", &layer)?);
                }
            }
            b"upperdir" => set(&mut config.upperdir, "upperdir", value)?,
            b"workdir" => set(&mut config.workdir, "workdir", value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options that say how owners are shown and kept.
    fn apply_owners(
        &mut self,
        option: &[u8],
        key: &[u8],
        value: Option<&[u8]>,
        squash: &mut Squash,
    ) -> Result<bool, ConfigError> {
        let refuse = |wanted| ConfigError::Value { option: text(option), wanted };
        let value = value.map(text);
        let id = |value: &str| value.parse().map_err(|_none| refuse("want a number"));
        match (key, value.as_deref()) {
            (b"uidmapping" | b"gidmapping", Some(value)) => {
                let form = "want ID:SHOWN-ID:COUNT, again and again, all of them numbers";
                let map = IdMap::parse(value).ok_or_else(|| refuse(form))?;
                let users = key == b"uidmapping";
                *if users { &mut self.config.users } else { &mut self.config.groups } = map;
            }
            (b"squash_to_root", None) => squash.root = true,
            (b"squash_to_uid", Some(value)) => squash.uid = Some(id(value)?),
            (b"squash_to_gid", Some(value)) => squash.gid = Some(id(value)?),
            (b"xattr_permissions", Some(value)) => {
                self.config.permissions = match value {
                    "0" => PermissionsKept::OnDisk,
                    "1" => PermissionsKept::Privileged,
                    "2" => PermissionsKept::User,
                    "3" => PermissionsKept::Containers,
                    _ => return Err(refuse("want 0, 1, 2 or 3")),
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options that say yes or no.
    fn apply_choice(
        &mut self,
        option: &[u8],
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<bool, ConfigError> {
        let refuse = |wanted| ConfigError::Value { option: text(option), wanted };
        let number = |value: Option<&[u8]>| match value {
            None | Some(b"1") => Ok(true),
            Some(b"0") => Ok(false),
            Some(_) => Err(refuse("want 0 or 1")),
        };
        let config = &mut self.config;
        match (key, value) {
            (b"writeback", value) => config.writeback = number(value)?,
            (b"nowriteback", None) => config.writeback = false,
            (b"noxattrs", value) => config.xattrs = !number(value)?,
            (b"fsync" | b"sync", value) => config.fsync = number(value)?,
            (b"volatile", None) => config.fsync = false,
            (b"noacl", None) => config.acl = false,
            (b"static_nlink", None) => config.static_nlink = true,
            (b"ino32_t", None) => config.short_numbers = true,
            (b"debug", None) => self.debug = true,
            (b"redirect_dir", Some(b"on")) => config.redirect_dir = true,
            (b"redirect_dir", Some(b"off")) => config.redirect_dir = false,
            (b"redirect_dir", _) => return Err(refuse("want on or off")),
            // Inode numbers are the same with each mount in any case.
            (b"xino", Some(b"on" | b"off" | b"auto")) => {}
            (b"xino", _) => return Err(refuse("want on, off or auto")),
            (b"plugins", Some(b"")) => {}
            (b"plugins", _) => return Err(refuse("there are no plugins; leave it out")),
            (b"timeout", Some(value)) => {
                let seconds = text(value).parse().ok().filter(|seconds: &f64| *seconds >= 0.0);
                let seconds = seconds.ok_or_else(|| refuse("want a number of seconds"))?;
                config.timeout = Duration::try_from_secs_f64(seconds).ok();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options of the mount.
    fn apply_mount(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let mount = &mut self.mount;
        match (key, value) {
            (b"context", Some(value)) => mount.context = Some(OsString::from_vec(value.to_vec())),
            (b"allow_other", None) => mount.allow_other = true,
            (b"ro", None) => mount.read_only = true,
            (b"nosuid", None) => mount.no_suid = true,
            (b"nodev", None) => mount.no_dev = true,
            (b"noexec", None) => mount.no_exec = true,
            // fuse-overlayfs gives itself `noatime=1`.
            (b"noatime", None | Some(b"1")) => mount.no_atime = true,
            (b"nodiratime", None) => mount.no_dir_atime = true,
            _ => return false,
        }
        true
    }

    fn check(self) -> Result<Self, ConfigError> {
        match (&self.config.upperdir, &self.config.workdir) {
            _ if self.config.lowerdirs.is_empty() => Err(ConfigError::NoLower),
            (Some(_), None) => Err(ConfigError::Incomplete("workdir")),
            (None, Some(_)) => Err(ConfigError::Incomplete("upperdir")),
            _ => Ok(self),
        }
    }
}

/// Who is shown as owner of everything; a single id has precedence over root.
#[derive(Default)]
struct Squash {
    root: bool,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Squash {
    fn finish(self, config: &mut Config) {
        let root = self.root.then_some(0);
        config.users.squash = self.uid.or(root);
        config.groups.squash = self.gid.or(root);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn set(field: &mut Option<PathBuf>, name: &'static str, value: &[u8]) -> Result<(), ConfigError> {
    if field.is_some() {
        return Err(ConfigError::Twice(name));
    }
    *field = Some(path(name, value)?);
    Ok(())
}

/// The path that `text` spells with escapes.
fn path(name: &'static str, text: &[u8]) -> Result<PathBuf, ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::Empty(name));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut escaped = false;
    for byte in text {
        if *byte == b'\\' && !escaped {
            escaped = true;
        } else {
            bytes.push(*byte);
            escaped = false;
        }
    }
    if escaped {
        bytes.push(b'\\');
    }
    Ok(OsString::from_vec(bytes).into())
}

/// Splits at `separator`, except after a backslash; escapes stay as they are.
fn split(text: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut escaped = false;
    for byte in text {
        if *byte == separator && !escaped {
            parts.push(Vec::new());
            continue;
        }
        escaped = *byte == b'\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(*byte);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Options::parse(OsStr::new(text), Config::default()).map(|options| options.config)
    }

    fn config(lower: &[&str], upper: Option<&str>, work: Option<&str>) -> Config {
        Config {
            lowerdirs: lower.iter().map(PathBuf::from).collect(),
            upperdir: upper.map(PathBuf::from),
            workdir: work.map(PathBuf::from),
            ..Config::default()
        }
    }

    #[test]
    fn options_are_read_with_their_escapes() {
        for (text, expected) in [
            ("lowerdir=/a", config(&["/a"], None, None)),
            (
                "lowerdir=/a:/b,upperdir=/u,workdir=/w",
                config(&["/a", "/b"], Some("/u"), Some("/w")),
            ),
            ("workdir=/w,upperdir=/u,lowerdir=/a", config(&["/a"], Some("/u"), Some("/w"))),
            (r"lowerdir=/a\:b:/c\\:/d\,e", config(&["/a:b", r"/c\", "/d,e"], None, None)),
            ("lowerdir=/a=b,", config(&["/a=b"], None, None)),
            (r"lowerdir=/a\", config(&[r"/a\"], None, None)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_writeback_cache_is_a_choice() {
        let chosen = |text| parse(text).unwrap().writeback;
        assert!(chosen("lowerdir=/a,writeback"));
        assert!(!chosen("lowerdir=/a,writeback,nowriteback"));
        assert!(!chosen("lowerdir=/a,writeback=0"));
    }

    #[test]
    fn every_option_of_fuse_overlayfs_means_something() {
        let with = |option: &str| parse(&format!("lowerdir=/a,{option}")).unwrap();
        let map = |text| IdMap::parse(text).unwrap();
        assert_eq!(with("uidmapping=0:1000:1").users, map("0:1000:1"));
        assert_eq!(with("gidmapping=0:5:1:1:6:2").groups, map("0:5:1:1:6:2"));
        let squashed = with("squash_to_root,squash_to_gid=7");
        assert_eq!((squashed.users.squash, squashed.groups.squash), (Some(0), Some(7)));
        assert_eq!(with("squash_to_uid=9").users.squash, Some(9));
        assert_eq!(with("xattr_permissions=2").permissions, PermissionsKept::User);
        assert!(!with("volatile").fsync && !with("fsync=0").fsync && with("fsync=1").fsync);
        assert!(!with("noacl").acl && !with("noxattrs=1").xattrs && with("noxattrs=0").xattrs);
        assert!(with("static_nlink").static_nlink && with("ino32_t").short_numbers);
        assert_eq!(with("timeout=1.5").timeout, Some(Duration::from_millis(1500)));
        assert_eq!(with("timeout=1e30").timeout, None);
        assert!(!with("redirect_dir=off").redirect_dir);
        let plain = Config { lowerdirs: vec!["/a".into()], ..Config::default() };
        for option in ["xino=auto", "threaded=1", "allow_root", "suid", "fast_ino=1", "plugins="] {
            assert_eq!(with(option), plain, "{option}");
        }
    }

    #[test]
    fn options_of_the_mount_go_to_the_mount() {
        let text = "lowerdir=/a,allow_other,context=system_u:object_r,ro,nosuid,nodev,noexec,noatime,nodiratime,debug";
        let options = Options::parse(OsStr::new(text), Config::default()).unwrap();
        let expected = MountOptions {
            context: Some("system_u:object_r".into()),
            allow_other: true,
            read_only: true,
            no_suid: true,
            no_dev: true,
            no_exec: true,
            no_atime: true,
            no_dir_atime: true,
        };
        assert_eq!(options.mount, expected);
        assert!(options.debug && options.unknown.is_empty());
    }

    #[test]
    fn unknown_options_are_handed_back_by_name() {
        let text = "lowerdir=/a,lazytime,metacopy=on,lowerdir";
        let options = Options::parse(OsStr::new(text), Config::default()).unwrap();
        assert_eq!(options.unknown, ["lazytime", "metacopy=on", "lowerdir"]);
    }

    #[test]
    fn values_that_an_option_cannot_have_are_refused() {
        for option in [
            "uidmapping=0:0",
            "gidmapping=a",
            "squash_to_uid=-1",
            "xattr_permissions=4",
            "writeback=2",
            "redirect_dir=follow",
            "xino=maybe",
            "timeout=-1",
            "timeout=soon",
            "plugins=/x.so",
        ] {
            let error = parse(&format!("lowerdir=/a,{option}")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("option {option}: ")), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        for (text, expected) in [
            ("", ConfigError::NoLower),
            ("upperdir=/u,workdir=/w", ConfigError::NoLower),
            ("lowerdir=/a,upperdir=/u", ConfigError::Incomplete("workdir")),
            ("lowerdir=/a,workdir=/w", ConfigError::Incomplete("upperdir")),
            ("lowerdir=/a,lowerdir=/b", ConfigError::Twice("lowerdir")),
            ("lowerdir=/a::/b", ConfigError::Empty("lowerdir")),
            ("lowerdir=/a,upperdir=,workdir=/w", ConfigError::Empty("upperdir")),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
    }
}
