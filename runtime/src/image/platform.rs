//! Platforms: which of an image's variants runs here.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Platform as Described;

/// An operating system and a processor: `linux/arm64[/v8]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The operating system, as Go calls it.
    pub os: String,
    /// The processor, as Go calls it.
    pub architecture: String,
    /// Which version of that processor, if it matters.
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            same => same,
        };
        let variant = (architecture == "arm").then(|| "v7".to_owned());
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// The platform that a descriptor or a configuration describes.
    #[must_use]
    pub fn described(platform: &Described) -> Self {
        Self {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
        }
    }

    /// How well what was built for `other` runs here: the smaller the better; `None` if it does not.
    ///
    /// Source: containerd `platforms/compare.go`.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        let wanted = level(self);
        let found = level(other);
        wanted.checked_sub(found)
    }
}

/// The version of the processor as a number; one that is not told is the oldest that is usual.
fn level(platform: &Platform) -> u32 {
    let told =
        platform.variant.as_deref().and_then(|variant| variant.strip_prefix('v')?.parse().ok());
    told.unwrap_or(match platform.architecture.as_str() {
        "arm" => 7,
        "arm64" => 8,
        _ => 1,
    })
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let complaint = || format!("platform {text:?}: want OS/ARCHITECTURE[/VARIANT]");
        let parts: Vec<_> = text.split('/').collect();
        let legal = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !parts.iter().all(legal) {
            return Err(complaint());
        }
        let host = Self::host();
        let (os, architecture, variant) = match parts.as_slice() {
            // One word is a processor, or an operating system.
            ["linux"] => return Ok(host),
            [architecture] => ("linux", *architecture, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some((*variant).to_owned())),
            _ => return Err(complaint()),
        };
        let (architecture, variant) = match architecture {
            "x86_64" | "x86-64" => ("amd64", variant),
            "aarch64" => ("arm64", variant),
            "i386" | "i686" => ("386", variant),
            "armhf" => ("arm", Some("v7".to_owned())),
            "armel" => ("arm", Some("v6".to_owned())),
            same => (same, variant),
        };
        Ok(Self { os: os.to_lowercase(), architecture: architecture.to_lowercase(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(formatter, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_platforms_have_many_forms() {
        for (text, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("linux/x86_64", Some("linux/amd64")),
            ("linux/arm64/v8", Some("linux/arm64/v8")),
            ("aarch64", Some("linux/arm64")),
            ("windows/amd64", Some("windows/amd64")),
            ("armhf", Some("linux/arm/v7")),
            ("", None),
            ("a/b/c/d", None),
            ("linux/", None),
        ] {
            let parsed = text.parse::<Platform>().ok().map(|platform| platform.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
        assert_eq!("linux".parse(), Ok(Platform::host()));
    }

    #[test]
    fn older_processors_will_do_and_newer_ones_not() {
        for (here, there, distance) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v7", "linux/arm", Some(0)),
        ] {
            let (here, there): (Platform, Platform) =
                (here.parse().unwrap(), there.parse().unwrap());
            assert_eq!(here.distance(&there), distance, "{here} {there}");
        }
    }
}
