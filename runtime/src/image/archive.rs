//! Tar archives, read from a stream: every form that tar programs write, with bounded memory.

use std::io::{self, Read};

use anyhow::{Context as _, Result, bail, ensure};
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, PaxExtensions};

/// The most bytes that names and attributes of one entry may take: attributes of Linux have at most 64 KiB
/// each, names 4 KiB.
const MOST_METADATA: u32 = 1024 * 1024;
/// The longest path of an entry, in bytes (`PATH_MAX`).
const LONGEST_PATH: u32 = 4096;
/// What an archive is read by, in bytes.
const STEP: usize = 64 * 1024;
/// A header and what it is padded to, in bytes.
const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its contents follow.
    File,
    /// A directory.
    Directory,
    /// Another name of the file with this path.
    HardLink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A stretch of a sparse file that has contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path as it is written there: anything.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits and those above them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified: seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// The size of the file, in bytes, with its holes.
    pub size: u64,
    /// Where the contents belong, if the file is sparse.
    pub stretches: Option<Vec<Stretch>>,
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is read from `source`.
#[derive(Debug)]
pub struct Archive<R> {
    source: R,
    parser: Parser,
    buffer: Vec<u8>,
    /// What of the buffer was not used yet.
    start: usize,
    /// What is left of the current entry's contents, in bytes.
    contents: u64,
    /// What comes between these contents and the next header, in bytes.
    padding: u64,
    ended: bool,
}

impl<R: Read> Archive<R> {
    /// Begins to read.
    pub fn new(source: R) -> Self {
        let limits = Limits {
            max_metadata_size: MOST_METADATA,
            max_path_len: Some(LONGEST_PATH),
            ..Limits::default()
        };
        let mut parser = Parser::new(limits);
        // Times before 1970 are none for the parser; they are read here.
        parser.set_ignore_pax_errors(true);
        Self { source, parser, buffer: Vec::new(), start: 0, contents: 0, padding: 0, ended: false }
    }

    /// The next entry; what was not read of the last one's contents is passed over. `None` at the end.
    ///
    /// # Errors
    ///
    /// If the archive is broken, ends in the middle of an entry, or has more metadata than an entry may
    /// have.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        io::copy(self, &mut io::sink())?;
        self.pass_padding()?;
        while !self.ended {
            let input = self.buffer.get(self.start..).unwrap_or_default();
            let (used, found) = match self.parser.parse(input).context("broken tar archive")? {
                ParseEvent::NeedData { min_bytes } => {
                    self.fill(min_bytes)?;
                    continue;
                }
                ParseEvent::GlobalExtensions { consumed, .. } => (consumed, None),
                ParseEvent::End { consumed } => {
                    self.ended = true;
                    (consumed, None)
                }
                ParseEvent::Entry { consumed, entry } => {
                    (consumed, Some((entry.size, understand(&entry, None)?)))
                }
                ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                    let stretch = |it: &tar_core::SparseEntry| Stretch {
                        offset: it.offset,
                        length: it.length,
                    };
                    let sparse = (sparse_map.iter().map(stretch).collect(), real_size);
                    (consumed, Some((entry.size, understand(&entry, Some(sparse))?)))
                }
            };
            self.start += used;
            if let Some((contents, entry)) = found {
                self.contents = contents;
                self.padding = contents.next_multiple_of(BLOCK) - contents;
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Reads what follows the end of the archive, which belongs to what its digest is made of, and gives
    /// the source back.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self.source, &mut io::sink())?;
        Ok(self.source)
    }

    /// Makes the buffer hold at least `wanted` unused bytes; at the end of the source the archive has
    /// ended, if it was about to begin an entry.
    fn fill(&mut self, wanted: usize) -> Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let most = MOST_METADATA as usize * 2;
        ensure!(wanted <= most, "broken tar archive: {wanted} bytes of metadata");
        while self.buffer.len() < wanted {
            let had = self.buffer.len();
            let room = STEP.max(wanted - had);
            let got = (&mut self.source)
                .take(room as u64)
                .read_to_end(&mut self.buffer)
                .context("read archive")?;
            if got == 0 {
                // Archives without the two empty blocks at their end exist.
                let is_zero = self.buffer.iter().all(|byte| *byte == 0);
                ensure!(is_zero, "broken tar archive: it ends in the middle of an entry");
                self.ended = true;
                return Ok(());
            }
        }
        Ok(())
    }

    fn pass_padding(&mut self) -> Result<()> {
        let padding = std::mem::take(&mut self.padding);
        self.contents = padding;
        let passed = io::copy(self, &mut io::sink())?;
        // The last entry's padding may be missing with the end of the archive.
        ensure!(passed == padding || self.buffer.is_empty(), "broken tar archive");
        Ok(())
    }
}

