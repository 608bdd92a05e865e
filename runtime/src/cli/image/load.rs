//! `rrun image load`: images from an archive or a directory.

use std::fs::File;
use std::io::{IsTerminal as _, stdin};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{Global, platform};
use crate::cli::print;
use crate::image::load::{Loaded, Source, load};
use crate::image::reference::Reference;
use crate::image::remove::collect;

/// Add images from an archive or an OCI image layout
///
/// Takes what docker save, podman save and skopeo write: docker-archive, oci-archive, with gzip or zstd
/// or without, or a directory that is an OCI image layout.
#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// Archive or directory [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Do not print what was loaded
    #[arg(short, long)]
    quiet: bool,
    /// Which of several platforms [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

impl Load {
    /// Loads them.
    ///
    /// # Errors
    ///
    /// What is wrong with the archive.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let (name, source) = self.source()?;
        let operation = || format!("load {name}");
        let platform = platform(self.platform.as_deref())?;
        let images = global.images().with_context(operation)?;
        let worker = global.worker().with_context(operation)?;
        let loaded = load(&images, &worker, source, &platform).with_context(operation);
        collect(&images, worker)?;
        let text: String = loaded?.iter().map(line).collect();
        if self.quiet { Ok(0) } else { print(&text).map(|()| 0) }
    }

    fn source(&self) -> Result<(String, Source)> {
        let Some(path) = self.input.as_ref().filter(|path| path.as_os_str() != "-") else {
            ensure!(
                !stdin().is_terminal(),
                "load: requested load from stdin, but stdin is empty (cure: --input FILE)"
            );
            let own = stdin().as_fd().try_clone_to_owned().context("load")?;
            return Ok(("standard input".to_owned(), Source::Archive(own.into())));
        };
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("load {name}"))?;
        let is_directory = file.metadata().is_ok_and(|data| data.is_dir());
        let source =
            if is_directory { Source::Layout(path.clone()) } else { Source::Archive(file) };
        Ok((name, source))
    }
}

/// What Docker says of an image that was loaded.
fn line(loaded: &Loaded) -> String {
    if loaded.names.is_empty() {
        return format!("Loaded image ID: {}\n", loaded.id);
    }
    let names = loaded.names.iter().map(Reference::familiar);
    names.map(|name| format!("Loaded image: {name}\n")).collect()
}
