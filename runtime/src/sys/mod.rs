//! System calls that no library wraps: every unsafe block of this crate.

pub mod filter;
pub mod mount;
pub mod process;
pub mod terminal;
