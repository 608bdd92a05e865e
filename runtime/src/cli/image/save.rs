//! `rrun image save`: images to an archive.

use std::fs::{self, OpenOptions};
use std::io::stdout;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use super::{Global, is_terminal};
use crate::image::save::{self, Chosen, Format};
use crate::store::images::Images;

/// Write images to an archive
#[derive(Debug, clap::Args)]
pub(super) struct Save {
    /// Names or IDs of images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// File or directory to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Form of the archive
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive")]
    format: Form,
    /// Nothing is printed in any case
    #[arg(short, long, hide = true)]
    quiet: bool,
    /// Several images may be named in any case
    #[arg(short, long, hide = true)]
    multi_image_archive: bool,
}

/// Forms of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// As docker save writes it.
    DockerArchive,
    /// An OCI image layout in a tar archive.
    OciArchive,
    /// An OCI image layout in a directory.
    OciDir,
}

impl Save {
    /// Writes the archive.
    ///
    /// # Errors
    ///
    /// If there is no such image, or the archive cannot be written.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        self.write(&global.images()?).with_context(|| format!("save {}", self.images.join(" ")))?;
        Ok(0)
    }

    fn write(&self, images: &Images) -> Result<()> {
        let _nothing_is_removed_meanwhile = images.hold()?;
        let chosen = choose(images, &self.images)?;
        let format = if self.format == Form::DockerArchive { Format::Docker } else { Format::Oci };
        match &self.output {
            None if self.format == Form::OciDir => {
                anyhow::bail!("--format oci-dir needs --output DIRECTORY")
            }
            Some(path) if self.format == Form::OciDir => save::directory(images, &chosen, path),
            Some(path) => to_file(images, &chosen, format, path),
            None => {
                ensure!(
                    !is_terminal(),
                    "cowardly refusing to save to a terminal. Use the -o flag or redirect"
                );
                save::archive(images, &chosen, format, stdout().lock())
            }
        }
    }
}

/// The images that `names` mean, each once with all the names that were given.
fn choose(images: &Images, names: &[String]) -> Result<Vec<Chosen>> {
    let mut all: Vec<Chosen> = Vec::new();
    for text in names {
        let (image, name) = images.find_named(text)?;
        let name = name.filter(|name| name.tag.is_some() && name.digest.is_none());
        match all.iter_mut().find(|known| known.image.id == image.id) {
            Some(known) => known.names.extend(name),
            None => all.push(Chosen { image, names: name.into_iter().collect() }),
        }
    }
    for chosen in &mut all {
        chosen.names.sort();
        chosen.names.dedup();
    }
    Ok(all)
}

/// Writes beside the file and renames, so that no half archive has its name; what is no regular file, a
/// pipe for one, is written as it is.
fn to_file(images: &Images, chosen: &[Chosen], format: Format, path: &Path) -> Result<()> {
    let context = || format!("write {}", path.display());
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file());
    if special {
        let file = OpenOptions::new().write(true).open(path).with_context(context)?;
        return save::archive(images, chosen, format, file);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let file =
        OpenOptions::new().write(true).create_new(true).open(&beside).with_context(context)?;
    let written = save::archive(images, chosen, format, file)
        .and_then(|()| fs::rename(&beside, path).with_context(context));
    if written.is_err() {
        let _nothing_more_can_be_done = fs::remove_file(&beside);
    }
    written
}
