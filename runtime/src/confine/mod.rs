//! What takes freedom from the container's processes.

pub mod capabilities;
pub mod cgroup;
pub mod rlimits;
pub mod seccomp;
