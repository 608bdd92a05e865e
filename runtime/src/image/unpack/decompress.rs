//! What a layer's blob holds, uncompressed.

use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, Result};

use crate::image::media::Compression;

/// What is handed over at once, in bytes, and how much of it may wait.
const PIECE: usize = 256 * 1024;
const WAITING: usize = 8;
/// How far back a compressed layer may refer, in bytes, as a power of two: 32 MiB is more than the highest
/// usual level has, and the most memory that decompressing takes.
const WINDOW: u32 = 25;
/// What blobs are read by, in bytes.
const STEP: usize = 128 * 1024;

/// Calls `body` with what `blob` holds, uncompressed on another thread meanwhile.
///
/// # Errors
///
/// What `body` returns. A broken blob is an error of reading.
pub(super) fn decompress<T>(
    blob: impl Read + Send,
    body: impl FnOnce(Pieces) -> Result<T>,
) -> Result<T> {
    let mut blob = BufReader::with_capacity(STEP, blob);
    let compression = Compression::of(blob.fill_buf().context("read the layer")?)?;
    let (sender, receiver) = sync_channel(WAITING);
    thread::scope(|scope| {
        scope.spawn(move || {
            let sent = match compression {
                Compression::None => send(blob, &sender),
                // Several members one after the other are one, as in gzip(1).
                Compression::Gzip => send(flate2::bufread::MultiGzDecoder::new(blob), &sender),
                Compression::Zstd => zstd(blob).and_then(|plain| send(plain, &sender)),
            };
            if let Err(error) = sent {
                let _nobody_listens = sender.send(Err(error));
            }
        });
        body(Pieces { receiver, piece: Vec::new(), used: 0 })
    })
}

/// What `blob` holds, uncompressed as it is read.
///
/// # Errors
///
/// Those of reading, and compressions that layers cannot have.
pub fn uncompressed(blob: impl Read + 'static) -> Result<Box<dyn Read>> {
    let mut blob = BufReader::with_capacity(STEP, blob);
    Ok(match Compression::of(blob.fill_buf().context("read the start")?)? {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        Compression::Zstd => Box::new(zstd(blob)?),
    })
}

fn zstd(blob: BufReader<impl Read>) -> io::Result<impl Read> {
    let mut plain = zstd::Decoder::with_buffer(blob)?;
    plain.window_log_max(WINDOW)?;
    Ok(plain)
}

/// Sends all of it, until nobody listens.
fn send(mut plain: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut plain).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || sender.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

/// Reads what another thread sends.
#[derive(Debug)]
pub(super) struct Pieces {
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            // Nobody sends any more: that was all.
            self.piece = self.receiver.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            self.used = 0;
        }
        let mut rest = self.piece.get(self.used..).unwrap_or_default();
        let length = rest.read(buffer)?;
        self.used += length;
        Ok(length)
    }
}
