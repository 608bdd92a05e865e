//! From blobs that are here to an image that exists: unpack, settle, sync, publish, name.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::image::Descriptor;

use super::digest::Digest;
use super::document::{Blob, Config, Manifest};
use super::library::{self, read_document};
use super::reference::Reference;
use super::worker::{DIFF, Worker, maps_of_layers};
use crate::host::Host;
use crate::store::images::{Images, LayerRecord, read_record, write_record};
use crate::store::incoming::Incoming;

/// The most layers that are fetched or unpacked at the same time, which bounds the memory that it takes.
const MOST_AT_ONCE: usize = 4;

/// An image that is being added.
#[derive(Debug)]
pub struct Install<'a> {
    images: &'a Images,
    worker: &'a Worker,
    incoming: &'a Incoming,
    config: Config,
    chain: Vec<Digest>,
    manifest: Manifest,
}

impl<'a> Install<'a> {
    /// The image of `manifest`, whose configuration is here already.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration.
    pub fn new(
        images: &'a Images,
        worker: &'a Worker,
        incoming: &'a Incoming,
        manifest: Manifest,
    ) -> Result<Self> {
        let path =
            incoming.find(&manifest.config.digest).context("the configuration is missing")?;
        let text = read_document(&path, &manifest.config)?;
        let config = Config::parse(&text, manifest.layers.len())?;
        Ok(Self { images, worker, incoming, chain: config.chain(), config, manifest })
    }

    /// What it consists of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What a container of it starts with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether layer number `at` is unpacked already.
    ///
    /// # Errors
    ///
    /// If its record cannot be read.
    pub fn is_unpacked(&self, at: usize) -> Result<bool> {
        let Some(chain) = self.chain.get(at) else { return Ok(true) };
        let record = read_record(&self.incoming.layer(chain))?;
        Ok(record.is_some_and(|record| record.maps.as_ref() == self.worker.maps()))
    }

    /// Unpacks layer number `at`, whose blob is here.
    ///
    /// # Errors
    ///
    /// What is wrong with the layer.
    pub fn unpack(&self, at: usize) -> Result<()> {
        let (blob, chain) = self.layer(at)?;
        let operation = || format!("layer {}", blob.digest.short());
        let file = self.incoming.find(&blob.digest).with_context(operation)?;
        let layer = self.incoming.make_layer(chain)?;
        let unpacked = self.worker.unpack(&file, &layer, &self.incoming.aside());
        let unpacked = unpacked.with_context(operation)?;
        let wanted = self.config.diff_ids.get(at).context("no such layer")?;
        ensure!(
            unpacked.diff_id == *wanted,
            "{}: it holds {}, the configuration says {wanted}",
            operation(),
            unpacked.diff_id
        );
        for lost in &unpacked.lost {
            log::warn!("{}: {lost}", operation());
        }
        write_record(
            &layer,
            &LayerRecord {
                diff_id: unpacked.diff_id,
                archive_size: unpacked.archive_size,
                size: unpacked.size,
                maps: self.worker.maps().cloned(),
            },
        )
    }

    fn layer(&self, at: usize) -> Result<(&Blob, &Digest)> {
        self.manifest.layers.get(at).zip(self.chain.get(at)).context("no such layer")
    }

    /// Unpacks every layer that is not, some at the same time; `prepare` brings a blob
    /// that is not here yet.
    ///
    /// # Errors
    ///
    /// The first that comes up; the rest is given up.
    pub fn unpack_all(&self, prepare: impl Fn(usize, &Blob) -> Result<()> + Sync) -> Result<()> {
        let layers = self.manifest.layers.len();
        at_once(layers, |at| {
            let (blob, chain) = self.layer(at)?;
            let is_first = self.chain.iter().position(|other| other == chain) == Some(at);
            if self.incoming.find(&blob.digest).is_none() {
                prepare(at, blob).with_context(|| format!("layer {}", blob.digest.short()))?;
            }
            if is_first && !self.is_unpacked(at)? { self.unpack(at) } else { Ok(()) }
        })
    }

