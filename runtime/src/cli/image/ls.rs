//! `rrun images`: the list of images.

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Global;
use crate::cli::format::{self, glob, human};
use crate::cli::print;
use crate::image::document::Config;
use crate::image::library::{Image, meanings};
use crate::image::reference::Reference;
use crate::image::remove::size;
use crate::store::images::Images;

/// List the images
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Ls {
    /// Show images of this name only
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Every image is shown in any case
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show images only for which it holds: dangling=, label=, before=, since=, until=, reference=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, or a template as Go has them, perhaps after the word table
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Leave the heading out
    #[arg(short, long)]
    noheading: bool,
}

const USUAL: &str = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const WITH_DIGESTS: &str =
    "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const HEADINGS: [(&str, &str); 11] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];
/// What stands for a name or tag that there is none of.
const NONE: &str = "<none>";

/// An image with what the list shows of it.
pub(super) struct Shown {
    pub(super) image: Image,
    config: Config,
    created: Option<Timestamp>,
    size: u64,
}

impl Shown {
    /// Looks at an image.
    ///
    /// # Errors
    ///
    /// If it is damaged.
    pub(super) fn of(images: &Images, image: Image) -> Result<Self> {
        let config = images.config(&image)?;
        let created = created(&config);
        let size = size(images, &image)?;
        Ok(Self { image, config, created, size })
    }
}

impl Ls {
    /// Prints the list.
    ///
    /// # Errors
    ///
    /// If the images cannot be read, or a filter or the format is none.
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<u8> {
        let text = self.text(&global.images()?).context("images")?;
        print(&text)?;
        Ok(0)
    }

    fn text(&self, images: &Images) -> Result<String> {
        let all = images.all()?.into_iter();
        let mut shown = all.map(|image| Shown::of(images, image)).collect::<Result<Vec<_>>>()?;
        shown.sort_by(|one, other| {
            (other.created, &one.image.id).cmp(&(one.created, &other.image.id))
        });
        let mut filters = Vec::new();
        for text in &self.filter {
            filters.push(Filter::parse(text, images)?);
        }
        shown.retain(|image| filters.iter().all(|filter| filter.holds(image)));
        if self.quiet {
            let wanted = shown.iter().filter(|image| self.rows(image).next().is_some());
            return Ok(wanted.map(|image| format!("{}\n", self.id(image))).collect());
        }
        let rows: Vec<_> = shown.iter().flat_map(|image| self.rows(image)).collect();
        let usual = if self.digests { WITH_DIGESTS } else { USUAL };
        let format = match self.format.as_deref() {
            None | Some("table") => usual,
            Some(format) => format,
        };
        let text = format::rows(format, &rows, &HEADINGS)?;
        let skip = self.noheading && format.starts_with("table ");
        Ok(if skip { text.split_once('\n').unwrap_or_default().1.to_owned() } else { text })
    }

    fn id(&self, shown: &Shown) -> String {
        let id = &shown.image.id;
        if self.no_trunc { id.to_string() } else { id.short().to_owned() }
    }

    /// One row for each name, and one for an image without.
    fn rows<'a>(&'a self, shown: &'a Shown) -> impl Iterator<Item = Value> + 'a {
        let image = &shown.image;
        let tagged: Vec<_> = image.names.iter().filter(|name| name.tag.is_some()).collect();
        let mut all: Vec<(String, String)> = tagged
            .iter()
            .filter(|name| self.is_wanted(name))
            .map(|name| (name.familiar_name(), name.tag.clone().unwrap_or_default()))
            .collect();
        if tagged.is_empty() {
            let by_digest = image.names.iter().chain(&image.remotes).next();
            let wanted = by_digest.map_or(self.name.is_none(), |name| self.is_wanted(name));
            let name = by_digest.map_or_else(|| NONE.to_owned(), Reference::familiar_name);
            all.extend(wanted.then(|| (name, NONE.to_owned())));
        }
        all.into_iter().map(|(repository, tag)| self.row(shown, &repository, &tag))
    }