/// Reads the contents of the current entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.contents).unwrap_or(usize::MAX).min(buffer.len());
        let Some(place) = buffer.get_mut(..most).filter(|place| !place.is_empty()) else {
            return Ok(0);
        };
        let mut waiting = self.buffer.get(self.start..).unwrap_or_default();
        let length = if waiting.is_empty() {
            self.source.read(place)?
        } else {
            let length = waiting.read(place)?;
            self.start += length;
            length
        };
        if length == 0 {
            let cause = "broken tar archive: it ends in the middle of a file";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cause));
        }
        self.contents -= length as u64;
        Ok(length)
    }
}

/// What the parser found, with what it left to us.
fn understand(entry: &ParsedEntry<'_>, sparse: Option<(Vec<Stretch>, u64)>) -> Result<Entry> {
    let path = entry.path.to_vec();
    let shown = || String::from_utf8_lossy(&path).into_owned();
    let target = || entry.link_target.as_ref().map(|target| target.to_vec()).unwrap_or_default();
    let device = || (entry.dev_major.unwrap_or_default(), entry.dev_minor.unwrap_or_default());
    let is_directory = path.ends_with(b"/");
    let kind = match entry.entry_type {
        // Archives older than directories have only the slash.
        EntryType::Regular if is_directory => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Link => Kind::HardLink(target()),
        EntryType::Symlink => Kind::Symlink(target()),
        EntryType::Char => Kind::CharDevice(device().0, device().1),
        EntryType::Block => Kind::BlockDevice(device().0, device().1),
        EntryType::Fifo => Kind::Fifo,
        other => bail!("{}: an entry of type {other:?} belongs to no image layer", shown()),
    };
    let id = |id: u64, what| {
        u32::try_from(id).with_context(|| format!("{}: {what} {id} does not exist", shown()))
    };
    let (stretches, size) = match sparse {
        Some((stretches, size)) => (Some(check_stretches(stretches, size, entry.size)?), size),
        None => (None, entry.size),
    };
    Ok(Entry {
        kind,
        mode: entry.mode & 0o7777,
        uid: id(entry.uid, "user")?,
        gid: id(entry.gid, "group")?,
        modified: modified(entry),
        size,
        stretches,
        attributes: entry
            .xattrs
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        path,
    })
}

/// Stretches that follow each other, lie within the file and are as long as what is there.
fn check_stretches(stretches: Vec<Stretch>, size: u64, contents: u64) -> Result<Vec<Stretch>> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for stretch in &stretches {
        ensure!(stretch.offset >= end, "broken tar archive: parts of a sparse file overlap");
        end = stretch.offset.checked_add(stretch.length).context("broken tar archive")?;
        sum += stretch.length;
    }
    ensure!(end <= size, "broken tar archive: a sparse file is longer than it says");
    ensure!(sum == contents, "broken tar archive: a sparse file lacks contents");
    Ok(stretches)
}

/// The time of modification, of which only extended headers have parts of a second.
fn modified(entry: &ParsedEntry<'_>) -> (i64, u32) {
    let usual = (i64::try_from(entry.mtime).unwrap_or_default(), 0);
    let Some(pax) = entry.pax else { return usual };
    let records = PaxExtensions::new(pax).flatten();
    let last = records.filter(|record| record.key_bytes() == b"mtime").last();
    last.and_then(|record| time(record.value().ok()?)).unwrap_or(usual)
}

