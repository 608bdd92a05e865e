//! What is wrong with a parsed config: all problems at once, each with its JSON pointer.
//!
//! Values of the wrong type were refused when the file was parsed; here is what the types cannot
//! say. Nothing here asks the machine: whether a path exists or a limit may be raised is seen
//! when it is done.
//!
//! Source: runtime-spec 1.3, `config.md` and `config-linux.md`; where they leave a value open,
//! what runc refuses.

mod attributes;
mod linux;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod unsupported;

use std::{error::Error, fmt, path::Path};

use oci_spec::runtime as oci;

pub use linux::sysctl_path;
pub use unsupported::unsupported;

/// The newest `1.x` that this crate knows.
const NEWEST_MINOR: u64 = 3;

/// `HOST_NAME_MAX`: bytes of a host or domain name.
const HOST_NAME_MAX: usize = 64;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// RFC 6901: `/process/rlimits/0/soft`; inside the process object alone for a process file.
    pub pointer: String,
    /// What is wrong and, where it is not plain, what would be right.
    pub sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.sentence)
    }
}

/// All that is wrong with one document; its `Display` is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one more.
    fn add(&mut self, pointer: impl Into<String>, sentence: impl Into<String>) {
        self.0.push(Problem { pointer: pointer.into(), sentence: sentence.into() });
    }

    /// Adds one more if there is something wrong.
    fn add_some(&mut self, pointer: &str, wrong: Option<impl Into<String>>) {
        if let Some(sentence) = wrong {
            self.add(pointer, sentence);
        }
    }

    /// In the order of the document's sections.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

/// What [`unsupported`] found, as one error.
impl From<Vec<Problem>> for Problems {
    fn from(problems: Vec<Problem>) -> Self {
        Self(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl Error for Problems {}

/// Checks a whole config.
///
/// # Errors
///
/// Every value that runtime-spec forbids or that no kernel accepts.
pub fn check(spec: &oci::Spec) -> Result<(), Problems> {
    let mut problems = Problems::default();
    problems.add_some("/ociVersion", wrong_version(spec.version()));
    check_root(spec, &mut problems);
    process::check(spec, &mut problems);
    check_host_names(spec, &mut problems);
    mounts::check(spec, &mut problems);
    check_hooks(spec, &mut problems);
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        problems.add("/annotations/", "a key is empty");
    }
    if let Some(linux) = spec.linux() {
        linux::check(linux, spec, &mut problems);
    }
    problems.into_result()
}

/// Checks a process that joins a container, as `exec --process` reads it; the pointers begin
/// inside the process.
///
/// # Errors
///
/// As [`check()`].
pub fn check_process(process: &oci::Process) -> Result<(), Problems> {
    let mut problems = Problems::default();
    process::check_process(process, "", &mut problems);
    problems.into_result()
}

/// Checks resources alone, as `update` takes them; the pointers are those of a whole config.
///
/// # Errors
///
/// As [`check()`].
pub fn check_resources(resources: &oci::LinuxResources) -> Result<(), Problems> {
    let mut problems = Problems::default();
    resources::check(resources, &mut problems);
    problems.into_result()
}

/// Checks mounts that are to be added to a container, as `mounts add` reads them; the pointers begin
/// inside the list.
///
/// # Errors
///
/// As [`check()`].
pub fn check_mounts(list: &[oci::Mount]) -> Result<(), Problems> {
    let mut problems = Problems::default();
    mounts::check_list(list, "", &mut problems);
    problems.into_result()
}

/// Writes `key` as one step of a JSON pointer (RFC 6901).
pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Any `1.0` to `1.3`, pre-releases too, for a minor version promises to be compatible.
fn wrong_version(version: &str) -> Option<String> {
    if version.is_empty() {
        return Some(format!("is missing: write \"1.{NEWEST_MINOR}.0\""));
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([1, minor, _patch]) if *minor <= NEWEST_MINOR => None,
        Some([_, _, _]) => {
            Some(format!("{version} is not supported: versions 1.0.0 to 1.{NEWEST_MINOR}.x are"))
        }
        _ => Some(format!("{version:?} is no version: want three numbers, as in 1.0.2")),
    }
}

fn check_root(spec: &oci::Spec, problems: &mut Problems) {
    match spec.root() {
        None => problems.add("/root", "is missing"),
        Some(root) => problems.add_some("/root/path", wrong_path(root.path())),
    }
}

fn check_host_names(spec: &oci::Spec, problems: &mut Problems) {
    let names = [("/hostname", spec.hostname()), ("/domainname", spec.domainname())];
    for (pointer, name) in names {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
        if !has_namespace(spec, oci::LinuxNamespaceType::Uts) {
            problems.add(
                pointer,
                "would change the host's own name: add a namespace of type \"uts\", or remove it",
            );
        }
        if name.len() > HOST_NAME_MAX {
            problems.add(pointer, format!("is longer than {HOST_NAME_MAX} bytes"));
        }
        problems.add_some(pointer, wrong_text(name));
    }
}

fn check_hooks(spec: &oci::Spec, problems: &mut Problems) {
    let Some(hooks) = spec.hooks() else { return };
    for (kind, hooks) in [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ] {
        for (index, hook) in hooks.iter().flatten().enumerate() {
            check_hook(hook, &format!("/hooks/{kind}/{index}"), problems);
        }
    }
}

fn check_hook(hook: &oci::Hook, pointer: &str, problems: &mut Problems) {
    problems.add_some(&format!("{pointer}/path"), not_absolute(hook.path()));
    if hook.timeout().is_some_and(|seconds| seconds <= 0) {
        problems.add(format!("{pointer}/timeout"), "want seconds greater than 0");
    }
    for (index, argument) in hook.args().iter().flatten().enumerate() {
        problems.add_some(&format!("{pointer}/args/{index}"), wrong_text(argument));
    }
    process::check_env(hook.env().as_deref(), pointer, problems);
}

/// Whether the container has its own namespace of this type, new or joined.
fn has_namespace(spec: &oci::Spec, typ: oci::LinuxNamespaceType) -> bool {
    namespace(spec, typ).is_some()
}

fn namespace(spec: &oci::Spec, typ: oci::LinuxNamespaceType) -> Option<&oci::LinuxNamespace> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|namespace| namespace.typ() == typ)
}

