//! `linux.seccomp`: rules that a filter can be made of.

use oci_spec::runtime as oci;
use oci_spec::runtime::LinuxSeccompAction as Action;

use super::{Problems, not_absolute, wrong_text};

/// The largest errno: `MAX_ERRNO`.
const MAX_ERRNO: u32 = 4095;

/// The largest message of `SECCOMP_RET_TRACE`: `SECCOMP_RET_DATA`.
const MAX_MESSAGE: u32 = 0xffff;

/// The last of a system call's arguments.
const LAST_ARGUMENT: usize = 5;

const AT: &str = "/linux/seccomp";

pub(super) fn check(seccomp: &oci::LinuxSeccomp, problems: &mut Problems) {
    let default = seccomp.default_action();
    check_errno(default, seccomp.default_errno_ret(), &format!("{AT}/defaultErrnoRet"), problems);
    if default == Action::ScmpActNotify {
        // The listener would have to allow its own first system call.
        problems.add(format!("{AT}/defaultAction"), "SCMP_ACT_NOTIFY is for single system calls");
    }
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        check_rule(rule, &format!("{AT}/syscalls/{index}"), problems);
    }
    check_agent(seccomp, problems);
    let listener = seccomp.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = listener {
        problems.add_some(&format!("{AT}/listenerPath"), not_absolute(path));
    } else if seccomp.listener_metadata().as_ref().is_some_and(|data| !data.is_empty()) {
        problems.add(format!("{AT}/listenerMetadata"), "is for a listenerPath, which is missing");
    }
}

/// What asks an agent needs one, and a way to it: the process that installs the filter says by
/// `write(2)` that it is there (so does runc's).
fn check_agent(seccomp: &oci::LinuxSeccomp, problems: &mut Problems) {
    let has_agent =
        seccomp.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    let mut asks = false;
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        if rule.action() != Action::ScmpActNotify {
            continue;
        }
        asks = true;
        let at = format!("{AT}/syscalls/{index}");
        if !has_agent {
            let sentence = "SCMP_ACT_NOTIFY needs an agent: give /linux/seccomp/listenerPath";
            problems.add(format!("{at}/action"), sentence);
        }
        for (place, _) in rule.names().iter().enumerate().filter(|(_, name)| *name == "write") {
            let sentence = "SCMP_ACT_NOTIFY cannot be used for the write syscall";
            problems.add(format!("{at}/names/{place}"), sentence);
        }
    }
    let killable = oci::LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv;
    let flags = seccomp.flags().iter().flatten().enumerate();
    for (index, _) in flags.filter(|(_, flag)| !asks && **flag == killable) {
        problems.add(format!("{AT}/flags/{index}"), format!("{killable} is for SCMP_ACT_NOTIFY"));
    }
}

fn check_rule(rule: &oci::LinuxSyscall, at: &str, problems: &mut Problems) {
    if rule.names().is_empty() {
        problems.add(format!("{at}/names"), "is empty: name at least one system call");
    }
    for (index, name) in rule.names().iter().enumerate() {
        let wrong = if name.is_empty() { Some("is empty") } else { wrong_text(name) };
        problems.add_some(&format!("{at}/names/{index}"), wrong);
    }
    check_errno(rule.action(), rule.errno_ret(), &format!("{at}/errnoRet"), problems);
    for (index, argument) in rule.args().iter().flatten().enumerate() {
        if argument.index() > LAST_ARGUMENT {
            let sentence = format!("want 0 to {LAST_ARGUMENT}");
            problems.add(format!("{at}/args/{index}/index"), sentence);
        }
    }
}

fn check_errno(action: Action, errno: Option<u32>, at: &str, problems: &mut Problems) {
    let Some(errno) = errno else { return };
    let largest = match action {
        Action::ScmpActErrno => MAX_ERRNO,
        Action::ScmpActTrace => MAX_MESSAGE,
        _ => {
            problems.add(at, format!("{action} returns no errno: remove it"));
            return;
        }
    };
    if errno > largest {
        problems.add(at, format!("want 0 to {largest}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{checked, table};

    #[test]
    fn seccomp() {
        table(
            [
                (
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                        "architectures": ["SCMP_ARCH_X86_64"],
                        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRACE",
                            "errnoRet": 65535,
                            "args": [{"index": 5, "value": 1, "op": "SCMP_CMP_EQ"}]}]}),
                    "",
                ),
                (
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1,
                        "listenerMetadata": "x",
                        "syscalls": [{"names": [], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096},
                            {"names": [""], "action": "SCMP_ACT_KILL",
                             "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_NE"}]}]}),
                    "/linux/seccomp/defaultErrnoRet: SCMP_ACT_ALLOW returns no errno: remove it; \
                     /linux/seccomp/syscalls/0/names: is empty: name at least one system call; \
                     /linux/seccomp/syscalls/0/errnoRet: want 0 to 4095; \
                     /linux/seccomp/syscalls/1/names/0: is empty; \
                     /linux/seccomp/syscalls/1/args/0/index: want 0 to 5; \
                     /linux/seccomp/listenerMetadata: is for a listenerPath, which is missing",
                ),
            ],
            checked,
        );
    }

    #[test]
    fn agents() {
        table(
            [
                (
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
                        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                        "syscalls": [{"names": ["open"], "action": "SCMP_ACT_NOTIFY"}]}),
                    "",
                ),
                (
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW",
                        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
                    "/linux/seccomp/flags/0: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is for \
                     SCMP_ACT_NOTIFY",
                ),
                (
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "",
                        "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}]}),
                    "/linux/seccomp/syscalls/0/action: SCMP_ACT_NOTIFY needs an agent: give \
                     /linux/seccomp/listenerPath; /linux/seccomp/syscalls/0/names/1: \
                     SCMP_ACT_NOTIFY cannot be used for the write syscall",
                ),
                (
                    "/linux/seccomp",
                    json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "a"}),
                    "/linux/seccomp/defaultAction: SCMP_ACT_NOTIFY is for single system calls; \
                     /linux/seccomp/listenerPath: is not an absolute path",
                ),
            ],
            checked,
        );
    }
}
