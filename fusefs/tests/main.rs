//! The file system as others see it: the tree without a mount, and real mounts in real namespaces.
#![allow(
    clippy::disallowed_methods,
    reason = "tests build layers and look at mounts from outside, by path"
)]

mod common;
mod interop;
mod model;
mod mount;
mod open;
mod semantics;
mod tree;
