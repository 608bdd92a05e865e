//! `rrun overlay`: the copy-on-write file system by hand.

use super::Global;
use anyhow::Result;
/// Mount
#[derive(Debug, clap::Args)]
pub struct Overlay {}
impl Overlay {
    pub fn run(&self, _g: &Global) -> Result<u8> {
        Ok(0)
    }
}
