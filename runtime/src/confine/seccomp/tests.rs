use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{
    LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::arch::{Target, X32_BIT};
use super::*;

/// What docker writes for a container without options (its version 28).
const DEFAULT_PROFILE: &str = include_str!("../testdata/seccomp.json");

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

/// What the program says to a call: the kernel's interpreter, as far as filters use it.
fn run(program: &[sock_filter], token: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(token.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => {
                let offset = usize::try_from(k).unwrap();
                accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What `profile` says to the call `name`, read off the profile itself.
fn expected(profile: &LinuxSeccomp, name: &str, arguments: [u64; 6]) -> u32 {
    let holds = |argument: &LinuxSeccompArg| {
        let (seen, value) = (arguments[argument.index()], argument.value());
        match argument.op() {
            Operator::ScmpCmpNe => seen != value,
            Operator::ScmpCmpEq => seen == value,
            Operator::ScmpCmpMaskedEq => seen & value == argument.value_two().unwrap_or_default(),
            other => panic!("{other}"),
        }
    };
    let mut naming = rules(profile).filter(|rule| rule.names().iter().any(|other| other == name));
    let says = |rule: &LinuxSyscall| match rule.action() {
        Action::ScmpActAllow => ALLOW,
        _ => libc::SECCOMP_RET_ERRNO | rule.errno_ret().unwrap_or(1),
    };
    naming.find(|rule| rule.args().iter().flatten().all(holds)).map_or(EPERM, says)
}

fn rules(profile: &LinuxSeccomp) -> impl Iterator<Item = &LinuxSyscall> {
    profile.syscalls().iter().flatten()
}

/// The names of an architecture's calls from number `base` on.
fn names(arch: ScmpArch, base: u32) -> Vec<Option<String>> {
    let call = |number: u32| ScmpSyscall::from(number.cast_signed());
    (base..base + 700).map(|number| call(number).get_name_by_arch(arch).ok()).collect()
}

/// Of these architectures docker writes a profile only on a machine of theirs.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_is_obeyed() {
    let profile = profile(DEFAULT_PROFILE);
    let filters = compile(&profile, None).unwrap().filters;
    let named = rules(&profile).flat_map(LinuxSyscall::names).collect::<HashSet<_>>();
    let values =
        [0, 1, 8, 39, 40, 41, 0x20000, 0x20008, 0x7e02_0000, 0x1000_0000, 0xffff_ffff, 40 << 32];
    let mut answers = BTreeMap::new();
    for (token, arch, base) in
        [(X86_64, ScmpArch::X8664, 0), (X86_64, ScmpArch::X32, X32_BIT), (X86, ScmpArch::X86, 0)]
    {
        let names = names(arch, base);
        let is_named =
            |name: &Option<String>| name.as_ref().is_some_and(|name| named.contains(name));
        let newest = names.iter().rposition(is_named).unwrap();
        for ((at, name), value) in
            names.iter().enumerate().flat_map(|call| values.map(|value| (call, value)))
        {
            let seen = if arch == ScmpArch::X8664 { value } else { value & 0xffff_ffff };
            let want = match name {
                _ if at > newest => ENOSYS,
                Some(name) => expected(&profile, name, [seen; 6]),
                None => EPERM,
            };
            let number = base + u32::try_from(at).unwrap();
            let got = run(&filters, token, number, [value; 6]);
            assert_eq!(got, want, "{arch:?} {number:#x} {name:?} {value:#x}");
            *answers.entry(got).or_insert(0) += 1;
        }
    }
    let seen = answers.keys().copied().collect::<Vec<_>>();
    assert_eq!(seen, [EPERM, ENOSYS, ALLOW], "{answers:?}");
    assert_eq!(run(&filters, X86_64, u32::MAX, [0; 6]), EPERM, "a call that a tracer skipped");
    assert_eq!(run(&filters, AARCH64, 0, [0; 6]), KILL);
}

#[test]
fn every_operator_looks_at_all_64_bits() {
    let big = 1_u64 << 40;
    for (operator, value, two, yes, no) in [
        ("EQ", big + 5, 0, vec![big + 5], vec![5, big + 4, big, 2 * big + 5, u64::MAX]),
        ("NE", big + 5, 0, vec![5, big + 4, 0, 2 * big + 5], vec![big + 5]),
        (
            "LT",
            big + 5,
            0,
            vec![0, big + 4, 6, u64::from(u32::MAX)],
            vec![big + 5, 2 * big, u64::MAX],
        ),
        ("LE", big + 5, 0, vec![0, big + 5, 6], vec![big + 6, 2 * big, u64::MAX]),
        ("GT", big + 5, 0, vec![big + 6, 2 * big, u64::MAX], vec![0, big + 5, 6]),
        ("GE", big + 5, 0, vec![big + 5, 2 * big, u64::MAX], vec![0, big + 4, u64::from(u32::MAX)]),
        ("MASKED_EQ", big + 1, big, vec![big, big + 2, 3 * big], vec![0, 1, big + 1, 2 * big]),
    ] {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["write"],
            "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [
            {{"index": 2, "op": "SCMP_CMP_{operator}", "value": {value}, "valueTwo": {two}}}]}}]}}"#
        );
        let filters = compile(&profile(&json), None).unwrap().filters;
        let say = |value| run(&filters, native(), write(), [0, 0, value, 0, 0, 0]);
        let errno = libc::SECCOMP_RET_ERRNO | 7;
        yes.iter().for_each(|value| assert_eq!(say(*value), errno, "{operator} {value:#x}"));
        no.iter().for_each(|value| assert_eq!(say(*value), ALLOW, "{operator} {value:#x}"));
    }
}

