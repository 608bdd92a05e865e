//! Images: the immutable templates of containers.
//!
//! ```text
//! reference, digest, media, platform   what things are called
//! document                             index, manifest, configuration
//! archive                              tar, as a stream
//! unpack                               from a layer's archive to a directory of the overlay
//! worker                               the process that does so, where the IDs exist
//! ```

pub mod archive;
pub mod digest;
pub mod document;
pub mod media;
pub mod platform;
pub mod reference;
pub mod unpack;
pub mod worker;
