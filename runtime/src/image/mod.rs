//! Images: the immutable templates of containers.
//!
//! ```text
//! reference, digest, media, platform   what things are called
//! document                             index, manifest, configuration
//! archive                              tar, as a stream
//! ```

pub mod archive;
pub mod digest;
pub mod document;
pub mod media;
pub mod platform;
pub mod reference;
