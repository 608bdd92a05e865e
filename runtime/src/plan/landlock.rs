//! A Landlock profile, from an annotation: what of the container its programs may touch at all.
//!
//! ```json
//! {
//!   "mode": "required",
//!   "paths": { "/": ["read", "execute"], "/tmp": ["read", "write"] },
//!   "tcp": { "bind": [8080], "connect": [] },
//!   "scopes": ["signal", "abstractUnixSocket"]
//! }
//! ```
//! What a section is about is forbidden but for what it lists; what has no section is not restricted.
//! runtime-spec has no such thing yet (its issue 1110).

use std::path::{Component, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use serde_json::{Map, Value};

use crate::sys::landlock::Handled;

/// The annotation that holds the profile, as JSON text.
pub const LANDLOCK: &str = "dev.rrun.landlock";

/// One right to files: its name, its bit, and the first version of Landlock that has it.
///
/// Source: Linux `include/uapi/linux/landlock.h`; landlock(7).
const RIGHTS: [(&str, u64, i64); 16] = [
    ("execute", 1 << 0, 1),
    ("writeFile", 1 << 1, 1),
    ("readFile", 1 << 2, 1),
    ("readDir", 1 << 3, 1),
    ("removeDir", 1 << 4, 1),
    ("removeFile", 1 << 5, 1),
    ("makeChar", 1 << 6, 1),
    ("makeDir", 1 << 7, 1),
    ("makeReg", 1 << 8, 1),
    ("makeSock", 1 << 9, 1),
    ("makeFifo", 1 << 10, 1),
    ("makeBlock", 1 << 11, 1),
    ("makeSym", 1 << 12, 1),
    ("refer", 1 << 13, 2),
    ("truncate", 1 << 14, 3),
    ("ioctlDev", 1 << 15, 5),
];

/// `readFile` and `readDir`.
const READ: u64 = 1 << 2 | 1 << 3;

/// All that changes files and directories: all but to execute, to read, and ioctl on devices.
const WRITE: u64 = 0x7fff & !READ & !1;

/// The version that can keep a file from being emptied: without it nothing is read-only.
const WHOLE_FILES: i64 = 3;
const WITH_TCP: i64 = 4;
const WITH_SCOPES: i64 = 6;

/// `LANDLOCK_ACCESS_NET_BIND_TCP` and `LANDLOCK_ACCESS_NET_CONNECT_TCP`
const TCP: [(&str, u64); 2] = [("bind", 1), ("connect", 2)];

/// `LANDLOCK_SCOPE_*`
const SCOPES: [(&str, u64); 2] = [("abstractUnixSocket", 1), ("signal", 2)];

/// What is forbidden, and what is allowed of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// All that is forbidden where no rule allows it.
    pub handled: Handled,
    /// Paths inside with the rights to them.
    pub paths: Vec<(PathBuf, u64)>,
    /// TCP ports with the rights to them.
    pub ports: Vec<(u16, u64)>,
}

/// The profile in `text` for a kernel that has `version` of Landlock, and warnings about what is left
/// out of it, which only the mode `bestEffort` permits.
///
/// # Errors
///
/// What is wrong with the profile or more than the kernel can enforce, with its JSON pointer; `None` if
/// the kernel has no Landlock and the mode permits that.
pub fn plan(text: &str, version: nix::Result<i64>) -> Result<(Option<Profile>, Vec<String>)> {
    let at = format!("/annotations/{LANDLOCK}");
    let value: Value = serde_json::from_str(text).with_context(|| format!("{at}: want JSON"))?;
    let fields = object(&value, &at)?;
    known(fields, &["mode", "paths", "scopes", "tcp"], &at)?;
    let required = match fields.get("mode").and_then(Value::as_str) {
        Some("required") => true,
        Some("bestEffort") => false,
        _ => bail!("{at}/mode: want \"required\" or \"bestEffort\""),
    };
    let mut wanted = Profile::default();
    let mut needs = Vec::new();
    if let Some(paths) = fields.get("paths") {
        let pointer = format!("{at}/paths");
        needs.push((wanted.add_paths(object(paths, &pointer)?, &pointer)?, pointer));
    }
    if let Some(tcp) = fields.get("tcp") {
        let pointer = format!("{at}/tcp");
        wanted.add_ports(object(tcp, &pointer)?, &pointer)?;
        needs.push((WITH_TCP, pointer));
    }
    if let Some(scopes) = fields.get("scopes") {
        let pointer = format!("{at}/scopes");
        wanted.handled.scopes = bits(scopes, &SCOPES, &pointer)?;
        needs.push((WITH_SCOPES, pointer));
    }
    ensure!(!needs.is_empty(), "{at}: restricts nothing: give paths, tcp or scopes");
    fit(wanted, &needs, version, required)
}

