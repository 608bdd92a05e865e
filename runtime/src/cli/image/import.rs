//! `rrun image import`: an image from an archive of files.

use std::fs::File;
use std::io::{Read, stdin};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;

use super::{Global, platform, tag::new_name};
use crate::cli::print;
use crate::host::variable;
use crate::image::import::{Wanted, import};
use crate::image::remove::collect;

/// Make an image of an archive of files
///
/// The archive becomes its only layer. The time in the variable `SOURCE_DATE_EPOCH` is that of the image,
/// if it is set: then the same files make the same image.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// Tar archive, which may be compressed; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// What the image is to be called
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Change its configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What is said of it in its history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// What it runs on [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

impl Import {
    /// Makes the image and prints its ID.
    ///
    /// # Errors
    ///
    /// What is wrong with the archive.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let operation = || format!("import {}", self.file);
        let wanted = self.wanted().with_context(operation)?;
        let (images, worker) = (global.images()?, global.worker()?);
        let archive: Box<dyn Read> = match self.file.as_str() {
            "-" => Box::new(stdin().lock()),
            url if url.contains("://") => anyhow::bail!(
                "import {url}: addresses are not fetched (cure: curl -L {url} | rrun image import -)"
            ),
            path => Box::new(File::open(path).with_context(operation)?),
        };
        let id = import(&images, &worker, archive, &wanted).with_context(operation);
        collect(&images, worker)?;
        print(&format!("{}\n", id?))?;
        Ok(0)
    }

    fn wanted(&self) -> Result<Wanted> {
        let created = match variable("SOURCE_DATE_EPOCH") {
            Some(seconds) => {
                let seconds = seconds.to_string_lossy().parse().ok();
                let moment = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
                moment.context("SOURCE_DATE_EPOCH: want seconds since 1970")?
            }
            None => Timestamp::now(),
        };
        ensure!(!self.file.is_empty(), "want a file, or -");
        let usual = || format!("Imported from {}", self.file);
        Ok(Wanted {
            names: self.name.iter().map(|name| new_name(name)).collect::<Result<_>>()?,
            changes: self.change.clone(),
            message: self.message.clone().unwrap_or_else(usual),
            platform: platform(self.platform.as_deref())?,
            created: created.to_string(),
        })
    }
}
