//! What takes freedom from the container's processes.

pub mod attributes;
pub mod capabilities;
pub mod cgroup;
pub mod labels;
pub mod landlock;
pub mod resctrl;
pub mod rlimits;
pub mod seccomp;
