//! `rrun exec`: a further program in a container.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::builder::{TypedValueParser as _, ValueParser};
use rrun_spec::oci::Capability;

use super::Global;
use crate::container::ContainerId;
use crate::container::exec::Request;
use crate::sys::seal::ensure_sealed;

/// Run a program in a container
#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// File that holds the process as JSON, in place of a command
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, and group, by number
    #[arg(short, long, value_name = "UID[:GID]", value_parser = ValueParser::new(user))]
    user: Option<(u32, Option<u32>)>,
    /// Additional group, by number; may be repeated
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Variable of the environment; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Capability to add; may be repeated
    #[arg(short, long, value_name = "CAP", value_parser = clap::builder::StringValueParser::new().try_map(|name| capability(&name)))]
    cap: Vec<Capability>,
    /// Keep exec of other programs from giving more privileges
    #[arg(long)]
    no_new_privs: bool,
    /// AppArmor profile of the program
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label of the program
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Enter a paused container too; the program runs when that is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// End as soon as the program runs
    #[arg(short, long)]
    detach: bool,
    /// File that takes the number of the process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that takes a pidfd of the program
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Socket that takes the master side of the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Where below the container's cgroup the program goes; may be repeated for controllers of version 1
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    cgroup: Vec<String>,
    /// Descriptors after the standard three that the program gets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

impl Exec {
    /// Runs the program and, in the foreground, waits for it.
    ///
    /// # Errors
    ///
    /// If the container does not run, or the program cannot.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("exec {}", self.id);
        ensure_sealed().context("keep rrun from being overwritten").with_context(operation)?;
        self.run_sealed(global).with_context(operation)
    }

    fn run_sealed(&self, global: &Global) -> Result<u8> {
        if self.process.is_none() && self.command.is_empty() {
            bail!("process args cannot be empty: give a command, or --process");
        }
        let runtime = global.runtime()?;
        runtime.exec_and_wait(&self.id, &self.request())
    }

    fn request(&self) -> Request {
        Request {
            process: self.process.clone(),
            arguments: self.command.clone(),
            user: self.user,
            groups: self.additional_gids.clone(),
            directory: self.cwd.clone(),
            environment: self.env.clone(),
            capabilities: self.cap.clone(),
            terminal: self.tty,
            no_new_privileges: self.no_new_privs,
            apparmor: self.apparmor.clone(),
            selinux: self.process_label.clone(),
            ignore_paused: self.ignore_paused,
            pidfd_socket: self.pidfd_socket.clone(),
            console_socket: self.console_socket.clone(),
            pid_file: self.pid_file.clone(),
            preserve_fds: self.preserve_fds,
            detach: self.detach,
            cgroups: self.cgroup.clone(),
        }
    }
}

/// Strictly numbers: a name that was taken for 0 would be root (CVE-2026-30892).
fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse().ok()).flatten();
        number.ok_or_else(|| format!("{text:?} is not a user or group number"))
    };
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
    }
}

fn capability(name: &str) -> Result<Capability, String> {
    let short = name.to_ascii_uppercase();
    let short = short.strip_prefix("CAP_").unwrap_or(&short);
    serde_json::from_value(serde_json::Value::String(format!("CAP_{short}")))
        .map_err(|_| format!("{name:?} is not a capability: want a name like CAP_NET_RAW"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(user("5"), Ok((5, None)));
        assert_eq!(user("5:6"), Ok((5, Some(6))));
        for wrong in ["", "root", "5:", ":5", "-1", "+5", "4294967296", "5:6:7", "0x5"] {
            assert!(user(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn capabilities_have_long_and_short_names() {
        assert_eq!(capability("CAP_NET_RAW").unwrap(), Capability::NetRaw);
        assert_eq!(capability("net_raw").unwrap(), Capability::NetRaw);
        assert!(capability("CAP_NOTHING").is_err());
    }
}
