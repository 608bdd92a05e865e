//! `rrun image history`: how an image came to be.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Global;
use crate::cli::format::{self, human};
use crate::cli::print;
use crate::image::describe::{Step, history};

/// Show how an image came to be, the last step first
#[derive(Debug, clap::Args)]
pub(super) struct History {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// json, or a template as Go has them, perhaps after the word table
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Say sizes and ages in words
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    human: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
}

const USUAL: &str = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const NOT_HUMAN: &str = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const HEADINGS: [(&str, &str); 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
/// How much of a command is shown, in characters.
const SHOWN: usize = 45;

impl History {
    /// Prints the steps.
    ///
    /// # Errors
    ///
    /// If there is no such image.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("history {}", self.image);
        let images = global.images()?;
        let image = images.find(&self.image).with_context(operation)?;
        let id = if self.no_trunc { image.id.to_string() } else { image.id.short().to_owned() };
        let steps = history(&images, &image).with_context(operation)?;
        // The steps below were never images of their own here.
        let ids = std::iter::once(id.as_str()).chain(std::iter::repeat("<missing>"));
        let rows: Vec<_> = steps.iter().zip(ids).map(|(step, id)| self.row(step, id)).collect();
        let usual = if self.human { USUAL } else { NOT_HUMAN };
        let format = match self.format.as_deref() {
            _ if self.quiet => "{{.ID}}",
            None | Some("table") => usual,
            Some(format) => format,
        };
        print(&format::rows(format, &rows, &HEADINGS).with_context(operation)?)?;
        Ok(0)
    }

    fn row(&self, step: &Step, id: &str) -> Value {
        let moment: Option<Timestamp> = step.created.as_ref().and_then(|text| text.parse().ok());
        let size = if self.human { human::size(step.size) } else { step.size.to_string() };
        let mut by = step.created_by.replace('\t', " ");
        if !self.no_trunc && by.chars().count() > SHOWN {
            by = by.chars().take(SHOWN - 1).chain(['…']).collect();
        }
        json!({
            "ID": id,
            "CreatedSince": human::since(moment, Timestamp::now()),
            "CreatedAt": step.created.clone().unwrap_or_default(),
            "CreatedBy": by,
            "Size": size,
            "Comment": step.comment,
        })
    }
}
