//! Where a copied-up object came from: what gives it the inode number of the original, and tells
//! apart the inodes of lower layers in the index of copied-up hard links.

use std::ffi::{CStr, OsString};
use std::fmt::Write as _;

/// Overlayfs' own record of the lower object: which file system, and its file handle there.
pub(crate) const ATTRIBUTE: &CStr = c"user.overlay.origin";
/// Our record, where overlayfs' cannot be written or would not tell the inode number: `ID:NUMBER`,
/// both in hexadecimal, the first `f_fsid` of statfs(2).
pub(crate) const OWN_ATTRIBUTE: &CStr = c"user.overlay.rrun.origin";
/// How many names the merged tree has for an indexed file, as the difference to the number of
/// links of the file in the upper directory.
pub(crate) const LINKS_ATTRIBUTE: &CStr = c"user.overlay.nlink";

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// By its UUID.
    Uuid([u8; 16]),
    /// By its `f_fsid`.
    Id(u64),
}

/// The lower object that something was copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its file system.
    pub(crate) system: System,
    /// Its inode number there.
    pub(crate) number: u64,
}

/// What overlayfs' record starts with: version and magic number; then come its length, flags, the
/// handle's type, the UUID and the handle.
///
/// Source: Linux `fs/overlayfs/overlayfs.h`, `struct ovl_fb`.
const HEAD: [u8; 2] = [0, 0xfb];
/// Bytes before the handle.
const HANDLE: usize = 21;
/// The flags that say that the handle is in the byte order of this machine, or of none.
const ANY_ORDER: u8 = 2;
const OWN_ORDER: u8 = if cfg!(target_endian = "big") { 1 } else { 0 };

/// Writes overlayfs' record. `None` if the handle is too long or does not tell the inode number.
pub(crate) fn format(uuid: &[u8; 16], kind: i32, handle: &[u8]) -> Option<Vec<u8>> {
    number_in(kind, handle)?;
    let length = u8::try_from(HANDLE + handle.len()).ok()?;
    let mut record = HEAD.to_vec();
    record.extend([length, OWN_ORDER, u8::try_from(kind).ok()?]);
    record.extend(uuid);
    record.extend(handle);
    Some(record)
}

/// Reads overlayfs' record. `None` if it is broken or does not tell the inode number.
pub(crate) fn parse(record: &[u8]) -> Option<Origin> {
    let (head, rest) = record.split_first_chunk::<2>()?;
    let ([length, flags, kind], rest) = rest.split_first_chunk::<3>()?;
    let (uuid, handle) = rest.split_first_chunk::<16>()?;
    let readable = *head == HEAD
        && usize::from(*length) == record.len()
        && (flags & ANY_ORDER != 0 || flags & 1 == OWN_ORDER);
    let number = number_in(i32::from(*kind), handle).filter(|_| readable)?;
    Some(Origin { system: System::Uuid(*uuid), number })
}

/// The inode number in a file handle, for the types that have one.
///
/// Source: Linux `include/linux/exportfs.h`; `mm/shmem.c`, `shmem_encode_fh()`.
fn number_in(kind: i32, handle: &[u8]) -> Option<u64> {
    /// Inode number and generation, of 32 bits each; tmpfs has the generation first.
    const INO32_GEN: i32 = 0x01;
    /// Inode number of 64 bits, then the tree and the generation.
    const BTRFS: i32 = 0x4d;
    /// Inode number of 64 bits, then the generation.
    const INO64_GEN: i32 = 0x81;
    let u32_at = |at| handle.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let u64_at = |at| handle.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    match (kind, handle.len()) {
        (INO32_GEN, 8) => u32_at(0).map(u64::from),
        (INO32_GEN, 12) => Some(u64::from(u32_at(4)?) | u64::from(u32_at(8)?) << 32),
        (BTRFS, 20) | (INO64_GEN, 12) => u64_at(0),
        _ => None,
    }
}

/// Writes our record.
pub(crate) fn format_own(file_system: u64, number: u64) -> Vec<u8> {
    format!("{file_system:x}:{number:x}").into_bytes()
}

