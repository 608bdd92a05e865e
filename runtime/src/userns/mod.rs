//! User namespaces: which ids a container has and who writes that down.
//!
//! `map` is the arithmetic of id maps, `subid` chooses the maps of a caller who asked for none,
//! `write` hands them to the kernel; `spare` makes namespaces that nobody lives in.

pub mod map;
pub mod spare;
pub mod subid;
pub mod write;
