//! `config.json` of a bundle: found, read, parsed; errors with line and column.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use oci_spec::runtime as oci;
use serde::{Deserializer, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::check::escape;

/// The file in a bundle that says what the container should be.
pub const CONFIG: &str = "config.json";

/// Bytes that a config may have. The largest that engines write, with a seccomp profile and a
/// hundred mounts, has about 200 KiB; the limit keeps a wrong path from filling the memory.
const LIMIT: u64 = 16 << 20;

/// A directory with a config, and what that config says.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// The directory, absolute and without symbolic links; relative paths of the spec start here.
    pub dir: PathBuf,
    /// The parsed config. It is well-formed; whether it makes sense, [`check`](crate::check()) says.
    pub spec: oci::Spec,
    /// The config byte for byte, so that nobody has to read it a second time.
    pub text: Vec<u8>,
}

/// Why there is no spec. The `Display` of each is one line without its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The bundle is not there, is no directory, or may not be entered.
    #[error("bundle {}", dir.display())]
    Bundle {
        /// The directory as the caller named it.
        dir: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bundle has no config. The beginning of the sentence is what runc says.
    #[error(
        "JSON specification file {CONFIG} not found in bundle {}: \
         write one there with `rrun spec`, or name another bundle with --bundle",
        dir.display()
    )]
    NoConfig {
        /// The bundle.
        dir: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory, a fifo, a device: reading it may never end.
    #[error("read {}: not a regular file", path.display())]
    NotRegular {
        /// What is not a file.
        path: PathBuf,
    },
    /// The file has more than 16 MiB.
    #[error("read {}: larger than {} MiB", path.display(), LIMIT >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not JSON, or a value of another type than runtime-spec gives it.
    #[error("{}{place}: {pointer}{cause}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// ` line L column C`, both counted from 1.
        place: String,
        /// The JSON pointer of the value with `: ` behind it; empty for the document itself.
        pointer: String,
        /// What is wrong with the value.
        cause: String,
    },
}

/// Reads and parses `config.json` of the bundle `dir`.
///
/// # Errors
///
/// [`LoadError`]; nothing is left behind.
pub fn load_bundle(dir: &Path) -> Result<Bundle, LoadError> {
    let canonical = canonical(dir)?;
    let path = canonical.join(CONFIG);
    let text = match read(&path) {
        Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(LoadError::NoConfig { dir: canonical });
        }
        Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {
            return Err(LoadError::Bundle { dir: canonical, source });
        }
        read => read?,
    };
    Ok(Bundle { spec: parse(&text, &path)?, dir: canonical, text })
}

/// Reads and parses `config` in place of the bundle's own `config.json`.
///
/// # Errors
///
/// [`LoadError`]; nothing is left behind.
pub fn load_bundle_with(dir: &Path, config: &Path) -> Result<Bundle, LoadError> {
    let text = read(config)?;
    Ok(Bundle { spec: parse(&text, config)?, dir: canonical(dir)?, text })
}

fn canonical(dir: &Path) -> Result<PathBuf, LoadError> {
    dir.canonicalize().map_err(|source| LoadError::Bundle { dir: dir.to_owned(), source })
}

/// Reads and parses a file that holds a `process` object alone, as `exec --process` takes it.
///
/// # Errors
///
/// [`LoadError`]; nothing is left behind.
pub fn load_process(path: &Path) -> Result<oci::Process, LoadError> {
    parse_process(&read_also_pipe(path)?, path)
}

/// Parses a `process` object alone; `path` is only for the error text.
///
/// # Errors
///
/// [`LoadError::Syntax`]
pub fn parse_process(text: &[u8], path: &Path) -> Result<oci::Process, LoadError> {
    from_json(text, path, repair_process)
}

/// Reads and parses a file that holds a list of mounts alone, as `mounts add` takes it.
///
/// # Errors
///
/// [`LoadError`]; nothing is left behind.
pub fn load_mounts(path: &Path) -> Result<Vec<oci::Mount>, LoadError> {
    from_json(&read(path)?, path, |_nothing_to_mend| false)
}

