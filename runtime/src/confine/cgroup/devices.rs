//! Which devices the container's processes may open and make.
//!
//! Version 1 has a file for it, version 2 asks a BPF program.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context as _, Error, Result, ensure};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Cgroup, Directory, errno_of};
use crate::sys::filter::{self, BpfInstruction};

/// A kind of access, as `struct bpf_cgroup_dev_ctx` and the letters m, r, w say.
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MAKE | READ | WRITE;

/// Allows or denies; the last rule that fits an access decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    allow: bool,
    kind: Kind,
    /// None is any.
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    All,
    Block,
    Char,
}

const fn allow(kind: Kind, major: Option<i32>, minor: Option<i32>, access: i32) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

/// What every container may do, whatever its rules say (as runc): make any node, since opening is what
/// counts, and use the devices that the runtime-spec puts into every container.
const DEFAULTS: [Rule; 10] = [
    allow(Kind::Char, None, None, MAKE),
    allow(Kind::Block, None, None, MAKE),
    allow(Kind::Char, Some(1), Some(3), ALL), // null
    allow(Kind::Char, Some(1), Some(5), ALL), // zero
    allow(Kind::Char, Some(1), Some(7), ALL), // full
    allow(Kind::Char, Some(1), Some(8), ALL), // random
    allow(Kind::Char, Some(1), Some(9), ALL), // urandom
    allow(Kind::Char, Some(5), Some(0), ALL), // tty
    allow(Kind::Char, Some(5), Some(2), ALL), // ptmx
    allow(Kind::Char, Some(136), None, ALL),  // pts/N
];

/// The rules of `linux.resources.devices` and [`DEFAULTS`]; none if the config has none.
pub(super) fn rules(wanted: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let rule = |(at, rule): (usize, &LinuxDeviceCgroup)| {
        Rule::from_oci(rule).with_context(|| format!("/linux/resources/devices/{at}"))
    };
    let mut rules = wanted.iter().enumerate().map(rule).collect::<Result<Vec<_>>>()?;
    if !rules.is_empty() {
        rules.extend(DEFAULTS);
    }
    Ok(rules)
}