/// Reads `SECONDS[.FRACTION]`.
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    match (seconds.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((whole, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut archive = Archive::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            let mut contents = Vec::new();
            archive.read_to_end(&mut contents)?;
            found.push((entry, contents));
        }
        assert!(archive.finish()?.is_empty());
        Ok(found)
    }

    /// What tar(1) makes of the shell script's files.
    fn tar(script: &str, options: &[&str]) -> Vec<u8> {
        let place = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        assert!(shell.args(["-ec", script]).current_dir(&place).status().unwrap().success());
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--directory"]).arg(place.path());
        let output = tar.args(options).arg(".").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    #[test]
    fn every_form_of_tar_is_read() {
        let long = "n".repeat(200);
        let script = format!(
            "mkdir -p a/{long}/{long}; echo hi >a/{long}/{long}/f; ln a/{long}/{long}/f b;\
             ln -s {long} link; mkfifo p; touch -d 2001-02-03T04:05:06.5Z b"
        );
        for format in ["gnu", "pax", "posix"] {
            let found = all(&tar(&script, &[&format!("--format={format}")])).unwrap();
            let path = format!("./a/{long}/{long}/f");
            let entry = |path: &str| {
                let found = found.iter().find(|(entry, _)| entry.path == path.as_bytes());
                found.unwrap_or_else(|| panic!("{format}: no {path}")).clone()
            };
            assert_eq!(entry(&path).1, b"hi\n");
            assert_eq!(entry("./b").0.kind, Kind::HardLink(path.into_bytes()));
            assert_eq!(entry("./link").0.kind, Kind::Symlink(long.clone().into_bytes()));
            assert_eq!(entry("./p").0.kind, Kind::Fifo);
            assert_eq!(entry("./a/").0.kind, Kind::Directory);
            let part = if format == "gnu" { 0 } else { 500_000_000 };
            assert_eq!(entry("./b").0.modified, (981_173_106, part), "{format}");
        }
    }

    #[test]
    fn sparse_files_keep_their_holes() {
        let script = "truncate -s 10M f; echo end >>f; printf x | dd of=f seek=4M bs=1 conv=notrunc \
                      oflag=seek_bytes status=none";
        for version in ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix"]
        {
            let format = format!("--format={version}");
            let options: Vec<_> = ["--sparse"].into_iter().chain(format.split(' ')).collect();
            let found = all(&tar(script, &options)).unwrap();
            let (entry, contents) = found.iter().find(|(entry, _)| entry.size > 0).unwrap();
            assert_eq!((entry.path.as_slice(), entry.size), (&b"./f"[..], 10 * 1024 * 1024 + 4));
            assert!(contents.len() < 20_000 && contents.ends_with(b"end\n"), "{version}");
            let stretches = entry.stretches.as_ref().unwrap();
            assert!(stretches.len() >= 2, "{version}: {stretches:?}");
        }
    }

    #[test]
    fn attributes_and_old_times_are_read() {
        let script = "touch -d 1960-01-02T00:00:00.25Z f; setfattr -n user.k -v 'a=b\nc' f";
        let found = all(&tar(script, &["--format=posix", "--xattrs"])).unwrap();
        let (entry, _) = found.iter().find(|(entry, _)| entry.path == b"./f").unwrap();
        assert_eq!(entry.modified, (-315_532_800, 250_000_000));
        assert_eq!(entry.attributes, [(b"user.k".to_vec(), b"a=b\nc".to_vec())]);
    }

    #[test]
    fn what_is_cut_off_is_an_error_and_a_missing_end_is_none() {
        let whole = tar("seq 2000 >f", &["--blocking-factor=1"]);
        let files = all(&whole).unwrap();
        assert_eq!(files.len(), 2);
        let without_end = whole.get(..whole.len() - 1024).unwrap();
        assert_eq!(all(without_end).unwrap(), files);
        for length in [100, 512 + 100, 2048, without_end.len() - 600] {
            let error = all(whole.get(..length).unwrap()).unwrap_err();
            assert!(format!("{error:#}").contains("broken tar archive"), "{length}: {error:#}");
        }
        assert!(all(&[7; 1024]).is_err());
        assert_eq!(all(b"").unwrap(), []);
    }

    /// A header may claim any size for a name: it is refused before anything is reserved for it.
    #[test]
    fn endless_names_are_refused() {
        let mut header = *tar_core::HeaderBuilder::new_gnu().finish().as_bytes();
        let mut make = |kind: u8, size: u64| {
            let text = format!("{size:011o}\0");
            header[124..136].copy_from_slice(text.as_bytes());
            header[156] = kind;
            header[148..156].copy_from_slice(b"        ");
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            header
        };
        for kind in [b'L', b'K', b'x', b'g'] {
            assert!(all(&make(kind, 1 << 32)).is_err(), "{}", char::from(kind));
        }
    }

    #[test]
    fn times_have_parts_of_a_second() {
        for (text, expected) in [
            ("5", Some((5, 0))),
            ("5.25", Some((5, 250_000_000))),
            ("-5.25", Some((-6, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("5.1234567891", Some((5, 123_456_789))),
            ("5.x", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
    }
}
