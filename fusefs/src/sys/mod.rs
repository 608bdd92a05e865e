//! Every unsafe block of this crate: system calls that `nix` does not offer safely.
#![allow(unsafe_code)]

pub(crate) mod copy;
pub(crate) mod dents;
pub(crate) mod flags;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod schedule;
pub(crate) mod stat;
pub(crate) mod xattr;