impl Rule {
    fn from_oci(rule: &LinuxDeviceCgroup) -> Result<Self> {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => Kind::All,
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
            Some(LinuxDeviceType::P) => anyhow::bail!("type p: a fifo is no device"),
        };
        let access = match rule.access().as_deref() {
            None | Some("") => ALL,
            Some(letters) => letters.chars().try_fold(0, |access, letter| match letter {
                'm' => Ok(access | MAKE),
                'r' => Ok(access | READ),
                'w' => Ok(access | WRITE),
                'a' => Ok(access),
                _ => Err(Error::msg(format!("access {letters:?}: want some of r, w and m"))),
            })?,
        };
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        Ok(Self { allow: rule.allow(), kind, major, minor, access })
    }

    fn fits_all(&self) -> bool {
        let any_number = self.major.is_none() && self.minor.is_none();
        self.kind == Kind::All && self.access == ALL && any_number
    }

    /// The line that version 1 takes.
    fn text(&self) -> String {
        let kind = match self.kind {
            Kind::All => 'a',
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let number = |number: Option<i32>| number.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.letters())
    }

    fn letters(&self) -> String {
        let letters = [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')];
        let access = letters.iter().filter(|(bit, _)| self.access & bit != 0);
        access.map(|(_, letter)| letter).collect()
    }

    /// What systemd calls these devices; it has no word for a minor number of any major.
    fn entries(&self) -> Option<Vec<(String, String)>> {
        let kinds: &[&str] = match self.kind {
            Kind::All => &["char", "block"],
            Kind::Block => &["block"],
            Kind::Char => &["char"],
        };
        let entry = |kind: &&str| {
            let path = match (self.major, self.minor) {
                (None, None) => format!("{kind}-*"),
                (Some(major), None) => format!("{kind}-{major}"),
                (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                (None, Some(_)) => return None,
            };
            Some((path, self.letters()))
        };
        kinds.iter().map(entry).collect()
    }
}

/// The rules as systemd's `DeviceAllow` has them (`systemd.resource-control(5)`): paths or groups, and
/// kinds of access. None if they are more than a list of exceptions from "nothing".
pub(super) fn allow_list(rules: &[Rule]) -> Option<Vec<(String, String)>> {
    let (first, rest) = rules.split_first()?;
    if first.allow || !first.fits_all() {
        return None;
    }
    let entries = rest.iter().map(|rule| rule.allow.then(|| rule.entries()).flatten());
    Some(entries.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

/// -1 is any, as nothing is.
fn number(number: Option<i64>) -> Result<Option<i32>> {
    let Some(number) = number.filter(|number| *number != -1) else { return Ok(None) };
    let number = i32::try_from(number).ok().filter(|number| *number >= 0);
    ensure!(number.is_some(), "a device number is -1 (any) or 0 to {}", i32::MAX);
    Ok(number)
}

/// Puts `rules` in force, unless the cgroup's maker has no privileges and may not.
pub(super) fn apply(cgroup: &Cgroup, rules: &[Rule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let applied = match (cgroup.v1("devices"), &cgroup.unified) {
        (Some(directory), _) => write_lists(directory, rules),
        (None, Some(directory)) => attach_program(directory, rules),
        (None, None) => return Ok(()),
    };
    match applied {
        Err(Errno::EPERM | Errno::EACCES) if !cgroup.privileged => Ok(()),
        applied => applied.context("/linux/resources/devices: put the device rules in force"),
    }
}

/// Puts `rules` in force in place of those that are, in a cgroup in use.
pub(super) fn replace(cgroup: &Cgroup, rules: &[Rule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let replaced = match (cgroup.v1("devices"), &cgroup.unified) {
        (Some(directory), _) => while_frozen(cgroup, || write_lists(directory, rules))?,
        (None, Some(directory)) => replace_program(directory, rules),
        (None, None) => return Ok(()),
    };
    match replaced {
        Err(Errno::EPERM | Errno::EACCES) if !cgroup.privileged => Ok(()),
        replaced => replaced.context("/linux/resources/devices: replace the device rules"),
    }
}

/// Rule by rule, the lists of version 1 deny for a moment what they will allow: nobody may see that.
fn while_frozen<T>(cgroup: &Cgroup, change: impl FnOnce() -> T) -> Result<T> {
    if !cgroup.has_freezer() || cgroup.frozen()? {
        return Ok(change());
    }
    cgroup.freeze()?;
    let changed = change();
    cgroup.thaw()?;
    Ok(changed)
}

/// `devices.deny` and `devices.allow` take one rule a write.
fn write_lists(directory: &Directory, rules: &[Rule]) -> nix::Result<()> {
    let open = |name| {
        let file = OpenOptions::new().write(true).open(directory.path.join(name));
        file.map_err(|error| errno_of(&error))
    };
    let (mut allowing, mut denying): (File, File) = (open("devices.allow")?, open("devices.deny")?);
    for rule in rules {
        let file = if rule.allow { &mut allowing } else { &mut denying };
        file.write_all(rule.text().as_bytes()).map_err(|error| errno_of(&error))?;
    }
    Ok(())
}

fn attach_program(directory: &Directory, rules: &[Rule]) -> nix::Result<()> {
    let cgroup = File::open(&directory.path).map_err(|error| errno_of(&error))?;
    filter::attach_device_program(&cgroup, &program(rules))
}

fn replace_program(directory: &Directory, rules: &[Rule]) -> nix::Result<()> {
    let cgroup = File::open(&directory.path).map_err(|error| errno_of(&error))?;
    filter::replace_device_programs(&cgroup, &program(rules))
}

/// Registers of the program: the answer; the context, later a scratch; what the context says.
const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;

/// eBPF operations (Linux `include/uapi/linux/bpf_common.h`, `bpf.h`).
const LOAD_WORD: u8 = 0x61;
const AND_CONSTANT: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb7;
const JUMP_IF_CONSTANT: u8 = 0x15;
const JUMP_UNLESS_CONSTANT: u8 = 0x55;
const JUMP_UNLESS: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The program: it asks the rules from the last to the first and answers as the first that fits; an
/// access that none fits is allowed, as in version 1.
fn program(rules: &[Rule]) -> Vec<BpfInstruction> {
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }
        load(TYPE, 0),
        constant(AND_CONSTANT, TYPE, 0xffff),
        load(ACCESS, 0),
        constant(SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(rule_code(rule));
        if rule.fits_all() {
            // The verifier takes no code that cannot be reached.
            return program;
        }
    }
    program.extend(decide(true));
    program
}

/// Decides if the rule fits, else falls through.
fn rule_code(rule: &Rule) -> Vec<BpfInstruction> {
    let mut tests = Vec::new();
    match rule.kind {
        Kind::All => {}
        Kind::Block => tests.push(constant(JUMP_UNLESS_CONSTANT, TYPE, TYPE_BLOCK)),
        Kind::Char => tests.push(constant(JUMP_UNLESS_CONSTANT, TYPE, TYPE_CHAR)),
    }
    if rule.access != ALL {
        tests.push(registers(MOVE, SCRATCH, ACCESS));
        tests.push(constant(AND_CONSTANT, SCRATCH, rule.access));
        // Allowed is what is allowed entirely, denied what is denied in part.
        tests.push(if rule.allow {
            registers(JUMP_UNLESS, SCRATCH, ACCESS)
        } else {
            constant(JUMP_IF_CONSTANT, SCRATCH, 0)
        });
    }
    let numbers = [(MAJOR, rule.major), (MINOR, rule.minor)];
    tests.extend(
        numbers.into_iter().filter_map(|(register, number)| {
            Some(constant(JUMP_UNLESS_CONSTANT, register, number?))
        }),
    );
    let verdict = decide(rule.allow);
    let end = tests.len() + verdict.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JUMP_UNLESS_CONSTANT | JUMP_UNLESS | JUMP_IF_CONSTANT) {
            // A rule has at most seven tests.
            test.offset = i16::try_from(end - at - 1).unwrap_or_default();
        }
    }
    tests.extend(verdict);
    tests
}

fn decide(allow: bool) -> [BpfInstruction; 2] {
    [constant(MOVE_CONSTANT, ANSWER, i32::from(allow)), constant(EXIT, ANSWER, 0)]
}

fn load(register: u8, offset: i16) -> BpfInstruction {
    BpfInstruction { code: LOAD_WORD, registers: register | SCRATCH << 4, offset, immediate: 0 }
}

fn constant(code: u8, register: u8, immediate: i32) -> BpfInstruction {
    BpfInstruction { code, registers: register, offset: 0, immediate }
}

fn registers(code: u8, destination: u8, source: u8) -> BpfInstruction {
    BpfInstruction { code, registers: destination | source << 4, offset: 0, immediate: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Vec<Rule>> {
        rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
    }

    /// What the kernel would answer to this access.
    fn run(program: &[BpfInstruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut register = [0; 6];
        let mut at = 0;
        loop {
            let BpfInstruction { code, registers, offset, immediate } = program[at];
            let (to, from) = (usize::from(registers & 15), usize::from(registers >> 4));
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    register[to] = context[usize::try_from(offset).unwrap() / 4];
                    false
                }
                AND_CONSTANT => {
                    register[to] &= immediate;
                    false
                }
                SHIFT_RIGHT => {
                    register[to] >>= immediate;
                    false
                }
                MOVE => {
                    register[to] = register[from];
                    false
                }
                MOVE_CONSTANT => {
                    register[to] = immediate;
                    false
                }
                JUMP_IF_CONSTANT => register[to] == immediate,
                JUMP_UNLESS_CONSTANT => register[to] != immediate,
                JUMP_UNLESS => register[to] != register[from],
                EXIT => return register[0] == 1,
                other => panic!("operation {other:#x}"),
            };
            at += if jump { usize::try_from(offset).unwrap() } else { 0 };
        }
    }

    #[test]
    fn rules_have_the_text_of_version_1() {
        let rules = parse(
            r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10,
                "minor": 200, "access": "wr"}, {"allow": true, "type": "b", "major": 8, "minor": -1}]"#,
        );
        let texts = rules.unwrap().iter().map(Rule::text).collect::<Vec<_>>();
        assert_eq!(texts[..4], ["a *:* rwm", "c 10:200 rw", "b 8:* rwm", "c *:* m"]);
        assert_eq!(texts.last().unwrap(), "c 136:* rwm");
        assert_eq!(parse("[]").unwrap(), []);
    }

    #[test]
    fn nonsense_is_refused_with_its_pointer() {
        for (json, complaint) in [
            (r#"[{"allow": true, "access": "rx"}]"#, r#"devices/0: access "rx""#),
            (r#"[{"allow": true}, {"allow": true, "major": -2}]"#, "devices/1: a device number"),
            (r#"[{"allow": true, "type": "p"}]"#, "a fifo is no device"),
        ] {
            let error = format!("{:#}", parse(json).unwrap_err());
            assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
        }
    }

    #[test]
    fn the_program_answers_as_the_last_fitting_rule() {
        let rules = parse(
            r#"[{"allow": false}, {"allow": true, "type": "b", "major": 8, "access": "r"},
                {"allow": true, "type": "c", "major": 10},
                {"allow": false, "type": "c", "major": 10, "minor": 7, "access": "w"}]"#,
        );
        let program = program(&rules.unwrap());
        for (kind, access, major, minor, expected) in [
            (TYPE_CHAR, READ | WRITE, 1, 3, true), // a default
            (TYPE_CHAR, READ, 1, 1, false),        // mem
            (TYPE_BLOCK, MAKE, 9, 9, true),        // making is allowed
            (TYPE_BLOCK, READ, 8, 1, true),
            (TYPE_BLOCK, READ | WRITE, 8, 1, false), // only a part is allowed
            (TYPE_CHAR, READ, 8, 1, false),
            (TYPE_CHAR, READ | WRITE, 10, 6, true),
            (TYPE_CHAR, READ, 10, 7, true),
            (TYPE_CHAR, READ | WRITE, 10, 7, false), // a part is denied
            (TYPE_CHAR, READ | WRITE, 136, 40, true),
        ] {
            let answer = run(&program, kind, access, major, minor);
            assert_eq!(answer, expected, "{kind} {access} {major}:{minor}");
        }
        assert!(run(&super::program(&[]), TYPE_CHAR, ALL, 1, 1));
    }
}
