//! `rrun completion` and `rrun man`: what the shell and man(1) know of this command, from its own
//! definition.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Command, Global, print};

/// Print a script that completes command lines of rrun
///
/// For bash, it belongs into share/bash-completion/completions/rrun; `scripts/install` puts it there.
#[derive(Debug, clap::Args)]
pub(super) struct Completion {
    /// Shell that is to read it
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completion {
    /// Prints the script.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn run(&self, _global: &Global) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Command::command(), "rrun", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}

/// Write the man pages of rrun into a directory
///
/// One for rrun and one for each verb: rrun.1, rrun-create.1 and so on.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Directory for the pages, which must be there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    /// Writes the pages.
    ///
    /// # Errors
    ///
    /// Those of writing files.
    pub(super) fn run(&self, _global: &Global) -> Result<u8> {
        clap_mangen::generate_to(Command::command(), &self.directory)
            .with_context(|| format!("write man pages into {}", self.directory.display()))?;
        Ok(0)
    }
}