/// Parses a whole config; `path` is only for the error text.
///
/// What Go runtimes accept though the types do not is mended first: a capability with an unknown
/// name is dropped with a warning, for runtime-spec wants no failure for one that cannot be
/// granted, and a process without `user` is uid 0 and gid 0.
/// An empty `pids`, which is not the same as a limit of 0, is as none at all, and so is the empty path
/// of a namespace.
///
/// # Errors
///
/// [`LoadError::Syntax`]
pub fn parse(text: &[u8], path: &Path) -> Result<oci::Spec, LoadError> {
    let mut spec: oci::Spec =
        from_json(text, path, |config| config.get_mut("process").is_some_and(repair_process))?;
    let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    for namespace in namespaces.into_iter().flatten() {
        let path = namespace.path().clone();
        namespace.set_path(path.filter(|path| !path.as_os_str().is_empty()));
    }
    let resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(resources) = resources {
        drop_empty_pids(resources, text, "/linux/resources");
    }
    Ok(spec)
}

/// Parses a `linux.resources` object alone, as `update` takes it; `path` is only for the error text.
///
/// # Errors
///
/// [`LoadError::Syntax`]
pub fn parse_resources(text: &[u8], path: &Path) -> Result<oci::LinuxResources, LoadError> {
    let mut resources = from_json(text, path, |_| false)?;
    drop_empty_pids(&mut resources, text, "");
    Ok(resources)
}

/// The type knows no limit that is not there, only 0.
fn drop_empty_pids(resources: &mut oci::LinuxResources, text: &[u8], pointer: &str) {
    if resources.pids().is_none_or(|pids| pids.limit() != 0) {
        return;
    }
    let document = serde_json::from_slice::<Value>(text).unwrap_or_default();
    if document.pointer(&format!("{pointer}/pids/limit")).is_none_or(Value::is_null) {
        resources.set_pids(None);
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let file = open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(LoadError::NotRegular { path: path.to_owned() });
    }
    read_all(file, path)
}

/// The same, but a pipe is waited for: shells make one of `--process <(…)`.
fn read_also_pipe(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.file_type().is_fifo() {
        return read_all(File::open(path).map_err(failed)?, path);
    }
    read(path)
}

fn read_all(file: File, path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    let size = metadata.len().min(LIMIT);
    // With room to see that nothing follows.
    let mut text = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    // One byte more than allowed, for the file may have grown.
    let length = file.take(LIMIT + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(length).is_ok_and(|length| length <= LIMIT) {
        Ok(text)
    } else {
        Err(LoadError::TooLarge { path: path.to_owned() })
    }
}

/// Never waits for the other end of a fifo, never takes a terminal.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// `repair` changes the document and says whether it did.
fn from_json<T: DeserializeOwned>(
    text: &[u8],
    path: &Path,
    repair: impl Fn(&mut Value) -> bool,
) -> Result<T, LoadError> {
    if let Ok(parsed) = serde_json::from_slice(text) {
        return Ok(parsed);
    }
    if let Ok(mut document) = serde_json::from_slice::<Value>(text)
        && repair(&mut document)
    {
        return located(document, path);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let parsed = located(&mut deserializer, path)?;
    deserializer.end().map_err(|error| syntax(path, String::new(), &error))?;
    Ok(parsed)
}

/// Parses slowly, keeping track of where in the document it is.
fn located<'de, T: DeserializeOwned>(
    deserializer: impl Deserializer<'de, Error = serde_json::Error>,
    path: &Path,
) -> Result<T, LoadError> {
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let pointer: String = error.path().iter().filter_map(step).collect();
        syntax(path, pointer, error.inner())
    })
}

fn step(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", escape(key))),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn syntax(path: &Path, mut pointer: String, error: &serde_json::Error) -> LoadError {
    let (line, column) = (error.line(), error.column());
    let said = error.to_string();
    let cause = said.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&said);
    let cause = format!("{}{cause}", name_of(&pointer, cause));
    // A repaired document has lost its lines.
    let place = if line == 0 { String::new() } else { format!(" line {line} column {column}") };
    if !pointer.is_empty() {
        pointer.push_str(": ");
    }
    let (pointer, cause) = (one_line(&pointer), one_line(&cause));
    LoadError::Syntax { path: path.to_owned(), place, pointer, cause }
}

/// What runc calls a wrong value, where others look for its words.
fn name_of(pointer: &str, cause: &str) -> &'static str {
    match pointer.strip_prefix("/linux/memoryPolicy") {
        Some("/mode") => "invalid memory policy mode: ",
        Some("") if cause.contains("`mode`") => "invalid memory policy mode: ",
        Some(place) if place.starts_with("/flags/") => "invalid memory policy flag: ",
        _ => "",
    }
}