    fn row(&self, shown: &Shown, repository: &str, tag: &str) -> Value {
        let remotes = shown.image.names.iter().chain(&shown.image.remotes);
        let digest = remotes
            .filter(|remote| remote.familiar_name() == repository)
            .find_map(|remote| remote.digest.as_ref());
        let size = human::size(shown.size);
        json!({
            "Repository": repository,
            "Tag": tag,
            "Digest": digest.map_or_else(|| NONE.to_owned(), ToString::to_string),
            "ID": self.id(shown),
            "CreatedSince": human::since(shown.created, Timestamp::now()),
            "CreatedAt": human::moment(shown.created),
            "Size": size,
            "Containers": "N/A",
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
            "VirtualSize": size,
        })
    }

    /// Whether a name fits the one that was given, which may have no tag, or be a pattern.
    fn is_wanted(&self, name: &Reference) -> bool {
        self.name.as_deref().is_none_or(|pattern| fits(pattern, name))
    }
}

/// Whether a name fits a pattern, which may leave the tag and what Docker adds out.
fn fits(pattern: &str, name: &Reference) -> bool {
    let full = name.to_string();
    let bare = meanings(pattern).iter().any(|meant| {
        let told = pattern.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        meant.name() == name.name() && (!told || meant.tag == name.tag)
    });
    let forms = [name.familiar_name(), name.familiar(), name.name(), full];
    bare || forms.iter().any(|form| glob::fits(pattern, form))
}

/// When an image was made.
fn created(config: &Config) -> Option<Timestamp> {
    config.image.created().as_ref()?.parse().ok()
}

/// One condition of `--filter`.
pub(super) enum Filter {
    Dangling(bool),
    Label(String, Option<String>),
    Reference(String),
    Before(Timestamp),
    Since(Timestamp),
}

impl Filter {
    /// Understands one.
    ///
    /// # Errors
    ///
    /// If it is none, or names an image that is not there.
    pub(super) fn parse(text: &str, images: &Images) -> Result<Self> {
        let complaint = || format!("filter {text:?}");
        let (key, value) =
            text.split_once('=').context("bad format of filter (expected name=value)")?;
        let of_image = |value: &str| -> Result<Timestamp> {
            let config = images.config(&images.find(value)?)?;
            created(&config).context("nobody knows when that image was made")
        };
        Ok(match key {
            "dangling" => Self::Dangling(match value {
                "true" | "1" => true,
                "false" | "0" => false,
                _ => bail!("{}: want true or false", complaint()),
            }),
            "label" => {
                let (name, value) =
                    value.split_once('=').map_or((value, None), |(n, v)| (n, Some(v)));
                Self::Label(name.to_owned(), value.map(str::to_owned))
            }
            "reference" => Self::Reference(value.to_owned()),
            "before" => Self::Before(of_image(value).with_context(complaint)?),
            "since" | "after" => Self::Since(of_image(value).with_context(complaint)?),
            "until" => Self::Before(moment(value).with_context(complaint)?),
            _ => bail!(
                "invalid filter {key:?}: want dangling, label, before, since, until or reference"
            ),
        })
    }

    /// Whether it holds for an image.
    pub(super) fn holds(&self, shown: &Shown) -> bool {
        let image = &shown.image;
        match self {
            Self::Dangling(wanted) => image.names.is_empty() == *wanted,
            Self::Label(name, value) => {
                let found = shown.config.image.labels_of_config().and_then(|all| all.get(name));
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
            Self::Reference(pattern) => image.names.iter().any(|name| fits(pattern, name)),
            Self::Before(moment) => shown.created.is_some_and(|created| created < *moment),
            Self::Since(moment) => shown.created.is_some_and(|created| created > *moment),
        }
    }
}

/// A moment: a time, seconds since 1970, or how long ago (`24h`, `1h30m`).
///
/// # Errors
///
/// If it is none.
fn moment(text: &str) -> Result<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(Timestamp::from_second(seconds)?);
    }
    if let Ok(date) = text.parse::<jiff::civil::DateTime>() {
        return Ok(date.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp());
    }
    let span: jiff::SignedDuration =
        text.parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(Timestamp::now().checked_sub(span)?)
}
