//! The command `rrun`, tested as its users meet it: real bundles, real namespaces, real mounts.
//!
//! Every test runs as root and as an ordinary user; where the two differ, the effective user id
//! decides what is expected. `scripts/test` runs both.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

mod attributes;
mod bad_input;
mod cgroups;
mod checkpoint;
mod cli;
mod concurrent;
mod events;
mod exec;
mod fuse_overlayfs;
mod fuzz;
mod hooks;
mod hostile;
mod hostile_process;
mod images;
mod images_hostile;
mod images_interop;
mod install;
mod keyring;
mod landlock;
mod lifecycle;
mod mounts;
mod mounts_live;
mod namespaces;
mod netdevices;
mod overlay;
mod process;
mod resources;
mod rootfs;
mod run;
mod seccomp_agent;
mod systemd;
mod userns;
