//! Files that are being copied up block by block, as the work directory keeps them.
//!
//! Each has a directory of its own: `data` is the copy as far as it goes, of its full size from the
//! start; `present` says which blocks of it count; `origin` says what it is a copy of. All numbers are
//! little-endian. The form is our own: no other program reads the work directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

/// Bytes that are copied at once, or not at all: a page, so that what the page cache writes back never
/// asks for the rest of a block.
pub(crate) const BLOCK: u64 = 4096;

/// The first line of `origin`.
const HEADER: &str = "rrun partial copy 1\n";

/// What a partial copy is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Size in bytes of the original.
    pub(crate) size: u64,
    /// Its last change, in nanoseconds since 1970.
    pub(crate) modified: i128,
    /// The names that lead to it from the merged tree's root.
    pub(crate) path: Vec<Arc<OsStr>>,
}

impl Origin {
    /// The contents of `origin`: a line of text each, then the path, its names separated by `/`.
    pub(crate) fn format(&self) -> Vec<u8> {
        let mut bytes = format!("{HEADER}{}\n{}\n", self.size, self.modified).into_bytes();
        for (number, name) in self.path.iter().enumerate() {
            if number > 0 {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    /// Reads it back. `None` if it is broken.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(HEADER.as_bytes())?;
        let (size, rest) = line(rest)?;
        let (modified, path) = line(rest)?;
        let name = |bytes: &[u8]| {
            let legal = !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&0);
            legal.then(|| Arc::from(OsStr::from_bytes(bytes)))
        };
        let path = path.split(|byte| *byte == b'/').map(name).collect::<Option<_>>()?;
        Some(Self { size: size.parse().ok()?, modified: modified.parse().ok()?, path })
    }
}

/// The text up to the next line end, and what follows.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at(end);
    Some((std::str::from_utf8(line).ok()?, rest.get(1..)?))
}

/// Which blocks of a partial copy count, as `present` holds it: how many bytes of the original still
/// show through where they do not, then a bit for each block, lowest first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Present {
    /// Bytes of the original that count at most; what lies beyond is the copy's own.
    base: u64,
    bits: Vec<u8>,
}

/// Where in `present` the bits begin.
const BITS: u64 = 8;

impl Present {
    /// Nothing of `base` bytes is present.
    pub(crate) fn nothing_of(base: u64) -> Self {
        let bytes = usize::try_from(base.div_ceil(BLOCK).div_ceil(8)).unwrap_or(usize::MAX);
        Self { base, bits: vec![0; bytes] }
    }

    /// Reads the contents of `present`. `None` if they are too short for what they say.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (base, bits) = bytes.split_first_chunk()?;
        let present = Self { base: u64::from_le_bytes(*base), bits: bits.to_owned() };
        let needed = present.base.div_ceil(BLOCK).div_ceil(8);
        (needed <= bits.len() as u64).then_some(present)
    }

    /// The whole contents of `present`.
    pub(crate) fn format(&self) -> Vec<u8> {
        [&self.base.to_le_bytes(), self.bits.as_slice()].concat()
    }

    /// How many bytes of the original still count where no block is present.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Notes that the file was cut to `size` bytes: no more of the original counts ever again.
    pub(crate) fn cut(&mut self, size: u64) {
        self.base = self.base.min(size);
    }

    /// Whether the copy has this block.
    pub(crate) fn has(&self, block: u64) -> bool {
        if block.saturating_mul(BLOCK) >= self.base {
            return true;
        }
        let byte = usize::try_from(block / 8).ok().and_then(|at| self.bits.get(at));
        byte.is_some_and(|byte| byte & 1 << (block % 8) != 0)
    }

    /// Sets (or clears, if not `there`) the bits of the blocks from `first` to before `end`. Returns what
    /// has to be written where into `present`, if anything has changed.
    pub(crate) fn mark(&mut self, first: u64, end: u64, there: bool) -> Option<(u64, &[u8])> {
        let end = end.min(self.base.div_ceil(BLOCK));
        let mut changed = false;
        for block in first..end {
            let byte = self.bits.get_mut(usize::try_from(block / 8).ok()?)?;
            let bit = 1 << (block % 8);
            changed |= (*byte & bit != 0) != there;
            *byte = if there { *byte | bit } else { *byte & !bit };
        }
        if !changed {
            return None;
        }
        let bytes = usize::try_from(first / 8).ok()?..=usize::try_from((end - 1) / 8).ok()?;
        Some((BITS + first / 8, self.bits.get(bytes)?))
    }

    /// Whose bytes start at `offset`, the copy's (`true`) or the original's, and where that ends.
    pub(crate) fn stretch(&self, offset: u64) -> (bool, u64) {
        if offset >= self.base {
            return (true, u64::MAX);
        }
        let first = offset / BLOCK;
        let own = self.has(first);
        let last = self.base.div_ceil(BLOCK);
        let end = (first..last).find(|block| self.has(*block) != own).unwrap_or(last);
        let limit = if own && end == last { u64::MAX } else { end.saturating_mul(BLOCK) };
        (own, if own { limit } else { limit.min(self.base) })
    }

    /// The first stretch at or after `block` that only the original has, in blocks; none if there is no
    /// more.
    pub(crate) fn missing(&self, block: u64, most: u64) -> Option<(u64, u64)> {
        let last = self.base.div_ceil(BLOCK);
        let first = (block..last).find(|block| !self.has(*block))?;
        let limit = first.saturating_add(most).min(last);
        Some((first, (first..limit).find(|block| self.has(*block)).unwrap_or(limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_read_back_and_never_lead_outside() {
        let origin = Origin {
            size: 1 << 40,
            modified: -1,
            path: ["a", "line\nend", "b"].iter().map(|name| Arc::from(OsStr::new(name))).collect(),
        };
        assert_eq!(Origin::parse(&origin.format()), Some(origin));
        for broken in ["", "\n", "/", "a//b", "../x", "a/.", "a\0b"] {
            let bytes = format!("{HEADER}1\n2\n{broken}");
            let parsed = Origin::parse(bytes.as_bytes());
            assert_eq!(parsed.is_some(), broken == "\n", "{broken:?}");
        }
        assert_eq!(Origin::parse(b"rrun partial copy 2\n1\n2\na"), None);
    }

    #[test]
    fn stretches_follow_the_bits_and_end_with_the_original() {
        let mut present = Present::nothing_of(3 * BLOCK + 10);
        assert_eq!(present.stretch(5), (false, 3 * BLOCK + 10));
        assert_eq!(present.stretch(3 * BLOCK + 10), (true, u64::MAX));
        assert_eq!(present.mark(1, 2, true), Some((8, &[0b10][..])));
        assert_eq!(present.mark(1, 2, true), None);
        assert_eq!(present.stretch(0), (false, BLOCK));
        assert_eq!(present.stretch(BLOCK), (true, 2 * BLOCK));
        assert_eq!(present.missing(0, 9), Some((0, 1)));
        assert_eq!(present.missing(1, 1), Some((2, 3)));
        assert_eq!(present.missing(1, 9), Some((2, 4)));
        present.mark(2, 100, true);
        assert_eq!(present.stretch(BLOCK), (true, u64::MAX));
        present.cut(BLOCK / 2);
        assert_eq!(present.stretch(0), (false, BLOCK / 2));
        assert_eq!(Present::parse(&present.format()), Some(present));
    }

    #[test]
    fn a_truncated_record_is_refused() {
        let bytes = Present::nothing_of(64 * BLOCK).format();
        assert!(Present::parse(&bytes).is_some());
        assert_eq!(Present::parse(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Present::parse(&[0; 7]), None);
    }
}
