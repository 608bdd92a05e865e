//! `process`: what runs, as whom, and within which limits.

use std::collections::HashSet;

use oci_spec::runtime as oci;

use super::{Problems, attributes, namespace, not_absolute, wrong_text};

/// The most groups that `setgroups(2)` takes: `NGROUPS_MAX`.
const NGROUPS_MAX: usize = 65_536;

pub(super) fn check(spec: &oci::Spec, problems: &mut Problems) {
    let Some(process) = spec.process() else {
        problems.add("/process", "is missing");
        return;
    };
    check_process(process, "/process", problems);
    check_mapped(spec, process.user(), problems);
}

/// `at` is the pointer of the process: empty for a file that holds nothing else.
pub(super) fn check_process(process: &oci::Process, at: &str, problems: &mut Problems) {
    check_args(process.args().as_deref().unwrap_or_default(), at, problems);
    problems.add_some(&format!("{at}/cwd"), not_absolute(process.cwd()));
    check_env(process.env().as_deref(), at, problems);
    check_user(process.user(), at, problems);
    check_rlimits(process.rlimits().as_deref().unwrap_or_default(), at, problems);
    check_console(process, at, problems);
    if process.oom_score_adj().is_some_and(|score| !(-1000..=1000).contains(&score)) {
        problems.add(format!("{at}/oomScoreAdj"), "want -1000 to 1000");
    }
    for (name, label) in
        [("apparmorProfile", process.apparmor_profile()), ("selinuxLabel", process.selinux_label())]
    {
        problems.add_some(&format!("{at}/{name}"), label.as_deref().and_then(wrong_text));
    }
    attributes::check_process(process, at, problems);
}

/// `environ(7)`: a name, `=`, a value.
pub(super) fn check_env(env: Option<&[String]>, at: &str, problems: &mut Problems) {
    for (index, variable) in env.into_iter().flatten().enumerate() {
        let pointer = format!("{at}/env/{index}");
        if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            problems.add(&pointer, format!("{variable:?} is not of the form NAME=value"));
        }
        problems.add_some(&pointer, wrong_text(variable));
    }
}

fn check_args(args: &[String], at: &str, problems: &mut Problems) {
    match args.first() {
        None => problems.add(format!("{at}/args"), "is empty: name the program to run"),
        Some(program) if program.is_empty() => {
            problems.add(format!("{at}/args/0"), "is empty: name the program to run");
        }
        Some(_) => {}
    }
    for (index, argument) in args.iter().enumerate() {
        problems.add_some(&format!("{at}/args/{index}"), wrong_text(argument));
    }
}

fn check_user(user: &oci::User, at: &str, problems: &mut Problems) {
    for (pointer, id) in ids(user, at) {
        if id == u32::MAX {
            problems
                .add(pointer, "4294967295 is no id: the kernel takes it for \"leave as it is\"");
        }
    }
    if user.umask().is_some_and(|mask| mask > 0o777) {
        problems.add(format!("{at}/user/umask"), "want at most 511, which is octal 777");
    }
    if user.additional_gids().as_ref().is_some_and(|gids| gids.len() > NGROUPS_MAX) {
        problems.add(format!("{at}/user/additionalGids"), format!("has over {NGROUPS_MAX} groups"));
    }
}

/// In a new user namespace with stated mappings the user must be one of the mapped ids.
fn check_mapped(spec: &oci::Spec, user: &oci::User, problems: &mut Problems) {
    let Some(linux) = spec.linux() else { return };
    let new = namespace(spec, oci::LinuxNamespaceType::User).filter(|user| user.path().is_none());
    if new.is_none() {
        return;
    }
    let mapped = |mappings: &Option<Vec<oci::LinuxIdMapping>>, id| {
        let mappings = mappings.as_deref().unwrap_or_default();
        mappings.is_empty() || mappings.iter().any(|range| holds(range, id))
    };
    for (index, (pointer, id)) in ids(user, "/process").into_iter().enumerate() {
        let (mappings, kind) = match index {
            0 => (linux.uid_mappings(), "uid"),
            _ => (linux.gid_mappings(), "gid"),
        };
        if !mapped(mappings, id) {
            problems.add(pointer, format!("{kind} {id} is in no range of /linux/{kind}Mappings"));
        }
    }
}

fn holds(range: &oci::LinuxIdMapping, id: u32) -> bool {
    id.checked_sub(range.container_id()).is_some_and(|offset| offset < range.size())
}

/// The user id first, then all group ids, each with its pointer.
fn ids(user: &oci::User, at: &str) -> Vec<(String, u32)> {
    let named = [(format!("{at}/user/uid"), user.uid()), (format!("{at}/user/gid"), user.gid())];
    let additional = user.additional_gids().iter().flatten().enumerate();
    let additional = additional.map(|(i, gid)| (format!("{at}/user/additionalGids/{i}"), *gid));
    named.into_iter().chain(additional).collect()
}

