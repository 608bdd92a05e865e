//! System calls that no library wraps: every unsafe block of this crate.
#![allow(unsafe_code, reason = "this is the one module where it is allowed")]

pub mod attributes;
pub mod filter;
pub mod landlock;
pub mod mount;
pub mod network;
pub mod process;
pub mod regex;
pub mod seal;
pub mod terminal;
pub mod xattr;
