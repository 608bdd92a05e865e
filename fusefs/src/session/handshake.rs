//! What both sides agree on before the first request.

use std::io;

use super::reply::{Reply, Validity};
use super::request::Init;
use super::wire::{self, feature};

/// Largest write in one request, in bytes. Larger ones were no faster: they only displace more
/// of the processor's cache.
pub(crate) const LARGEST_WRITE: u32 = 128 * 1024;
/// Bytes of a page, the unit of the largest request.
const PAGE: u32 = 4096;
/// Requests that may be under way in the background: reading ahead, gathered writes.
const MOST_IN_BACKGROUND: u16 = 16;
/// How many of them make the kernel hold back more.
const CONGESTED: u16 = 12;
/// The unit of times, in nanoseconds.
const TIME_UNIT: u32 = 1;

/// What the server would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// That the kernel gathers writes before it sends them.
    pub(crate) writeback: bool,
    /// That it checks and stores access control lists.
    pub(crate) acl: bool,
    /// How long it may believe replies.
    pub(crate) validity: Validity,
}

/// How many bytes a buffer needs for requests of that many.
pub(crate) fn size_of_buffer(largest: u32) -> usize {
    usize::try_from(largest).unwrap_or(usize::MAX).saturating_add(wire::WRITE_OVERHEAD)
}

/// Answers the kernel's `offer`. `false` if the kernel speaks a newer version and will ask again in
/// ours.
///
/// # Errors
///
/// [`io::ErrorKind::Unsupported`] if the kernel lacks what the server is built upon.
pub(crate) fn agree(offer: &Init, wishes: &Wishes, reply: &mut Reply) -> io::Result<bool> {
    if offer.major < wire::MAJOR {
        return Err(unsupported("protocol 7"));
    }
    reply.u32(wire::MAJOR);
    reply.u32(wire::MINOR);
    if offer.major > wire::MAJOR {
        return Ok(false);
    }
    reply.u32(offer.max_readahead);
    reply.u32(features(offer.features, wishes)?);
    reply.u16(MOST_IN_BACKGROUND);
    reply.u16(CONGESTED);
    reply.u32(LARGEST_WRITE);
    reply.u32(TIME_UNIT);
    reply.u16(u16::try_from(LARGEST_WRITE / PAGE).unwrap_or(u16::MAX));
    // Alignment of maps, and eight more words that we have no use for.
    reply.u16(0);
    (0..8).for_each(|_| reply.u32(0));
    Ok(true)
}

/// What of the features `offered` is used.
///
/// Not asked for: `ATOMIC_O_TRUNC` (without OPEN requests the truncation would be lost),
/// `AUTO_INVAL_DATA` (nobody else changes files), locks (the kernel's own are right: there is no
/// other client).
fn features(offered: u32, wishes: &Wishes) -> io::Result<u32> {
    let mut required = vec![
        (feature::DO_READDIRPLUS, "readdirplus"),
        (feature::NO_OPEN_SUPPORT, "no-open"),
        (feature::DONT_MASK, "umask"),
        (feature::MAX_PAGES, "max-pages"),
    ];
    if wishes.acl {
        required.push((feature::POSIX_ACL, "POSIX ACL"));
    }
    let mut wanted = feature::ASYNC_READ
        | feature::BIG_WRITES
        | feature::READDIRPLUS_AUTO
        | feature::PARALLEL_DIROPS
        | feature::CACHE_SYMLINKS
        | feature::NO_OPENDIR_SUPPORT
        | feature::EXPLICIT_INVAL_DATA
        | feature::HANDLE_KILLPRIV_V2
        | feature::SETXATTR_EXT
        | feature::ASYNC_DIO;
    if wishes.writeback {
        wanted |= feature::WRITEBACK_CACHE;
    }
    // What an older kernel lacks of these costs speed only.
    let mut used = wanted & offered;
    for (bit, name) in required {
        if offered & bit == 0 {
            return Err(unsupported(name));
        }
        used |= bit;
    }
    Ok(used)
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("the kernel's FUSE lacks {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISHES: Wishes = Wishes { writeback: false, acl: true, validity: Validity::FOREVER };

    fn offer(major: u32, features: u32) -> Init {
        Init { major, minor: 31, max_readahead: 131_072, features }
    }

    fn words(offer: &Init, wishes: &Wishes) -> Vec<u32> {
        let mut reply = Reply::new(Validity::FOREVER);
        agree(offer, wishes, &mut reply).unwrap();
        let bytes = reply.finish(1, Ok(())).to_vec();
        bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).skip(4).collect()
    }

    #[test]
    fn only_what_is_offered_is_used() {
        let everything = words(&offer(7, u32::MAX), &WISHES);
        assert_eq!(everything.len() * 4, 64, "struct fuse_init_out");
        assert_eq!(everything[..3], [7, wire::MINOR, 131_072]);
        assert_eq!(everything[3] & feature::WRITEBACK_CACHE, 0);
        assert_ne!(everything[3] & feature::SETXATTR_EXT, 0);
        assert_eq!(everything[5], LARGEST_WRITE);
        let writeback = Wishes { writeback: true, ..WISHES };
        let gathered = words(&offer(7, u32::MAX), &writeback)[3];
        assert_ne!(gathered & feature::WRITEBACK_CACHE, 0);
        let without = words(&offer(7, !feature::SETXATTR_EXT), &WISHES)[3];
        assert_eq!(without & feature::SETXATTR_EXT, 0);
    }

    #[test]
    fn a_kernel_that_is_too_old_is_named_for_what_it_lacks() {
        for (offer, wishes, expected) in [
            (offer(6, u32::MAX), WISHES, "protocol 7"),
            (offer(7, !feature::NO_OPEN_SUPPORT), WISHES, "no-open"),
            (offer(7, !feature::POSIX_ACL), WISHES, "POSIX ACL"),
        ] {
            let error = agree(&offer, &wishes, &mut Reply::new(Validity::FOREVER)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let no_lists = Wishes { acl: false, ..WISHES };
        assert_eq!(words(&offer(7, !feature::POSIX_ACL), &no_lists)[3] & feature::POSIX_ACL, 0);
    }

    #[test]
    fn a_newer_kernel_is_told_our_version() {
        let mut reply = Reply::new(Validity::FOREVER);
        assert!(!agree(&offer(8, 0), &WISHES, &mut reply).unwrap());
        assert_eq!(words(&offer(8, 0), &WISHES), [7, wire::MINOR]);
    }
}
