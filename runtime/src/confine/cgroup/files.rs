//! The control files: small texts, one system call each way.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// What most control files fit into, in bytes.
const USUAL: usize = 4096;

/// Reads a control file, whose size nobody knows beforehand: asking for it would be two calls for nothing.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL);
    OpenOptions::new().read(true).open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes `text` into a control file, which must be there.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}