/// Reads our record. `None` if it is broken.
pub(crate) fn parse_own(record: &[u8]) -> Option<Origin> {
    let (id, number) = std::str::from_utf8(record).ok()?.split_once(':')?;
    let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
    Some(Origin { system: System::Id(hexadecimal(id)?), number: hexadecimal(number)? })
}

/// The name in the index of a lower file: file system, handle type, handle bytes, in hexadecimal.
///
/// Nothing of it changes with the order of layers, a remount or a reboot.
pub(crate) fn index_name(file_system: u64, kind: i32, handle: &[u8]) -> OsString {
    let mut name = format!("{file_system:016x}{kind:08x}");
    for byte in handle {
        // Writing to a String cannot fail.
        let _infallible = write!(name, "{byte:02x}");
    }
    name.into()
}

/// How many names the merged tree has for a file with several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// That many more than the upper file has links.
    Upper(i64),
    /// That many more than the lower file has links: it was not copied up, but names are gone.
    Lower(i64),
}

impl Links {
    /// Reads the value of [`LINKS_ATTRIBUTE`], for example `U-1`. `None` if it is broken.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (relative_to, difference) = std::str::from_utf8(value).ok()?.split_at_checked(1)?;
        let difference = difference.parse().ok()?;
        match relative_to {
            "U" => Some(Self::Upper(difference)),
            "L" => Some(Self::Lower(difference)),
            _ => None,
        }
    }

    /// Writes it.
    pub(crate) fn format(self) -> String {
        match self {
            Self::Upper(difference) => format!("U{difference:+}"),
            Self::Lower(difference) => format!("L{difference:+}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn names_tell_inodes_apart() {
        assert_eq!(index_name(0x1a, 1, &[0, 0xff]), "000000000000001a0000000100ff");
        assert_ne!(index_name(1, 1, &[2]), index_name(1, 2, &[1]));
    }

    #[test]
    fn link_counts_read_back() {
        for difference in [0, 1, -1, 70_000] {
            for links in [Links::Upper(difference), Links::Lower(difference)] {
                assert_eq!(Links::parse(links.format().as_bytes()), Some(links));
            }
        }
        for broken in ["", "U", "1", "X+1", "U1x", "\u{fc}1", "U+99999999999999999999"] {
            assert_eq!(Links::parse(broken.as_bytes()), None, "{broken:?}");
        }
    }

    #[test]
    fn records_tell_inode_numbers() {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        for (kind, handle, number) in [
            (0x01, words(&[77, 1]), Some(77)),                // ext4
            (0x01, words(&[1, 77, 1]), Some((1 << 32) | 77)), // tmpfs
            (0x81, words(&[77, 1, 5]), Some((1 << 32) | 77)), // XFS
            (0x4d, words(&[77, 0, 5, 0, 9]), Some(77)),       // btrfs
            (0x01, words(&[77]), None),
            (0x02, words(&[77, 1]), None),
        ] {
            let record = format(&UUID, kind, &handle);
            assert_eq!(record.is_some(), number.is_some(), "{kind:x}");
            let expected = number.map(|number| Origin { system: System::Uuid(UUID), number });
            assert_eq!(record.as_deref().and_then(parse), expected, "{kind:x}");
        }
        let own = Origin { system: System::Id(0xab), number: 77 };
        assert_eq!(parse_own(&format_own(0xab, 77)), Some(own));
    }

    #[test]
    fn broken_records_tell_nothing() {
        let good = format(&UUID, 1, &[1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
        for length in 0..good.len() {
            assert_eq!(parse(&good[..length]), None, "{length} bytes");
        }
        for (at, value) in [(0, 1), (1, 0xfa), (2, 3), (3, 1 - OWN_ORDER), (4, 0xf8)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(parse(&bad), None, "byte {at}");
        }
        for broken in ["", ":", "1:", ":1", "1", "x:1", "1:1:1", "1:10000000000000000"] {
            assert_eq!(parse_own(broken.as_bytes()), None, "{broken:?}");
        }
    }
}
