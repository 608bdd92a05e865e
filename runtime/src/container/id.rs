//! A container's name among the runtime's containers.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A container's name: 1 to 128 of `A-Z a-z 0-9 _ + . -`, hence always one safe path component.
/// As with crun, no dot comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(&byte);
        let wrong = match name {
            _ if !(1..=128).contains(&name.len()) => "invalid length",
            _ if !name.bytes().all(legal) => "invalid character",
            _ if name.starts_with('.') => "invalid dot at its beginning",
            _ => return Ok(Self(name.to_owned())),
        };
        Err(format!("container ID {name:?}: {wrong}: want 1 to 128 of A-Z a-z 0-9 _ + . -"))
    }
}

impl TryFrom<String> for ContainerId {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<Path> for ContainerId {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_path_component() {
        for good in ["a", "web-1", "_", "-a", "A+b.c", &"x".repeat(128)] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", "-\n", &"x".repeat(129)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
    }
}
