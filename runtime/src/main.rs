//! The command `rrun`.
fn main() {}
