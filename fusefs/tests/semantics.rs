//! The promises of SEMANTICS.md.