/// Leaves out of `wanted` what `version` does not have.
fn fit(
    mut wanted: Profile,
    needs: &[(i64, String)],
    version: nix::Result<i64>,
    required: bool,
) -> Result<(Option<Profile>, Vec<String>)> {
    let has = match version {
        Ok(version) => version,
        Err(errno) => {
            let why = match errno {
                Errno::EOPNOTSUPP => "it is not enabled: boot with landlock in lsm=",
                _ => "this kernel does not have it",
            };
            ensure!(!required, "/annotations/{LANDLOCK}: Landlock is required, but {why}");
            return Ok((None, vec![format!("no Landlock profile: {why}")]));
        }
    };
    let mut warnings = Vec::new();
    for (needed, pointer) in needs.iter().filter(|(needed, _)| *needed > has) {
        let lack = format!("{pointer}: needs version {needed} of Landlock, this kernel has {has}");
        ensure!(!required, "{lack}: use a newer one, or the mode bestEffort");
        warnings.push(format!("{lack}: not all of it is enforced"));
    }
    let bits = RIGHTS.iter().filter(|right| right.2 <= has).fold(0, |all, right| all | right.1);
    wanted.handled.files &= bits;
    wanted.paths.iter_mut().for_each(|(_path, rights)| *rights &= bits);
    if has < WITH_TCP {
        wanted.handled.network = 0;
        wanted.ports.clear();
    }
    if has < WITH_SCOPES {
        wanted.handled.scopes = 0;
    }
    let nothing = wanted.handled == Handled::default();
    Ok(((!nothing).then_some(wanted), warnings))
}

impl Profile {
    /// Returns the version that is needed.
    fn add_paths(&mut self, paths: &Map<String, Value>, at: &str) -> Result<i64> {
        let groups = [("read", READ), ("write", WRITE)];
        let names: Vec<(&str, u64)> =
            groups.into_iter().chain(RIGHTS.iter().map(|right| (right.0, right.1))).collect();
        self.handled.files = RIGHTS.iter().fold(0, |all, right| all | right.1);
        let mut needed = WHOLE_FILES;
        for (path, rights) in paths {
            let pointer = format!("{at}/{}", path.replace('~', "~0").replace('/', "~1"));
            let rights = bits(rights, &names, &pointer)?;
            let path = PathBuf::from(path);
            let plain = path.components().all(|part| part != Component::ParentDir);
            ensure!(path.is_absolute() && plain, "{pointer}: want an absolute path without \"..\"");
            let newest = RIGHTS.iter().filter(|right| rights & right.1 != 0).map(|right| right.2);
            needed = newest.chain([needed]).max().unwrap_or(needed);
            self.paths.push((path, rights));
        }
        Ok(needed)
    }

    fn add_ports(&mut self, tcp: &Map<String, Value>, at: &str) -> Result<()> {
        known(tcp, &TCP.map(|(name, _)| name), at)?;
        for (name, bit) in TCP {
            let Some(ports) = tcp.get(name) else { continue };
            self.handled.network |= bit;
            let pointer = format!("{at}/{name}");
            for (index, port) in list(ports, &pointer)?.iter().enumerate() {
                let number = port.as_u64().and_then(|port| u16::try_from(port).ok());
                let number =
                    number.with_context(|| format!("{pointer}/{index}: want 0 to 65535"))?;
                self.ports.push((number, bit));
            }
        }
        ensure!(self.handled.network != 0, "{at}: restricts nothing: give bind or connect");
        Ok(())
    }
}

fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| anyhow!("{at}: want an object"))
}

fn list<'a>(value: &'a Value, at: &str) -> Result<&'a Vec<Value>> {
    value.as_array().ok_or_else(|| anyhow!("{at}: want a list"))
}

