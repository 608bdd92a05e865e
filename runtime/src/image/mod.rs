//! Images: the immutable templates of containers.
//!
//! ```text
//! reference, digest, media, platform   what things are called
//! document                             index, manifest, configuration
//! archive                              tar, as a stream
//! unpack                               from a layer's archive to a directory of the overlay
//! worker                               the process that does so, where the IDs exist
//! install                              from blobs to an image that exists
//! load, import                         blobs from archives
//! save                                 the other way
//! library                              which images there are, and what they are called
//! describe, verify, remove, change     what is told of them, and done to them
//! ```

pub mod archive;
pub mod change;
pub mod describe;
pub mod digest;
pub mod document;
pub mod import;
pub mod install;
pub mod library;
pub mod load;
pub mod media;
pub mod platform;
pub mod reference;
pub mod remove;
pub mod save;
pub mod unpack;
pub mod verify;
pub mod worker;
