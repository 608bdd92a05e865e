//! What to merge: layers, upper and work directory, options.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The layers of an overlay and how it behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The read-only layers, topmost first; at least one.
    pub lowerdirs: Vec<PathBuf>,
    /// Where changes go. Without it the tree is read-only.
    pub upperdir: Option<PathBuf>,
    /// An empty directory on the same mount as `upperdir`, and required with it.
    pub workdir: Option<PathBuf>,
    /// Whether the kernel gathers writes before it sends them. Small and random writes gain;
    /// large streams lose, and a stat after a write asks the server again.
    pub writeback: bool,
    /// Whether directories of lower layers can be renamed: the upper directory then says where they
    /// come from, which kernel overlayfs with `userxattr` refuses to follow (`EPERM`), and of which
    /// fuse-overlayfs knows nothing. Without, they are `EXDEV`, and mv(1) copies.
    pub redirect_dir: bool,
    /// Where owners and permissions of the upper directory lie.
    pub permissions: PermissionsKept,
}

/// Where owners and permissions lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionsKept {
    /// On disk.
    OnDisk,
    /// On disk, but for set-id bits: those of files lie in `user.containers.override_stat`, so that
    /// nobody outside can make use of them.
    WithoutSetId,
    /// In `security.fuseoverlayfs.override_stat`, which real root alone may set.
    Privileged,
    /// In `user.fuseoverlayfs.override_stat`.
    User,
    /// In `user.containers.override_stat`.
    Containers,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lowerdirs: Vec::new(),
            upperdir: None,
            workdir: None,
            writeback: false,
            redirect_dir: true,
            permissions: PermissionsKept::WithoutSetId,
        }
    }
}

/// Why an option string cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The option is not one of ours.
    #[error(
        "unknown option {0:?}: the options are lowerdir=, upperdir=, workdir=, writeback, nowriteback, redirect_dir=on|off"
    )]
    Unknown(String),
    /// An option that must be given once was given again.
    #[error("option {0}= is given twice: give it once")]
    Twice(&'static str),
    /// The option has no value.
    #[error("option {0}= is empty: name a directory")]
    Empty(&'static str),
    /// There is nothing to merge.
    #[error("no lowerdir= option: name at least one read-only directory")]
    NoLower,
    /// One of the pair is missing.
    #[error("upperdir= and workdir= belong together: {0}= is missing")]
    Incomplete(&'static str),
}

impl Config {
    /// Reads the value of a `-o` option: `lowerdir=A:B,upperdir=U,workdir=W`, the topmost layer
    /// first. `\:`, `\,` and `\\` stand for characters of a path.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the option and what to do.
    pub fn from_options(options: &OsStr) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for option in split(options.as_bytes(), b',') {
            config.apply(&option)?;
        }
        config.check()
    }

    fn apply(&mut self, option: &[u8]) -> Result<(), ConfigError> {
        let (key, value) = match option.iter().position(|byte| *byte == b'=') {
            Some(at) => option.split_at(at),
            None => (option, &b""[..]),
        };
        match (key, value.strip_prefix(b"=")) {
            (b"lowerdir", Some(value)) => {
                if !self.lowerdirs.is_empty() {
                    return Err(ConfigError::Twice("lowerdir"));
                }
                for layer in split(value, b':') {
                    self.lowerdirs.push(path("lowerdir", &layer)?);
                }
            }
            (b"upperdir", Some(value)) => set(&mut self.upperdir, "upperdir", value)?,
            (b"workdir", Some(value)) => set(&mut self.workdir, "workdir", value)?,
            (b"writeback", None) => self.writeback = true,
            (b"nowriteback", None) => self.writeback = false,
            (b"redirect_dir", Some(b"on")) => self.redirect_dir = true,
            (b"redirect_dir", Some(b"off")) => self.redirect_dir = false,
            (b"", None) => {}
            _ => return Err(ConfigError::Unknown(String::from_utf8_lossy(option).into_owned())),
        }
        Ok(())
    }

    fn check(self) -> Result<Self, ConfigError> {
        match (&self.upperdir, &self.workdir) {
            _ if self.lowerdirs.is_empty() => Err(ConfigError::NoLower),
            (Some(_), None) => Err(ConfigError::Incomplete("workdir")),
            (None, Some(_)) => Err(ConfigError::Incomplete("upperdir")),
            _ => Ok(self),
        }
    }
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
            assert_eq!(Config::from_options(OsStr::new(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_writeback_cache_is_a_choice() {
        let chosen = |text| Config::from_options(OsStr::new(text)).unwrap().writeback;
        assert!(chosen("lowerdir=/a,writeback"));
        assert!(!chosen("lowerdir=/a,writeback,nowriteback"));
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
            ("lowerdir=/a,metacopy=on", ConfigError::Unknown("metacopy=on".into())),
            ("lowerdir", ConfigError::Unknown("lowerdir".into())),
            ("lowerdir=/a,writeback=1", ConfigError::Unknown("writeback=1".into())),
        ] {
            assert_eq!(Config::from_options(OsStr::new(text)), Err(expected), "{text}");
        }
    }
}