fn known(fields: &Map<String, Value>, names: &[&str], at: &str) -> Result<()> {
    match fields.keys().find(|field| !names.contains(&field.as_str())) {
        Some(field) => bail!("{at}/{field}: is unknown: want {}", names.join(", ")),
        None => Ok(()),
    }
}

/// The bits of the names in `value`.
fn bits(value: &Value, names: &[(&str, u64)], at: &str) -> Result<u64> {
    list(value, at)?.iter().enumerate().try_fold(0, |bits, (index, name)| {
        let found = names.iter().find(|(known, _)| name.as_str() == Some(known));
        let (_name, bit) = found.ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            anyhow!("{at}/{index}: {name} is unknown: want {}", names.join(", "))
        })?;
        Ok(bits | bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"mode": "required", "paths": {"/": ["read", "execute"],
        "/tmp": ["read", "write", "ioctlDev"]}, "tcp": {"bind": [80, 8080], "connect": []},
        "scopes": ["signal"]}"#;

    #[test]
    fn names_become_bits() {
        let (profile, warnings) = plan(WHOLE, Ok(6)).unwrap();
        let expected = Profile {
            handled: Handled { files: 0xffff, network: 3, scopes: 2 },
            paths: vec![("/".into(), 0b1101), ("/tmp".into(), 0xfffe)],
            ports: vec![(80, 1), (8080, 1)],
        };
        assert_eq!((profile, warnings), (Some(expected), Vec::new()));
    }

    #[test]
    fn an_older_kernel_is_refused_or_does_what_it_can() {
        let error = plan(WHOLE, Ok(3)).unwrap_err().to_string();
        assert!(
            error.contains("/paths: needs version 5 of Landlock, this kernel has 3"),
            "{error}"
        );
        let error = plan(WHOLE, Err(Errno::EOPNOTSUPP)).unwrap_err().to_string();
        assert!(error.contains("Landlock is required, but it is not enabled"), "{error}");
        let lenient = WHOLE.replace("required", "bestEffort");
        let (profile, warnings) = plan(&lenient, Ok(3)).unwrap();
        let profile = profile.unwrap();
        assert_eq!(profile.handled, Handled { files: 0x7fff, network: 0, scopes: 0 });
        assert_eq!((profile.paths[1].1, profile.ports.len()), (0x7ffe, 0));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        let (profile, warnings) = plan(&lenient, Err(Errno::ENOSYS)).unwrap();
        assert_eq!((profile, warnings.len()), (None, 1));
        let files = r#"{"mode": "required", "paths": {"/": ["read"]}}"#;
        assert!(plan(files, Ok(2)).is_err() && plan(files, Ok(3)).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_pointer() {
        for (text, complaint) in [
            ("{", ": want JSON"),
            ("[]", ": want an object"),
            (r#"{"paths": {}}"#, "/mode: want \"required\" or \"bestEffort\""),
            (r#"{"mode": "required"}"#, ": restricts nothing"),
            (r#"{"mode": "required", "path": {}}"#, "/path: is unknown: want mode, paths"),
            (r#"{"mode": "required", "paths": []}"#, "/paths: want an object"),
            (r#"{"mode": "required", "paths": {"a/b": []}}"#, "/paths/a~1b: want an absolute path"),
            (r#"{"mode": "required", "paths": {"/../a": []}}"#, "/paths/~1..~1a: want an absolute"),
            (r#"{"mode": "required", "paths": {"/": "read"}}"#, "/paths/~1: want a list"),
            (r#"{"mode": "required", "paths": {"/": ["rw"]}}"#, "/paths/~1/0: \"rw\" is unknown"),
            (r#"{"mode": "required", "tcp": {}}"#, "/tcp: restricts nothing"),
            (r#"{"mode": "required", "tcp": {"bind": [65536]}}"#, "/tcp/bind/0: want 0 to 65535"),
            (r#"{"mode": "required", "tcp": {"listen": []}}"#, "/tcp/listen: is unknown"),
            (r#"{"mode": "required", "scopes": ["all"]}"#, "/scopes/0: \"all\" is unknown"),
        ] {
            let error = format!("{:#}", plan(text, Ok(6)).unwrap_err());
            let expected = format!("/annotations/{LANDLOCK}{complaint}");
            assert!(error.starts_with(&expected), "{text}: {error}");
        }
    }
}
