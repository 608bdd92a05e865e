//! `rrun image inspect`: everything about images.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Global;
use crate::cli::format::template::Template;
use crate::cli::print;
use crate::image::describe::inspect;
use crate::store::images::Images;

/// Show everything about images, as JSON
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// Names or IDs of images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// json, or a template as Go has them
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl Inspect {
    /// Prints it.
    ///
    /// # Errors
    ///
    /// If there is no such image; the others are shown all the same.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let images = global.images()?;
        let (mut found, mut first_error) = (Vec::new(), None);
        for name in &self.images {
            match describe(&images, name).with_context(|| format!("inspect {name}")) {
                Ok(value) => found.push(value),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        print(&self.text(&found).context("inspect")?)?;
        first_error.map_or(Ok(0), Err)
    }

    fn text(&self, found: &[Value]) -> Result<String> {
        match self.format.as_deref() {
            None | Some("") => Ok(format!("{}\n", serde_json::to_string_pretty(found)?)),
            Some("json") => Ok(found.iter().map(|value| format!("{value}\n")).collect()),
            Some(format) => {
                let template = Template::parse(format)?;
                let lines = found.iter().map(|value| Ok(template.run(value)? + "\n"));
                lines.collect()
            }
        }
    }
}

fn describe(images: &Images, name: &str) -> Result<Value> {
    inspect(images, &images.find(name)?)
}