/// A path that the kernel can be handed: not empty and without NUL.
fn wrong_path(path: &Path) -> Option<&'static str> {
    if path.as_os_str().is_empty() {
        return Some("is missing or empty");
    }
    has_nul(path.as_os_str().as_encoded_bytes())
}

fn not_absolute(path: &Path) -> Option<&'static str> {
    wrong_path(path).or((!path.is_absolute()).then_some("is not an absolute path"))
}

/// A string that becomes a C string.
fn wrong_text(text: &str) -> Option<&'static str> {
    has_nul(text.as_bytes())
}

fn has_nul(bytes: &[u8]) -> Option<&'static str> {
    bytes.contains(&0).then_some("holds a NUL byte")
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The smallest config without a problem.
    fn plain() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["true"], "user": {}},
            "linux": {"namespaces": [{"type": "mount"}]}
        })
    }

    /// The plain config with `value` put at `pointer`; objects on the way are made.
    pub(crate) fn with(pointer: &str, value: Value) -> oci::Spec {
        let mut config = plain();
        let mut place = &mut config;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            if place.is_null() {
                *place = json!({});
            }
            place = &mut place[step];
        }
        *place = value;
        serde_json::from_value(config).unwrap()
    }

    /// Checks a table of (pointer, value put there, what `found` says; empty if nothing).
    pub(crate) fn table(
        rows: impl IntoIterator<Item = (&'static str, Value, &'static str)>,
        found: impl Fn(&oci::Spec) -> String,
    ) {
        for (pointer, value, expected) in rows {
            let spec = with(pointer, value.clone());
            assert_eq!(found(&spec), expected, "{pointer} = {value}");
        }
    }

    pub(crate) fn checked(spec: &oci::Spec) -> String {
        check(spec).err().map(|problems| problems.to_string()).unwrap_or_default()
    }

    #[test]
    fn versions() {
        for (version, accepted) in [
            ("1.0.0", true),
            ("1.0.0-rc5", true),
            ("1.0.2-dev", true),
            ("1.2.1+dev", true),
            ("1.3.9", true),
            ("1.4.0", false),
            ("2.0.0", false),
            ("0.9.0", false),
            ("1.0", false),
            ("1.0.x", false),
            ("", false),
        ] {
            assert_eq!(wrong_version(version).is_none(), accepted, "{version:?}");
        }
        let newer = wrong_version("1.4.0").unwrap();
        assert_eq!(newer, "1.4.0 is not supported: versions 1.0.0 to 1.3.x are");
    }

    #[test]
    fn root_names_annotations_and_hooks() {
        table(
            [
                ("/ociVersion", json!("1.1.0"), ""),
                ("/root", Value::Null, "/root: is missing"),
                ("/root/path", json!(""), "/root/path: is missing or empty"),
                ("/root/path", json!("a\0"), "/root/path: holds a NUL byte"),
                ("/hostname", json!(""), ""),
                (
                    "/hostname",
                    json!("web"),
                    "/hostname: would change the host's own name: \
                     add a namespace of type \"uts\", or remove it",
                ),
                ("/annotations/", json!("x"), "/annotations/: a key is empty"),
                ("/annotations/a", json!(""), ""),
                ("/hooks/prestart", json!([{"path": "/a", "timeout": 1, "env": ["A=b"]}]), ""),
                (
                    "/hooks/poststop",
                    json!([{"path": "/a"}, {"path": "b", "timeout": 0, "env": ["A"]}]),
                    "/hooks/poststop/1/path: is not an absolute path; \
                     /hooks/poststop/1/timeout: want seconds greater than 0; \
                     /hooks/poststop/1/env/0: \"A\" is not of the form NAME=value",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn a_host_name_may_have_64_bytes() {
        for (length, accepted) in [(64, true), (65, false)] {
            let mut spec = with("/linux/namespaces", json!([{"type": "uts", "path": "/a"}]));
            spec.set_domainname(Some("a".repeat(length)));
            assert_eq!(check(&spec).is_ok(), accepted, "{length}");
        }
    }
}
