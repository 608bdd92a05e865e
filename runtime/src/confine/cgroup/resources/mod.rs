//! `linux.resources`, section by section, as settings of both versions of cgroups.

mod block_io;
mod cpu;
mod memory;
mod others;

use oci_spec::runtime::LinuxResources;

use super::setting::Setting;

/// What a zero means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    /// Nothing, as in a new cgroup everything is 0 that may be: engines write it for "not given".
    Nothing,
    /// Back to what a new cgroup has, where 0 is a value.
    Reset,
}

/// The settings for `resources`, without devices, in the order in which they are written.
///
/// # Errors
///
/// A value that makes no sense, with its JSON pointer.
pub(super) fn settings(resources: &LinuxResources, zero: Zero) -> anyhow::Result<Vec<Setting>> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        memory::add(memory, zero, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu::add(cpu, zero, &mut settings);
    }
    if let Some(pids) = resources.pids() {
        settings.push(others::pids(pids.limit()));
    }
    if let Some(block_io) = resources.block_io() {
        block_io::add(block_io, &mut settings);
    }
    others::add_huge_pages(resources.hugepage_limits().as_deref(), &mut settings);
    if let Some(network) = resources.network() {
        others::add_network(network, &mut settings);
    }
    others::add_rdma(resources.rdma().as_ref(), &mut settings);
    // Last, for these are the exact words of version 2 and override the others.
    others::add_unified(resources.unified().as_ref(), &mut settings);
    Ok(settings)
}

/// The text of version 2 for a limit that may be none.
fn number_or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// Version 1 knows no "max" for bytes and time, but -1.
fn number_or_minus(limit: i64) -> String {
    limit.max(-1).to_string()
}
