//! What is told of an image: everything as Docker tells it, and how it came to be.

use std::collections::VecDeque;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::digest::Digest;
use super::document::Config;
use super::library::Image;
use super::reference::Reference;
use super::remove::size;
use super::worker::DIFF;
use crate::store::images::Images;

/// Everything, as `docker image inspect` has it.
///
/// # Errors
///
/// If the image is damaged.
pub fn inspect(images: &Images, image: &Image) -> Result<Value> {
    let config = images.config(image)?;
    let text = images.document(&image.manifest.config)?;
    let raw: Value = serde_json::from_slice(&text).context("understand the configuration")?;
    let field = |name: &str| raw.get(name).cloned();
    let text = |name: &str| field(name).unwrap_or_else(|| Value::from(""));
    let history = raw.get("history").and_then(Value::as_array);
    let comment = history.and_then(|all| all.last()?.get("comment").cloned());
    let size = size(images, image)?;
    let (tags, digests) = names(image);
    let mut all = Map::new();
    for (name, value) in [
        ("Id", json!(image.id)),
        ("Digest", json!(image.descriptor.digest().to_string())),
        ("RepoTags", json!(tags)),
        ("RepoDigests", json!(digests)),
        ("Parent", json!("")),
        ("Comment", comment.unwrap_or_else(|| json!(""))),
        ("Created", text("created")),
        ("Author", text("author")),
        ("Architecture", text("architecture")),
        ("Os", text("os")),
        ("Config", field("config").unwrap_or_else(|| json!({}))),
        ("Size", json!(size)),
        ("VirtualSize", json!(size)),
        ("GraphDriver", json!({"Name": "overlay", "Data": layers(images, &config)})),
        ("RootFS", json!({"Type": "layers", "Layers": config.diff_ids})),
    ] {
        all.insert(name.to_owned(), value);
    }
    if let Some(variant) = config.image.variant() {
        all.insert("Variant".to_owned(), json!(variant));
    }
    Ok(Value::Object(all))
}

/// Its names, and what registries call its contents.
fn names(image: &Image) -> (Vec<String>, Vec<String>) {
    let tagged = image.names.iter().filter(|name| name.digest.is_none());
    let by_digest = image.names.iter().chain(&image.remotes).filter(|name| name.digest.is_some());
    let bare = |name: &Reference| Reference { tag: None, ..name.clone() }.familiar();
    (tagged.map(Reference::familiar).collect(), by_digest.map(bare).collect())
}

/// The directories of the layers, the topmost apart, as Docker's overlay driver tells them.
fn layers(images: &Images, config: &Config) -> Value {
    let directory = |chain: &Digest| images.layer(chain).join(DIFF).display().to_string();
    let mut all: VecDeque<_> = config.chain().iter().rev().map(directory).collect();
    let top = all.pop_front().unwrap_or_default();
    json!({"LowerDir": Vec::from(all).join(":"), "UpperDir": top})
}

/// A step that an image was made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The time, as it is written.
    pub created: Option<String>,
    /// The command.
    pub created_by: String,
    /// What somebody said of it.
    pub comment: String,
    /// The size of the files that it added, in bytes.
    pub size: u64,
}

/// The steps that an image was made by, the last first.
///
/// # Errors
///
/// If the image is damaged.
pub fn history(images: &Images, image: &Image) -> Result<Vec<Step>> {
    let config = images.config(image)?;
    let mut sizes = Vec::new();
    for (blob, chain) in image.manifest.layers.iter().zip(config.chain()) {
        let record = images.layer_record(&chain)?;
        sizes.push(record.map_or(blob.size, |record| record.size));
    }
    let mut sizes = sizes.into_iter();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut steps: Vec<_> = config
        .image
        .history()
        .iter()
        .flatten()
        .map(|step| {
            let is_empty = step.empty_layer().unwrap_or_default();
            Step {
                created: step.created().clone(),
                created_by: text(step.created_by()),
                comment: text(step.comment()),
                size: if is_empty { 0 } else { sizes.next().unwrap_or_default() },
            }
        })
        .collect();
    // Layers of which the history says nothing.
    for size in sizes {
        steps.push(Step { created: None, created_by: String::new(), comment: String::new(), size });
    }
    steps.reverse();
    Ok(steps)
}
