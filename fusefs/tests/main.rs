//! The file system as others see it: the tree without a mount, and real mounts in real namespaces.
#![allow(
    clippy::disallowed_methods,
    reason = "tests build layers and look at mounts from outside, by path"
)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers of tests fail as loudly as tests do, and their numbers are small"
)]

mod common;
mod counts;
mod faults;
mod interop;
mod model;
mod mount;
mod nested;
mod nodes;
mod open;
mod semantics;
mod tree;
