//! Names of images, as people write them and as they are meant.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

/// The registry of names that name none.
pub const DOCKER_HUB: &str = "docker.io";
/// Where names without a registry lie there.
const OFFICIAL: &str = "library/";
/// The tag of names that have neither tag nor digest.
pub const LATEST: &str = "latest";
/// What podman puts before names that belong to no registry.
pub const LOCALHOST: &str = "localhost";
/// The most bytes of a name without tag and digest.
const LONGEST: usize = 255;
/// The most bytes of a tag.
const LONGEST_TAG: usize = 128;

/// A full name: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
///
/// Read from a text it is normalised as Docker does: `debian` is `docker.io/library/debian`.
///
/// Source: `github.com/distribution/reference`, `reference.go` and `normalize.go`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and port of the registry.
    pub registry: String,
    /// The path there.
    pub repository: String,
    /// What it is called there.
    pub tag: Option<String>,
    /// The content that it must be.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The same name with the tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(LATEST.to_owned());
        }
        self
    }

    /// The name without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name without tag and digest as people write it: without what Docker adds.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        match self.registry.as_str() {
            DOCKER_HUB => {
                let official = self.repository.strip_prefix(OFFICIAL);
                official.filter(|rest| !rest.contains('/')).unwrap_or(&self.repository).to_owned()
            }
            _ => self.name(),
        }
    }

    /// All of it as people write it.
    #[must_use]
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    fn suffix(&self) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        tag.chain(self.digest.iter().map(|digest| format!("@{digest}"))).collect()
    }

    /// The same repository with this tag alone.
    #[must_use]
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// The same repository with this digest alone.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.name(), self.suffix())
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, tag, digest) = split(text)?;
        let (registry, repository) = match registry_in(name) {
            Some((registry, rest)) => (registry, rest.to_owned()),
            None => (DOCKER_HUB, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let official = registry == DOCKER_HUB && !repository.contains('/');
        let repository = if official { format!("{OFFICIAL}{repository}") } else { repository };
        let reference = Self { registry: registry.to_owned(), repository, tag, digest };
        let fits = is_registry(&reference.registry)
            && is_path(&reference.repository)
            && reference.name().len() <= LONGEST;
        if !fits {
            return Err(complaint(text));
        }
        Ok(reference)
    }
}

/// Whether `text` names its registry.
#[must_use]
pub fn names_registry(text: &str) -> bool {
    split(text).is_ok_and(|(name, ..)| registry_in(name).is_some())
}

/// The parts of a short name: path, tag, digest.
///
/// # Errors
///
/// What is wrong with it.
pub fn split(text: &str) -> Result<(&str, Option<String>, Option<Digest>), String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        None => (text, None),
    };
    // A colon before a slash belongs to the registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(complaint(text));
    }
    // Docker refuses what could be the ID of an image.
    let is_id = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name.is_empty() || is_id {
        return Err(complaint(text));
    }
    Ok((name, tag.map(str::to_owned), digest))
}

fn complaint(text: &str) -> String {
    if text.chars().any(char::is_uppercase) && !text.contains('@') {
        return format!("image name {text:?}: repository names are lower-case");
    }
    format!("image name {text:?}: want [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]")
}

/// The registry that a name starts with: what has a dot or a port, or capitals, or is localhost.
fn registry_in(name: &str) -> Option<(&str, &str)> {
    let (first, rest) = name.split_once('/')?;
    let told = first.contains(['.', ':']) || first == LOCALHOST;
    (told || first.bytes().any(|byte| byte.is_ascii_uppercase())).then_some((first, rest))
}

/// Host names of letters, digits, `-` and dots, or an IPv6 address in brackets; then perhaps a port.
fn is_registry(text: &str) -> bool {
    if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let legal = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
        let port = port.strip_prefix(':').map_or(port.is_empty(), is_port);
        return !address.is_empty() && address.bytes().all(legal) && port;
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "1"));
    let label = |label: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(legal)
    };
    host.split('.').all(label) && is_port(port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Components of lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between.
fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().next_back().is_some_and(alphanumeric);
    let mut separators = text.split(|letter: char| letter.is_ascii_alphanumeric());
    let legal = |separator: &str| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
    };
    ends && !text.bytes().any(|byte| byte.is_ascii_uppercase()) && separators.all(legal)
}

/// Letters, digits and `_`, and after the first also `.` and `-`.
fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("docker.io/debian", "docker.io/library/debian", "debian"),
            ("index.docker.io/ada/tool", "docker.io/ada/tool", "ada/tool"),
            ("localhost/a", "localhost/a", "localhost/a"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("quay.io/a/b", "quay.io/a/b", "quay.io/a/b"),
            ("ada/tool", "docker.io/ada/tool", "ada/tool"),
            ("A/tool", "A/tool", "A/tool"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("a__b/c--d/e.f_g", "docker.io/a__b/c--d/e.f_g", "a__b/c--d/e.f_g"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(reference.to_string().parse(), Ok(reference), "{text}");
        }
        let text = format!("debian:12@sha256:{hex}");
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.to_string(), format!("docker.io/library/{text}"));
        assert_eq!(reference.tag.as_deref(), Some("12"));
        assert_eq!("a".parse::<Reference>().unwrap().or_latest().familiar(), "a:latest");
        assert_eq!(reference.clone().or_latest(), reference);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a/".repeat(127) + "a";
        for text in [
            "",
            ":",
            "a:",
            "a:b:c",
            "a//b",
            "/a",
            "a/",
            "Debian",
            "a/B",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:-b",
            "a@b",
            "a@sha256:12",
            "a b",
            "a\n",
            "../a",
            "a/../b",
            "http://a/b",
            "localhost:99999/a",
            "localhost:/a",
            "[::1/a",
            "a.b:5x/c",
            "é",
            &"a".repeat(64),
            &long,
            &format!("a:{}", "t".repeat(129)),
            ".a.b/c",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        let error = "Debian".parse::<Reference>().unwrap_err();
        assert!(error.contains("lower-case"), "{error}");
    }

    #[test]
    fn short_names_name_no_registry() {
        for (text, named) in
            [("a", false), ("a/b:c", false), ("a.b/c", true), ("localhost/a", true), ("", false)]
        {
            assert_eq!(names_registry(text), named, "{text}");
        }
    }
}
