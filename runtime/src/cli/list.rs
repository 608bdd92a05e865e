//! `rrun list`: all containers.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::{Global, print};
use crate::container::state::Report;

/// List the containers
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Show the names only
    #[arg(short, long)]
    quiet: bool,
}

/// Forms of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns with a heading.
    Table,
    /// An array.
    Json,
}

impl List {
    /// Prints the list.
    ///
    /// # Errors
    ///
    /// If the directory of the containers cannot be read.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let runtime = global.runtime()?;
        // As with runc, a root that was named and is not there is a mistake, and the usual one is not.
        if let Some(root) = &global.root {
            let list = || format!("list {}", root.display());
            anyhow::ensure!(
                std::fs::metadata(root).with_context(list)?.is_dir(),
                "{}: no directory",
                list()
            );
        }
        let records = runtime.containers.all().context("list")?;
        let reports: Vec<_> = records.into_iter().map(|record| runtime.report(record)).collect();
        print(&match (self.quiet, self.format) {
            (true, _) => reports.iter().map(|report| format!("{}\n", report.id)).collect(),
            (false, Format::Json) => format!("{}\n", serde_json::to_string(&reports)?),
            (false, Format::Table) => table(&reports),
        })?;
        Ok(0)
    }
}

/// The narrowest column and the space between two, in characters, as runc's.
const NARROWEST: usize = 12;
const SPACE: usize = 3;

fn table(reports: &[Report]) -> String {
    let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |report: &Report| {
        [
            report.id.to_string(),
            report.pid.to_string(),
            report.status.to_string(),
            report.bundle.display().to_string(),
            report.created.clone(),
            report.owner.clone(),
        ]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(reports.iter().map(row)).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let width = if column + 1 == row.len() { 0 } else { NARROWEST.max(longest + SPACE) };
            let _infallible = write!(text, "{cell:width$}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_has_its_heading() {
        let line = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
        assert_eq!(table(&[]), line);
    }
}