/// What was wrong may be quoted in it, line breaks and all.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

fn repair_process(process: &mut Value) -> bool {
    let Some(process) = process.as_object_mut() else { return false };
    let mut repaired = false;
    if process.get("user").is_none_or(Value::is_null) {
        process.insert("user".to_owned(), serde_json::json!({}));
        repaired = true;
    }
    repaired |= repair_scheduler(process) | repair_affinity(process);
    let mut unknown = BTreeSet::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for names in sets.into_iter().flatten().filter_map(|(_set, names)| names.as_array_mut()) {
        names.retain(|name| {
            let is_unknown = name.is_string() && !is_capability(name);
            unknown.extend(name.as_str().filter(|_| is_unknown).map(str::to_owned));
            !is_unknown
        });
    }
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.iter().map(String::as_str).collect();
        // runc's words.
        log::warn!("ignoring unknown or unavailable capabilities: [{}]", names.join(" "));
    }
    repaired | !unknown.is_empty()
}

/// The types have these flags by other names than the kernel, runc and crun.
fn repair_scheduler(process: &mut serde_json::Map<String, Value>) -> bool {
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    let mut repaired = false;
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let name = match flag.as_str() {
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            _ => continue,
        };
        *flag = name.into();
        repaired = true;
    }
    repaired
}

/// An empty list of processors is none (runtime-spec, "execCPUAffinity"); the types refuse it.
fn repair_affinity(process: &mut serde_json::Map<String, Value>) -> bool {
    let affinity = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut);
    let Some(affinity) = affinity else { return false };
    let before = affinity.len();
    affinity.retain(|_name, list| list != "");
    affinity.len() != before
}