fn native() -> u32 {
    Target::native().unwrap().token
}

fn write() -> u32 {
    Target::native().unwrap().number("write").unwrap()
}

#[test]
fn conditions_of_a_rule_are_all_needed_unless_they_share_an_argument() {
    for (second, arguments, expected) in [
        (1, [1, 2], EPERM),
        (1, [1, 3], ALLOW),
        (1, [2, 2], ALLOW),
        (0, [1, 9], EPERM),
        (0, [2, 9], EPERM),
        (0, [3, 9], ALLOW),
    ] {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["write"],
            "action": "SCMP_ACT_ERRNO", "args": [{{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}},
            {{"index": {second}, "op": "SCMP_CMP_EQ", "value": 2}}]}}]}}"#
        );
        let filters = compile(&profile(&json), None).unwrap().filters;
        let all = [arguments[0], arguments[1], 0, 0, 0, 0];
        assert_eq!(run(&filters, native(), write(), all), expected, "{second} {arguments:?}");
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let trace = libc::SECCOMP_RET_TRACE | 0xffff;
    for (default, answer, newer) in [
        (r#""SCMP_ACT_ERRNO""#, EPERM, ENOSYS),
        (r#""SCMP_ACT_KILL_PROCESS""#, libc::SECCOMP_RET_KILL_PROCESS, ENOSYS),
        (r#""SCMP_ACT_KILL""#, KILL, ENOSYS),
        (r#""SCMP_ACT_KILL_THREAD""#, KILL, ENOSYS),
        (r#""SCMP_ACT_ERRNO", "defaultErrnoRet": 38"#, ENOSYS, ENOSYS),
        (r#""SCMP_ACT_ALLOW""#, ALLOW, ALLOW),
        (r#""SCMP_ACT_LOG""#, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_LOG),
        (r#""SCMP_ACT_TRAP""#, libc::SECCOMP_RET_TRAP, libc::SECCOMP_RET_TRAP),
        (r#""SCMP_ACT_TRACE", "defaultErrnoRet": 65535"#, trace, trace),
    ] {
        let json = format!(
            r#"{{"defaultAction": {default}, "syscalls": [
            {{"names": ["write", "faccessat2"], "action": "SCMP_ACT_TRACE", "errnoRet": 5}}]}}"#
        );
        let named = libc::SECCOMP_RET_TRACE | 5;
        let profile = profile(&json);
        let filters = compile(&profile, None).unwrap().filters;
        let last = Target::native().unwrap().number("faccessat2").unwrap();
        assert_eq!(run(&filters, native(), last + 1, [0; 6]), newer, "{default}");
        assert_eq!(run(&filters, native(), last, [0; 6]), named);
        assert_eq!(run(&filters, native(), last - 1, [0; 6]), answer, "{default}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn newer_means_something_else_on_each_architecture() {
    let json = r#"{"defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdirat", "mlock2", "ioctl"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let filters = compile(&profile(json), None).unwrap().filters;
    for (token, number, says) in [
        (X86_64, 258, ALLOW), // mkdirat
        (X86_64, 324, EPERM),
        (X86_64, 325, ALLOW), // mlock2
        (X86_64, 326, ENOSYS),
        (X86_64, X32_BIT - 1, ENOSYS),
        (X86_64, X32_BIT, EPERM),
        (X86_64, X32_BIT + 258, ALLOW),
        (X86_64, X32_BIT + 513, EPERM),
        (X86_64, X32_BIT + 514, ALLOW), // ioctl
        (X86_64, X32_BIT + 515, ENOSYS),
        // Seen by careless code, this is the token of 32-bit x86.
        (X86_64, X86, EPERM),
        (X86_64, u32::MAX - 1, ENOSYS),
        (X86_64, u32::MAX, EPERM),
        (X86, 296, ALLOW), // mkdirat
        (X86, 376, ALLOW), // mlock2
        (X86, 377, ENOSYS),
        (X86, X32_BIT, ENOSYS),
        (X86, u32::MAX, EPERM),
        (AARCH64, 34, ALLOW),  // mkdirat
        (AARCH64, 284, ALLOW), // mlock2
        (AARCH64, 285, ENOSYS),
        (AARCH64, u32::MAX, EPERM),
        (0x1234, 500, KILL),
    ] {
        assert_eq!(run(&filters, token, number, [0; 6]), says, "{token:#x} {number:#x}");
    }
}

/// They have direct numbers that the library tells nobody, and do not count as newer than others.
#[cfg(target_arch = "x86_64")]
#[test]
fn multiplexed_calls_can_be_made_directly_too() {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    for (name, through, selector, direct, newer) in [
        ("socket", SOCKETCALL, 1, 359, 374),
        ("shutdown", SOCKETCALL, 13, 373, 374),
        ("semget", IPC, 2, 393, 403),
        ("msgctl", IPC, 14, 402, 403),
    ] {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls":
            [{{"names": ["read", "{name}"], "action": "SCMP_ACT_ALLOW"}}]}}"#
        );
        let filters = compile(&profile(&json), None).unwrap().filters;
        let say = |number, first| run(&filters, X86, number, [first, 0, 0, 0, 0, 0]);
        assert_eq!(say(direct, 0), ALLOW, "{name}");
        assert_eq!(say(through, selector), ALLOW, "{name}");
        assert_eq!(say(through, selector + 1), EPERM, "{name}");
        assert_eq!(say(newer, 0), ENOSYS, "{name}");
    }
}

#[test]
fn a_foreign_architecture_is_killed() {
    let filters =
        compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), None).unwrap().filters;
    assert_eq!(run(&filters, native(), 1, [0; 6]), ALLOW);
    assert_eq!(run(&filters, 0x1234, 1, [0; 6]), KILL);
}

#[test]
fn flags_are_those_of_the_system_call() {
    const NOTIFY: &str = r#""syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]"#;
    for (json, flags) in [
        ("", 4),
        (r#""flags": []"#, 0),
        (r#""flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]"#, 3),
        (NOTIFY, 4 | 8),
        (&format!(r#""flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], {NOTIFY}"#), 8 | 32),
        (&format!(r#""flags": ["SECCOMP_FILTER_FLAG_TSYNC"], {NOTIFY}"#), 1 | 8 | 16),
    ] {
        let comma = if json.is_empty() { "" } else { ", " };
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{comma}{json}}}"#);
        assert_eq!(compile(&profile(&text), None).unwrap().flags, flags, "{text}");
    }
}

#[test]
fn an_agent_is_asked_for_the_calls_of_its_rules() {
    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
        "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    let filters = compile(&profile(text), None).unwrap().filters;
    let number = u32::try_from(libc::SYS_mkdirat).unwrap();
    assert_eq!(run(&filters, native(), number, [0; 6]), ASK);
    assert_eq!(run(&filters, native(), number + 1, [0; 6]), ALLOW);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (json, complaint) in [
        (r#""defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1"#, "takes no errno"),
        (r#""defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4095"#, "4095 is above"),
        (r#""defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 65536"#, "has 16 bits"),
        (
            r#""defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
            "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]"#,
            "/linux/seccomp/syscalls/0: args/0: index 6",
        ),
        (
            r#""defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]"#,
            "/linux/seccomp/syscalls/1: read: another rule",
        ),
        (
            r#""defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]"#,
            "/linux/seccomp/architectures: S390X has another byte order",
        ),
    ] {
        let error = compile(&profile(&format!("{{{json}}}")), None).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
    }
}

#[test]
fn names_that_nobody_knows_are_left_out() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["no_such_call", "write"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filters = compile(&profile(json), None).unwrap().filters;
    assert_eq!(run(&filters, native(), write(), [0; 6]), EPERM);
}

#[test]
fn the_kernel_takes_and_obeys_a_program() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]}"#;
    let small = compile(&profile(json), None).unwrap();
    let large = compile(&profile(DEFAULT_PROFILE), None).unwrap();
    filter::tests::in_child(|| {
        nix::sys::prctl::set_no_new_privs().unwrap();
        large.install().unwrap();
        assert!(nix::unistd::getppid().as_raw() > 0);
        assert_eq!(nix::sched::unshare(nix::sched::CloneFlags::empty()), Err(Errno::EPERM));
        small.install().unwrap();
        // The C library does not expect this call to fail and hands out what the kernel says.
        assert_eq!(nix::unistd::getppid().as_raw(), -99);
    });
}

#[test]
fn a_filter_needs_no_new_privs() {
    let program = compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), None).unwrap();
    filter::tests::in_child(|| {
        caps::clear(None, caps::CapSet::Effective).unwrap();
        let error = program.install().unwrap_err().to_string();
        assert!(error.contains("noNewPrivileges"), "{error}");
    });
}

#[test]
fn a_rule_without_conditions_has_the_last_word_and_the_first_such_rule_wins() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
            "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]},
        {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let filters = compile(&profile(json), None).unwrap().filters;
    assert_eq!(run(&filters, native(), write(), [3, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&filters, native(), write(), [4, 0, 0, 0, 0, 0]), EPERM);
}

/// Compiling would be the longest part of starting a container, were the program not kept.
#[test]
fn a_profile_is_compiled_once() {
    const LIMIT: Duration = Duration::from_millis(50);
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("filters");
    let cache = Some(&*directory);
    let profile = profile(DEFAULT_PROFILE);
    let first = compile(&profile, cache).unwrap();
    assert!(first.filters.len() < 2000, "{first:?}");
    let started = Instant::now();
    let second = compile(&profile, cache).unwrap();
    let took = started.elapsed();
    assert_eq!(to_bytes(&first.filters), to_bytes(&second.filters));
    assert_eq!(first.flags, second.flags);
    assert!(took < LIMIT, "{took:?}");
    let file = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "rubbish").unwrap();
    let third = compile(&profile, cache).unwrap();
    assert_eq!(to_bytes(&first.filters), to_bytes(&third.filters));
    assert!(std::fs::metadata(&file).unwrap().len() > 1000, "replaced");
}

/// A cache that cannot be is no reason to run nothing.
#[test]
fn a_program_that_cannot_be_kept_is_compiled_all_the_same() {
    let place = tempfile::NamedTempFile::new().unwrap();
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
    let program = compile(&profile(json), Some(&place.path().join("below a file"))).unwrap();
    assert_eq!(run(&program.filters, native(), 1, [0; 6]), ALLOW);
}