fn check_rlimits(rlimits: &[oci::PosixRlimit], at: &str, problems: &mut Problems) {
    let mut seen = HashSet::new();
    for (index, limit) in rlimits.iter().enumerate() {
        let name = limit.typ().to_string();
        if limit.soft() > limit.hard() {
            let (soft, hard) = (limit.soft(), limit.hard());
            problems.add(
                format!("{at}/rlimits/{index}/soft"),
                format!("{name} {soft} is above its hard limit {hard}"),
            );
        }
        let pointer = format!("{at}/rlimits/{index}/type");
        let repeated = (!seen.insert(name.clone())).then(|| format!("{name} is given twice"));
        problems.add_some(&pointer, repeated);
    }
}

/// Without a terminal the size means nothing and is ignored, as runtime-spec says.
fn check_console(process: &oci::Process, at: &str, problems: &mut Problems) {
    let Some(size) = process.console_size() else { return };
    let largest = u64::from(u16::MAX);
    if process.terminal() == Some(true) && (size.height() > largest || size.width() > largest) {
        problems
            .add(format!("{at}/consoleSize"), format!("want at most {largest} rows and columns"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        check_process,
        tests::{checked, table, with},
    };

    #[test]
    fn process() {
        table(
            [
                ("/process", Value::Null, "/process: is missing"),
                ("/process/args", json!([]), "/process/args: is empty: name the program to run"),
                (
                    "/process/args",
                    json!([""]),
                    "/process/args/0: is empty: name the program to run",
                ),
                ("/process/args", json!(["a", ""]), ""),
                ("/process/args", json!(["a", "\0"]), "/process/args/1: holds a NUL byte"),
                ("/process/cwd", json!(""), "/process/cwd: is missing or empty"),
                ("/process/cwd", json!("tmp"), "/process/cwd: is not an absolute path"),
                ("/process/env", json!(["A=", "B==c", "C=\n"]), ""),
                (
                    "/process/env",
                    json!(["A", "=b"]),
                    "/process/env/0: \"A\" is not of the form NAME=value; \
                     /process/env/1: \"=b\" is not of the form NAME=value",
                ),
                ("/process/oomScoreAdj", json!(-1000), ""),
                ("/process/oomScoreAdj", json!(1001), "/process/oomScoreAdj: want -1000 to 1000"),
                ("/process/consoleSize", json!({"height": 70000, "width": 1}), ""),
            ],
            checked,
        );
    }

    #[test]
    fn user() {
        let no_id = "4294967295 is no id: the kernel takes it for \"leave as it is\"";
        for (user, expected) in [
            (json!({"umask": 0o777, "uid": 4_294_967_294_u32}), String::new()),
            (
                json!({"umask": 0o1000}),
                "/user/umask: want at most 511, which is octal 777".to_owned(),
            ),
            (json!({"uid": u32::MAX}), format!("/user/uid: {no_id}")),
            (json!({"additionalGids": [0, u32::MAX]}), format!("/user/additionalGids/1: {no_id}")),
        ] {
            let spec = with("/process/user", user);
            let found = check_process(spec.process().as_ref().unwrap()).err();
            assert_eq!(found.map(|p| p.to_string()).unwrap_or_default(), expected);
        }
    }

    #[test]
    fn rlimits() {
        table(
            [
                (
                    "/process/rlimits",
                    json!([{"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": u64::MAX}]),
                    "",
                ),
                (
                    "/process/rlimits",
                    json!([
                        {"type": "RLIMIT_CORE", "hard": 1, "soft": 2},
                        {"type": "RLIMIT_CORE", "hard": 1, "soft": 1}
                    ]),
                    "/process/rlimits/0/soft: RLIMIT_CORE 2 is above its hard limit 1; \
                     /process/rlimits/1/type: RLIMIT_CORE is given twice",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn the_terminal_has_a_size_of_16_bits() {
        for (terminal, accepted) in [(true, false), (false, true)] {
            let size = json!({"height": 1, "width": 65536});
            let mut spec = with("/process/consoleSize", size);
            let mut process = spec.process().clone().unwrap();
            process.set_terminal(Some(terminal));
            spec.set_process(Some(process));
            assert_eq!(checked(&spec).is_empty(), accepted);
        }
    }

    #[test]
    fn the_user_must_be_mapped() {
        let mappings = json!([{"containerID": 10, "hostID": 1000, "size": 5}]);
        for (namespace, uid, gid, expected) in [
            (json!({"type": "user"}), 10, 14, ""),
            (
                json!({"type": "user"}),
                9,
                10,
                "/process/user/uid: uid 9 is in no range of /linux/uidMappings",
            ),
            (
                json!({"type": "user"}),
                10,
                15,
                "/process/user/gid: gid 15 is in no range of /linux/gidMappings",
            ),
            // The mappings of a joined namespace are its own.
            (json!({"type": "user", "path": "/proc/1/ns/user"}), 0, 0, ""),
        ] {
            let linux = json!({
                "namespaces": [namespace], "uidMappings": mappings, "gidMappings": mappings
            });
            let mut spec = with("/linux", linux);
            let mut process = spec.process().clone().unwrap();
            process.user_mut().set_uid(uid).set_gid(gid);
            spec.set_process(Some(process));
            assert_eq!(checked(&spec), expected);
        }
    }
}