fn is_capability(name: &Value) -> bool {
    serde_json::from_value::<oci::Capability>(name.clone()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{error::Error, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn errors_name_the_place() {
        for (text, expected) in [
            ("", " line 1 column 0: EOF while parsing a value"),
            ("{}\n{}", " line 2 column 1: trailing characters"),
            (
                "{\"root\": {\"path\": \"\", \"readonly\": \"\\n\"}}",
                " line 1 column 38: /root/readonly: invalid type: string \"\\n\", expected a boolean",
            ),
            ("{\n \"root\": }", " line 2 column 10: /root: expected value"),
            (
                r#"{"process": {"cwd": "/", "user": {"uid": "x"}}}"#,
                " line 1 column 44: /process/user/uid: invalid type: string \"x\", expected u32",
            ),
            (
                "{\"mounts\": [{\"destination\": \"/a\"},\n{\"type\": \"proc\"}]}",
                " line 2 column 16: /mounts/1: missing field `destination`",
            ),
            (
                r#"{"linux": {"sysctl": {"a/b~c": 1}}}"#,
                " line 1 column 32: /linux/sysctl/a~1b~0c: invalid type: integer `1`, \
                 expected a string",
            ),
            (
                r#"{"process": {"cwd": 1, "capabilities": {"bounding": ["CAP_NEW"]}}}"#,
                ": /process/cwd: invalid type: integer `1`, expected path string",
            ),
        ] {
            let error = parse(text.as_bytes(), Path::new("/b/config.json")).unwrap_err();
            assert_eq!(error.to_string(), format!("/b/config.json{expected}"));
        }
    }

    #[test]
    fn unknown_capabilities_are_dropped_and_the_rest_stays() {
        let text = br#"{"process": {"cwd": "/", "capabilities":
            {"bounding": ["CAP_NEW", "CAP_KILL"], "ambient": null}}}"#;
        let spec = parse(text, Path::new(CONFIG)).unwrap();
        let process = spec.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding().clone().unwrap();
        assert_eq!(bounding, [oci::Capability::Kill].into());
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
    }

    #[test]
    fn no_limit_of_processes_is_not_a_limit_of_zero() {
        let limit = |text: &str| {
            let resources = parse_resources(text.as_bytes(), Path::new("-")).unwrap();
            let config = format!(r#"{{"linux": {{"resources": {text}}}}}"#);
            let spec = parse(config.as_bytes(), Path::new(CONFIG)).unwrap();
            assert_eq!(spec.linux().as_ref().unwrap().resources().as_ref(), Some(&resources));
            resources.pids().map(|pids| pids.limit())
        };
        assert_eq!(limit(r#"{"pids": {}}"#), None);
        assert_eq!(limit(r#"{"pids": {"limit": 0}}"#), Some(0));
        assert_eq!(limit("{}"), None);
    }

    #[test]
    fn what_the_types_have_otherwise_is_mended() {
        let text = br#"{"process": {"cwd": "/", "user": {},
            "scheduler": {"policy": "SCHED_DEADLINE",
                "flags": ["SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RESET_ON_FORK"]},
            "execCPUAffinity": {"initial": "", "final": "1"}}}"#;
        let spec = parse(text, Path::new(CONFIG)).unwrap();
        let process = spec.process().as_ref().unwrap();
        let flags = process.scheduler().as_ref().unwrap().flags().clone().unwrap();
        use oci::LinuxSchedulerFlag::{SchedFlagDLOverrun, SchedResetOnFork};
        assert_eq!(flags, [SchedFlagDLOverrun, SchedResetOnFork]);
        let affinity = process.exec_cpu_affinity().as_ref().unwrap();
        assert_eq!(affinity.initial(), &None);
        assert_eq!(affinity.cpu_affinity_final().as_deref(), Some("1"));
    }

    #[test]
    fn wrong_memory_policies_are_called_as_runc_calls_them() {
        for (policy, expected) in [
            ("{}", "/linux/memoryPolicy: invalid memory policy mode: missing field `mode`"),
            (
                r#"{"mode": "X"}"#,
                "/linux/memoryPolicy/mode: invalid memory policy mode: unknown variant `X`",
            ),
            (
                r#"{"mode": "MPOL_BIND", "flags": ["X"]}"#,
                "/linux/memoryPolicy/flags/0: invalid memory policy flag: unknown variant `X`",
            ),
        ] {
            let text = format!(r#"{{"linux": {{"memoryPolicy": {policy}}}}}"#);
            let error = parse(text.as_bytes(), Path::new(CONFIG)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_empty_path_of_a_namespace_is_none() {
        let text = br#"{"linux": {"namespaces": [{"type": "pid", "path": ""}]}}"#;
        let spec = parse(text, Path::new(CONFIG)).unwrap();
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        assert_eq!(namespaces[0].path(), &None);
    }

    #[test]
    fn unknown_fields_are_tolerated() {
        let text = br#"{"ociVersion": "1.0.2", "com.example": {"a": [1]}, "freebsd": {}}"#;
        assert_eq!(parse(text, Path::new(CONFIG)).unwrap().version(), "1.0.2");
    }

    #[test]
    fn a_bundle_without_config_says_how_to_write_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = load_bundle(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("JSON specification file config.json not found"), "{error}");
        assert!(error.contains("`rrun spec`"), "{error}");

        let absent = load_bundle(&dir.path().join("absent")).unwrap_err();
        assert_eq!(absent.to_string(), format!("bundle {}/absent", dir.path().display()));
        assert!(absent.source().is_some());

        let file = dir.path().join("file");
        fs::write(&file, "{}").unwrap();
        assert!(matches!(load_bundle(&file), Err(LoadError::Bundle { .. })));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load_process(dir.path()), Err(LoadError::NotRegular { .. })));

        let socket = dir.path().join("socket");
        let _listening = UnixListener::bind(&socket).unwrap();
        assert!(matches!(load_process(&socket), Err(LoadError::Read { .. })));

        let fifo = dir.path().join(CONFIG);
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        assert!(matches!(load_bundle(dir.path()), Err(LoadError::NotRegular { .. })));
    }

    #[test]
    fn a_process_may_come_through_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let process = r#"{"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}}"#;
        let script = format!("sleep 0.1; printf '%s' '{process}' > {}", pipe.display());
        let mut writer = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
        assert_eq!(load_process(&pipe).unwrap().args().as_deref(), Some(&["true".to_owned()][..]));
        writer.wait().unwrap();
    }

    #[test]
    fn a_huge_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("process.json");
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|file| file.set_len(LIMIT + 1))
            .unwrap();
        assert!(matches!(load_process(&path), Err(LoadError::TooLarge { .. })));
    }

    #[test]
    fn a_bundle_is_canonical() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), r#"{"ociVersion": "1.3.0"}"#).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let bundle = load_bundle(&dir.path().join("sub/..")).unwrap();
        assert_eq!(bundle.dir, dir.path().canonicalize().unwrap());
        assert_eq!(bundle.spec.version(), "1.3.0");
    }
}