    /// Settles the layers, writes all to disk and gives it its name.
    ///
    /// # Errors
    ///
    /// Those of writing to disk, and of the index.
    pub fn finish(
        &self,
        descriptor: &Descriptor,
        names: &[Reference],
        remote: Option<&Reference>,
    ) -> Result<()> {
        self.settle()?;
        self.worker.sync(self.incoming.path())?;
        self.discard_outdated()?;
        self.incoming.publish()?;
        self.images.change_index(|index| {
            for name in names {
                library::name(index, descriptor, Some(name), remote);
            }
            if names.is_empty() {
                library::name(index, descriptor, None, remote);
            }
            Ok(())
        })
    }

    fn settle(&self) -> Result<()> {
        let diff = |chain: &Digest| self.incoming.layer(chain).join(DIFF);
        for (at, chain) in self.chain.iter().enumerate() {
            let below = self.chain.get(..at).unwrap_or_default();
            let below: Vec<PathBuf> = below.iter().rev().map(diff).collect();
            let layer = self.incoming.layer(chain);
            if layer != self.images.layer(chain) {
                self.worker.settle(&layer, below)?;
            }
        }
        Ok(())
    }

    /// Layers that were unpacked for other IDs make room.
    fn discard_outdated(&self) -> Result<()> {
        for chain in &self.chain {
            let old = self.images.layer(chain);
            let outdated = self.incoming.layer(chain) != old
                && self
                    .images
                    .layer_record(chain)?
                    .is_none_or(|record| record.maps.as_ref() != self.worker.maps());
            if outdated && old.exists() {
                self.images.discard(&old)?;
            }
        }
        Ok(())
    }
}

/// Calls `task` with the numbers below `count`, on some threads.
///
/// # Errors
///
/// The first that a task returns; no further task begins then.
pub fn at_once(count: usize, task: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.clamp(2, MOST_AT_ONCE).min(count);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let first_error = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    if let Err(error) = task(at) {
                        failed.store(true, Ordering::Relaxed);
                        if let Ok(mut first) = first_error.lock() {
                            first.get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    match first_error.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => bail!("a thread has failed"),
    }
}

/// What a container of an image stands on.
#[derive(Clone, Debug)]
pub struct Template {
    /// The ID of the image.
    pub id: Digest,
    /// The directories of its layers, topmost first.
    pub lowerdirs: Vec<PathBuf>,
    /// What a container starts with.
    pub config: Config,
}

/// The template that the image called `text` is. Layers that are not unpacked, because another program put
/// the image there, are unpacked now.
///
/// # Errors
///
/// If there is no such image, or it is damaged.
pub fn template(
    images: &Images,
    start_worker: impl FnOnce() -> Result<Worker>,
    text: &str,
) -> Result<Template> {
    let image = images.find(text)?;
    let config = images.config(&image)?;
    let chain = config.chain();
    let maps = maps_of_layers(&Host::probe())?;
    let mut complete = true;
    for chain in &chain {
        complete &= images.layer_record(chain)?.is_some_and(|record| record.maps == maps);
    }
    if !complete {
        let worker = start_worker()?;
        let incoming = Incoming::new(images)?;
        let install = Install::new(images, &worker, &incoming, image.manifest.clone())?;
        install.unpack_all(|_, _| Ok(()))?;
        install.settle()?;
        worker.sync(incoming.path())?;
        install.discard_outdated()?;
        incoming.publish()?;
    }
    let lowerdirs = chain.iter().rev().map(|chain| images.layer(chain).join(DIFF)).collect();
    Ok(Template { id: image.id, lowerdirs, config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_once_each_and_the_first_error_ends_them() {
        let ran = AtomicUsize::new(0);
        at_once(100, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 100);
        let error = at_once(1000, |at| if at == 5 { bail!("five") } else { Ok(()) }).unwrap_err();
        assert_eq!(error.to_string(), "five");
        at_once(0, |_| bail!("never")).unwrap();
    }
}
