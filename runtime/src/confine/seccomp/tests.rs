use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::time::{Duration, Instant};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

/// What docker writes for a container without options (its version 28).
const DEFAULT_PROFILE: &str = include_str!("../testdata/seccomp.json");

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;

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

/// The same profile as libseccomp compiles it, without the answer for newer calls.
fn reference(profile: &LinuxSeccomp) -> Vec<sock_filter> {
    let act = |answer: u32| match answer {
        ALLOW => ScmpAction::Allow,
        errno => ScmpAction::Errno(i32::try_from(errno & 0xffff).unwrap()),
    };
    let default = act(answer(profile.default_action(), profile.default_errno_ret()).unwrap());
    let mut context = ScmpFilterContext::new(default).unwrap();
    for arch in [ScmpArch::X86, ScmpArch::X32] {
        context.add_arch(arch).unwrap();
    }
    for call in profile.syscalls().as_ref().unwrap() {
        let rule = act(answer(call.action(), call.errno_ret()).unwrap());
        for number in call.names().iter().filter_map(|name| ScmpSyscall::from_name(name).ok()) {
            let compare = |argument: &LinuxSeccompArg| {
                let operator = match argument.op() {
                    Operator::ScmpCmpNe => ScmpCompareOp::NotEqual,
                    Operator::ScmpCmpEq => ScmpCompareOp::Equal,
                    Operator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(argument.value()),
                    other => panic!("{other}"),
                };
                let value = argument.value_two().unwrap_or(argument.value());
                ScmpArgCompare::new(u32::try_from(argument.index()).unwrap(), operator, value)
            };
            let arguments = call.args().iter().flatten().map(compare).collect::<Vec<_>>();
            context.add_rule_conditional(rule, number, &arguments).unwrap();
        }
    }
    let mut file = File::from(memfd_create(c"filter", MFdFlags::MFD_CLOEXEC).unwrap());
    context.export_bpf(&file).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let instruction = |i: &[u8; 8]| sock_filter {
        code: u16::from_ne_bytes([i[0], i[1]]),
        jt: i[2],
        jf: i[3],
        k: word(&i[4..]),
    };
    bytes.as_chunks::<8>().0.iter().map(instruction).collect()
}

/// The architectures of the profile can only be built into one filter on a machine like the first.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_says_what_libseccomp_says() {
    let profile = profile(DEFAULT_PROFILE);
    let (ours, theirs) = (compile(&profile).unwrap().filters, reference(&profile));
    let interesting =
        [0, 1, 8, 39, 40, 41, 0x20000, 0x20008, 0x7e02_0000, 0x1000_0000, 0xffff_ffff];
    let (mut compared, mut newer) = (0, 0);
    for token in [X86_64, X86, AARCH64] {
        for number in (0..700).chain(X32_BIT..X32_BIT + 700).chain([u32::MAX, u32::MAX - 1]) {
            for value in interesting {
                let arguments = [value, value, 0, 0, 0, 0];
                let expected = run(&theirs, token, number, arguments);
                match run(&ours, token, number, arguments) {
                    ENOSYS if expected == EPERM => newer += 1,
                    got => assert_eq!(got, expected, "{token:#x} {number:#x} {value:#x}"),
                }
                compared += 1;
            }
        }
    }
    assert!(newer > 0 && compared > 40_000, "{newer} of {compared}");
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
        let filters = compile(&profile(&json)).unwrap().filters;
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
        let filters = compile(&profile(&json)).unwrap().filters;
        let all = [arguments[0], arguments[1], 0, 0, 0, 0];
        assert_eq!(run(&filters, native(), write(), all), expected, "{second} {arguments:?}");
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    for (default, newer) in [
        (r#""SCMP_ACT_ERRNO""#, ENOSYS),
        (r#""SCMP_ACT_KILL_PROCESS""#, ENOSYS),
        (r#""SCMP_ACT_KILL""#, ENOSYS),
        (r#""SCMP_ACT_ERRNO", "defaultErrnoRet": 38"#, ENOSYS),
        (r#""SCMP_ACT_ALLOW""#, ALLOW),
        (r#""SCMP_ACT_LOG""#, libc::SECCOMP_RET_LOG),
        (r#""SCMP_ACT_TRAP""#, libc::SECCOMP_RET_TRAP),
        (r#""SCMP_ACT_TRACE", "defaultErrnoRet": 3"#, libc::SECCOMP_RET_TRACE | 3),
    ] {
        let json = format!(
            r#"{{"defaultAction": {default}, "syscalls": [
            {{"names": ["write", "faccessat2"], "action": "SCMP_ACT_TRACE", "errnoRet": 5}}]}}"#
        );
        let named = libc::SECCOMP_RET_TRACE | 5;
        let profile = profile(&json);
        let default = answer(profile.default_action(), profile.default_errno_ret()).unwrap();
        let filters = compile(&profile).unwrap().filters;
        let last = Target::native().unwrap().number("faccessat2").unwrap();
        assert_eq!(run(&filters, native(), last + 1, [0; 6]), newer, "{default}");
        assert_eq!(run(&filters, native(), last, [0; 6]), named);
        assert_eq!(run(&filters, native(), last - 1, [0; 6]), default);
    }
}

#[test]
fn a_foreign_architecture_is_killed() {
    let filters = compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)).unwrap().filters;
    assert_eq!(run(&filters, native(), 1, [0; 6]), ALLOW);
    assert_eq!(run(&filters, 0x1234, 1, [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (json, complaint) in [
        (r#""defaultAction": "SCMP_ACT_NOTIFY""#, "/linux/seccomp/defaultAction: SCMP_ACT_NOTIFY"),
        (r#""defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1"#, "takes no errno"),
        (r#""defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096"#, "4096 is above"),
        (r#""defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s""#, "listenerPath is not"),
        (
            r#""defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#,
            "/linux/seccomp/flags/0",
        ),
        (
            r#""defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
            "action": "SCMP_ACT_NOTIFY"}]"#,
            "/linux/seccomp/syscalls/0: SCMP_ACT_NOTIFY is not supported yet",
        ),
        (
            r#""defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
            "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]"#,
            "/linux/seccomp/syscalls/0: args/0: index 6",
        ),
    ] {
        let error = compile(&profile(&format!("{{{json}}}"))).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
    }
}

#[test]
fn names_that_nobody_knows_are_left_out() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["no_such_call", "write"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filters = compile(&profile(json)).unwrap().filters;
    assert_eq!(run(&filters, native(), write(), [0; 6]), EPERM);
}

#[test]
fn the_kernel_takes_and_obeys_a_program() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]}"#;
    let small = compile(&profile(json)).unwrap();
    let large = compile(&profile(DEFAULT_PROFILE)).unwrap();
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
    let program = compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)).unwrap();
    filter::tests::in_child(|| {
        caps::clear(None, caps::CapSet::Effective).unwrap();
        let error = program.install().unwrap_err().to_string();
        assert!(error.contains("noNewPrivileges"), "{error}");
    });
}

/// Compiling is a part of every start of a container, and libseccomp's own generator needs 11 ms.
#[test]
fn compiling_the_default_profile_is_quick() {
    const LIMIT: Duration = Duration::from_millis(50);
    let profile = profile(DEFAULT_PROFILE);
    let started = Instant::now();
    let program = compile(&profile).unwrap();
    let took = started.elapsed();
    assert!(took < LIMIT, "{took:?}");
    assert!(program.filters.len() < 1000, "{program:?}");
}
