//! The runtime: makes a container be what its bundle says.
//!
//! Read downwards, this is the data flow: `cli` parses, `container` decides what may happen when,
//! `plan` turns spec and host into everything that is to be done, `process` does it in the right
//! process, with `namespaces`, `userns`, `rootfs` and `confine`; `store` keeps what outlives a
//! command; `sys` holds every unsafe block.

pub mod cli;
pub mod confine;
pub mod console;
pub mod container;
pub mod criu;
pub mod handover;
pub mod hooks;
pub mod host;
pub mod image;
pub mod log;
pub mod namespaces;
pub mod netdevices;
pub mod plan;
pub mod process;
pub mod procfs;
pub mod rootfs;
pub mod store;
pub mod sys;
pub mod userns;
