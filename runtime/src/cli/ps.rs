//! `rrun ps`: the processes of a container.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use super::list::Format;
use super::{Global, print};
use crate::container::ContainerId;

/// Show the processes of a container
///
/// The table is what the host's ps prints, without the lines of other processes.
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Arguments for ps
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Ps {
    /// Prints the processes.
    ///
    /// # Errors
    ///
    /// If there is no such container, or no ps.
    pub fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("ps {}", self.id);
        let pids = global.runtime()?.processes(&self.id).with_context(operation)?;
        print(&match self.format {
            Format::Json => {
                let numbers: Vec<_> = pids.iter().map(|pid| pid.as_raw()).collect();
                format!("{}\n", serde_json::to_string(&numbers)?)
            }
            Format::Table => self.table(&pids).with_context(operation)?,
        })?;
        Ok(0)
    }

    fn table(&self, pids: &[Pid]) -> Result<String> {
        let default = ["-ef".to_owned()];
        let arguments = if self.arguments.is_empty() { &default[..] } else { &self.arguments };
        let output = Command::new("ps")
            .args(arguments)
            .output()
            .context("run ps (install procps, or use --format json)")?;
        if !output.status.success() {
            bail!("ps: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        filter(&String::from_utf8_lossy(&output.stdout), pids)
    }
}

/// The heading and the lines of `pids`.
fn filter(table: &str, pids: &[Pid]) -> Result<String> {
    let heading = table.lines().next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID");
    let column = column.context("no column PID in the output of ps")?;
    let is_wanted = |line: &&str| {
        let number = line.split_whitespace().nth(column).and_then(|text| text.parse().ok());
        number.is_some_and(|number| pids.contains(&Pid::from_raw(number)))
    };
    let lines = table.lines().skip(1).filter(is_wanted);
    Ok(std::iter::once(heading).chain(lines).flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_stay() {
        let table = "UID  PID PPID CMD\nroot 1 0 init\nroot 12 1 sh -c 13\nroot 13 1 top\n";
        let filtered = filter(table, &[Pid::from_raw(12)]).unwrap();
        assert_eq!(filtered, "UID  PID PPID CMD\nroot 12 1 sh -c 13\n");
        assert!(filter("A B\n", &[]).is_err());
    }
}
