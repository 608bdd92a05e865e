//! What comes from outside, mutated by a seeded generator: nothing of it makes rrun panic.
//!
//! `RRUN_SEED` repeats a run, `RRUN_FUZZ_INPUTS` makes it longer: inputs for each kind. The kinds and what
//! holds for each are in `fuzz/targets.rs`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

#[path = "../fuzz/targets.rs"]
mod targets;

use self::targets::{TARGETS, Target};

/// Inputs for each kind, if nobody says otherwise: 100,000 in all, in some seconds.
const INPUTS: u64 = 9_500;

/// A whole configuration takes a hundred times longer than the others.
const INPUTS_OF_CONFIG: u64 = 4_800;

/// A generator that is good enough for this (Marsaglia's xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 if there is none.
    fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from((self.next() >> 16) % bound).unwrap()
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// What parsers stumble over.
const WORDS: [&[u8]; 28] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b" ",
    b"\\",
    b"\\u0000",
    b"\0",
    b"-1",
    b"0",
    b"1e400",
    b"4294967295",
    b"4294967296",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"null",
    b"true",
    b"..",
    b"/",
    b"%",
    b"\xff\xfe",
    "\u{1F980}".as_bytes(),
    b"CAP_",
    b"/proc/self/fd/1",
];

fn mutated(example: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = example.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        let end = (at + random.below(32)).min(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, random.one(&WORDS).iter().copied())),
            3 => drop(bytes.splice(at..end, random.one(&WORDS).iter().copied())),
            4 => bytes.extend_from_within(at..end),
            5 => bytes.truncate(at),
            _ => {
                let from = random.below(other.len());
                let to = (from + random.below(64)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
    bytes
}

/// The same document with one value replaced or left out: still JSON, and mostly still of the right shape.
fn changed(document: &mut Value, random: &mut Random) {
    let inner: Vec<&mut Value> = match document {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => Vec::new(),
    };
    let many = inner.len();
    if many > 0 && random.below(8) > 0 {
        let chosen = random.below(many);
        if let Some(value) = inner.into_iter().nth(chosen) {
            changed(value, random);
        }
        return;
    }
    *document = match random.below(8) {
        0 => Value::Null,
        1 => Value::from(random.next()),
        2 => Value::from(-1),
        3 => Value::from(random.below(300)),
        4 => Value::from(String::from_utf8_lossy(random.one(&WORDS))),
        5 => Value::Array(vec![document.take(), Value::Null]),
        6 => Value::from("x".repeat(random.below(5000))),
        _ => serde_json::json!({}),
    };
}

fn input(target: &Target, random: &mut Random) -> Vec<u8> {
    let (example, other) = (random.one(target.examples), random.one(target.examples));
    match serde_json::from_slice::<Value>(example) {
        Ok(mut document) if random.below(3) > 0 => {
            for _ in 0..=random.below(3) {
                changed(&mut document, random);
            }
            document.to_string().into_bytes()
        }
        _ => mutated(example, other, random),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn nothing_from_outside_makes_it_panic() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let seed = number("RRUN_SEED").unwrap_or_else(|| u64::try_from(now() >> 4).unwrap());
    println!("RRUN_SEED={seed}");
    for target in &TARGETS {
        let mut random = Random(seed | 1);
        let usual = if target.name == "config" { INPUTS_OF_CONFIG } else { INPUTS };
        for _ in 0..number("RRUN_FUZZ_INPUTS").unwrap_or(usual) {
            let input = input(target, &mut random);
            let held = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(held.is_ok(), "{} with {}", target.name, input.escape_ascii());
        }
    }
}

/// The examples are what they should be examples of: else they would only exercise the first check.
#[test]
fn the_examples_are_accepted() {
    let accepted = |text: &[u8]| rrun_spec::parse(text, "config.json".as_ref()).is_ok();
    for target in &TARGETS {
        for example in target.examples {
            (target.run)(example);
            let good = match target.name {
                "config" => accepted(example),
                "process" => rrun_spec::parse_process(example, "p".as_ref()).is_ok(),
                "state" => {
                    serde_json::from_slice::<rrun::store::containers::Record>(example).is_ok()
                }
                "reference" => {
                    let text = String::from_utf8_lossy(example);
                    text.parse::<rrun::image::reference::Reference>().is_ok()
                }
                _ => true,
            };
            assert!(good, "{}: {}", target.name, example.escape_ascii());
        }
    }
}
