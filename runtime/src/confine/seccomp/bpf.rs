//! The BPF program of a profile.
//!
//! ```text
//! architecture? ──► search tree over ranges of call numbers ──► answer
//!       │                                                  └──► conditions on arguments ──► answer
//!       └──► none of the profile's: kill the thread
//! ```
//! libseccomp knows the numbers of the calls, but its generator needs 11 ms for docker's default
//! profile, which is more than all the rest of starting a container; this one needs 0.2 ms.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET,
    BPF_W, SECCOMP_RET_KILL_THREAD, sock_filter,
};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `__X32_SYSCALL_BIT`: x32 shares its token with x86-64 and sets this bit in the numbers.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// What the kernel is told to do (`SECCOMP_RET_*` with its data).
pub(super) type Answer = u32;

/// How an argument is compared, as 64-bit unsigned numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal after the argument was masked with this.
    Masked(u64),
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) compare: Compare,
    pub(super) value: u64,
    /// Look at the lower half only: the whole of an argument on a 32-bit architecture.
    pub(super) half: bool,
}

/// What a call gets: the answer of the first alternative whose conditions all hold, else the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) alternatives: Vec<(Vec<Condition>, Answer)>,
    pub(super) otherwise: Answer,
}

/// A verdict from a call number up to the next range's.
pub(super) type Range = (u32, Verdict);

/// The calls of one `AUDIT_ARCH_*` token.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) token: u32,
    /// Sorted by number; the first begins at 0.
    pub(super) ranges: Vec<Range>,
}

/// The whole program.
pub(super) fn program(sections: &[Section]) -> Vec<sock_filter> {
    let mut program = vec![load(ARCH)];
    for section in sections {
        let mut body = vec![load(NUMBER)];
        body.extend(search(&section.ranges));
        program.extend(jump_over(BPF_JEQ, section.token, body.len(), When::Not));
        program.extend(body);
    }
    program.push(answer(SECCOMP_RET_KILL_THREAD));
    program
}

/// Finds the range of the number in the accumulator. Never falls through.
fn search(ranges: &[Range]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![answer(SECCOMP_RET_KILL_THREAD)],
        [(_first, verdict)] => verdict_code(verdict),
        _ => {
            let (below, from) = ranges.split_at(ranges.len() / 2);
            let (pivot, below) = (from[0].0, search(below));
            let mut code = jump_over(BPF_JGE, pivot, below.len(), When::Holds);
            code.extend(below);
            code.extend(search(from));
            code
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Holds,
    Not,
}

/// Skips `length` instructions when the test on the accumulator says `when`.
fn jump_over(test: u32, value: u32, length: usize, when: When) -> Vec<sock_filter> {
    let (near, far) = (u8::try_from(length), u32::try_from(length).unwrap_or(u32::MAX));
    match (near, when) {
        (Ok(near), When::Holds) => vec![jump(test, value, near, 0)],
        (Ok(near), When::Not) => vec![jump(test, value, 0, near)],
        // A conditional jump reaches 255 instructions, an unconditional one any number.
        (Err(_), When::Holds) => {
            vec![jump(test, value, 0, 1), instruction(BPF_JMP | BPF_JA, far, 0, 0)]
        }
        (Err(_), When::Not) => {
            vec![jump(test, value, 1, 0), instruction(BPF_JMP | BPF_JA, far, 0, 0)]
        }
    }
}

fn verdict_code(verdict: &Verdict) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for (conditions, result) in &verdict.alternatives {
        code.extend(alternative(conditions, *result));
    }
    code.push(answer(verdict.otherwise));
    code
}

/// Answers if all `conditions` hold, else falls through.
fn alternative(conditions: &[Condition], result: Answer) -> Vec<sock_filter> {
    let steps = conditions.iter().map(steps).collect::<Vec<_>>();
    let end = steps.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(end);
    for condition in steps {
        let passed = code.len() + condition.len();
        for step in condition {
            let here = code.len() + 1;
            // Six conditions of six steps each are within reach of a conditional jump.
            let distance = |to: To| match to {
                To::Next => 0,
                To::Pass => u8::try_from(passed - here).unwrap_or(u8::MAX),
                To::Fail => u8::try_from(end - here).unwrap_or(u8::MAX),
            };
            code.push(match step {
                Step::Do(plain) => plain,
                Step::Test(test, value, yes, no) => jump(test, value, distance(yes), distance(no)),
            });
        }
    }
    code.push(answer(result));
    code
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    Pass,
    Fail,
}

enum Step {
    Do(sock_filter),
    Test(u32, u32, To, To),
}

/// The upper halves decide unless they are equal.
fn steps(condition: &Condition) -> Vec<Step> {
    let [upper, lower] = halves(condition.value);
    let first = match condition.compare {
        Compare::Equal => vec![Step::Test(BPF_JEQ, upper, To::Next, To::Fail)],
        Compare::NotEqual => vec![Step::Test(BPF_JEQ, upper, To::Next, To::Pass)],
        Compare::Greater | Compare::GreaterOrEqual => vec![
            Step::Test(BPF_JGT, upper, To::Pass, To::Next),
            Step::Test(BPF_JEQ, upper, To::Next, To::Fail),
        ],
        Compare::Less | Compare::LessOrEqual => vec![
            Step::Test(BPF_JGT, upper, To::Fail, To::Next),
            Step::Test(BPF_JEQ, upper, To::Next, To::Pass),
        ],
        Compare::Masked(mask) => {
            vec![Step::Do(and(halves(mask)[0])), Step::Test(BPF_JEQ, upper, To::Next, To::Fail)]
        }
    };
    let second = match condition.compare {
        Compare::Equal => vec![Step::Test(BPF_JEQ, lower, To::Next, To::Fail)],
        Compare::NotEqual => vec![Step::Test(BPF_JEQ, lower, To::Fail, To::Next)],
        Compare::Greater => vec![Step::Test(BPF_JGT, lower, To::Next, To::Fail)],
        Compare::GreaterOrEqual => vec![Step::Test(BPF_JGE, lower, To::Next, To::Fail)],
        Compare::Less => vec![Step::Test(BPF_JGE, lower, To::Fail, To::Next)],
        Compare::LessOrEqual => vec![Step::Test(BPF_JGT, lower, To::Fail, To::Next)],
        Compare::Masked(mask) => {
            vec![Step::Do(and(halves(mask)[1])), Step::Test(BPF_JEQ, lower, To::Next, To::Fail)]
        }
    };
    let [at_upper, at_lower] = offsets(condition.argument);
    let mut steps = Vec::new();
    if !condition.half {
        steps.push(Step::Do(load(at_upper)));
        steps.extend(first);
    }
    steps.push(Step::Do(load(at_lower)));
    steps.extend(second);
    steps
}

/// The upper and the lower half.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

/// Where the upper and the lower half of an argument are.
fn offsets(argument: u8) -> [u32; 2] {
    let at = ARGUMENTS + 8 * u32::from(argument);
    if cfg!(target_endian = "little") { [at + 4, at] } else { [at, at + 4] }
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

fn and(mask: u32) -> sock_filter {
    instruction(BPF_ALU | BPF_AND | BPF_K, mask, 0, 0)
}

fn answer(answer: Answer) -> sock_filter {
    instruction(BPF_RET | BPF_K, answer, 0, 0)
}

fn jump(test: u32, value: u32, over_if: u8, over_else: u8) -> sock_filter {
    instruction(BPF_JMP | test | BPF_K, value, over_if, over_else)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // Every operation of classic BPF fits into eight bits.
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}
