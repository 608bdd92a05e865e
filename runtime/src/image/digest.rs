//! Digests: what content is called, and the proof that it is that content.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use ring::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};

/// The digest of some content: `sha256:` and 64, or `sha512:` and 128 lower-case hexadecimal digits.
///
/// Nothing else is one, so that it is always two safe components of a path.
///
/// Source: OCI image-spec, `descriptor.md`, "Registered algorithms".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A way to make digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The usual one.
    Sha256,
    /// The one that may be used as well.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits it has.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl Digest {
    /// The SHA-256 digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(content);
        hasher.finish()
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        let is_longer = self.0.starts_with(Algorithm::Sha512.name());
        if is_longer { Algorithm::Sha512 } else { Algorithm::Sha256 }
    }

    /// The name of its algorithm and its hexadecimal digits.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or_default()
    }

    /// Its hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.parts().1
    }

    /// What people call it: its first twelve digits.
    #[must_use]
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let fits = text.split_once(':').is_some_and(|(name, hex)| {
            Algorithm::ALL.iter().any(|it| it.name() == name && it.digits() == hex.len())
                && hex.bytes().all(legal)
        });
        fits.then(|| Self(text.to_owned())).ok_or_else(|| {
            format!("digest {text:?}: want sha256: and 64, or sha512: and 128 digits of 0-9 a-f")
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Makes the digest of what it is given piece by piece.
#[derive(Clone)]
pub struct Hasher {
    context: Context,
    algorithm: Algorithm,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Hasher {
    /// One that was given nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { context, algorithm }
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.context.update(piece);
    }

    /// The digest of all pieces.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut text = format!("{}:", self.algorithm.name());
        for byte in self.context.finish().as_ref() {
            text.push_str(&format!("{byte:02x}"));
        }
        Digest(text)
    }
}

/// Passes everything on, and knows the digest and the size of what went through.
#[derive(Debug)]
pub struct Hashed<T> {
    inner: T,
    hasher: Hasher,
    size: u64,
}

impl<T> Hashed<T> {
    /// Over `inner`.
    #[must_use]
    pub fn new(inner: T, algorithm: Algorithm) -> Self {
        Self { inner, hasher: Hasher::new(algorithm), size: 0 }
    }

    /// How many bytes went through.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is beneath, the digest, and the size in bytes.
    #[must_use]
    pub fn finish(self) -> (T, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..length).unwrap_or_default());
        self.size += length as u64;
        Ok(length)
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(buffer)?;
        self.hasher.update(buffer.get(..length).unwrap_or_default());
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_of_known_length_and_lower_case() {
        let hex = "0123456789abcdef".repeat(4);
        for (text, good) in [
            (format!("sha256:{hex}"), true),
            (format!("sha512:{hex}{hex}"), true),
            (format!("sha256:{hex}{hex}"), false),
            (format!("sha512:{hex}"), false),
            (format!("sha256:{}", hex.to_uppercase()), false),
            (format!("sha384:{}", "0".repeat(96)), false),
            (format!("md5:{hex}"), false),
            (format!("sha256:../{}", &hex[3..]), false),
            (hex, false),
            (String::new(), false),
        ] {
            assert_eq!(text.parse::<Digest>().is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn known_content_has_its_known_digest() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        let mut through = Hashed::new(&b"abc"[..], Algorithm::Sha512);
        assert_eq!(io::copy(&mut through, &mut io::sink()).unwrap(), 3);
        let (_, digest, size) = through.finish();
        assert_eq!((digest.hex().get(..8), digest.hex().len(), size), (Some("ddaf35a1"), 128, 3));
        assert_eq!(digest.algorithm(), Algorithm::Sha512);
        assert_eq!(Digest::of(b"abc").short(), "ba7816bf8f01");
    }
}
