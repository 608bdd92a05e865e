//! The directories of a kernel overlay, as podman writes them for image mounts and `:O` volumes.
//!
//! `fsconfig` takes 255 bytes at once, less than many lists of layers have: a long list is given
//! layer by layer (Linux 6.8), a long path by descriptor.
//!
//! Source: Linux `fs/overlayfs/params.c`.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::rootfs::mounts::{LONGEST_VALUE, told};
use crate::sys::mount::{FsContext, c_string};

/// Sets the option `name` of an overlay; `held` must live until the overlay is mounted.
///
/// # Errors
///
/// What the kernel says of the option, or why a directory cannot be opened.
pub fn set(
    context: &FsContext,
    name: &str,
    value: &str,
    held: &mut Vec<OwnedFd>,
) -> anyhow::Result<()> {
    match name {
        "lowerdir" if value.len() > LONGEST_VALUE => {
            for (name, layer) in split(value) {
                set_one(context, name, &shorten(&layer, held)?)?;
            }
            Ok(())
        }
        "upperdir" | "workdir" | "lowerdir+" | "datadir+" => {
            set_one(context, name, &shorten(value, held)?)
        }
        _ => set_one(context, name, value),
    }
}

fn set_one(context: &FsContext, name: &str, value: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        value.len() <= LONGEST_VALUE,
        "option {name}: its value has {} bytes, the kernel takes {LONGEST_VALUE}",
        value.len()
    );
    told(context, context.set(&c_string(name)?, &c_string(value)?), name)
}

/// A path that is short enough, through a descriptor if need be.
fn shorten(path: &str, held: &mut Vec<OwnedFd>) -> anyhow::Result<String> {
    if path.len() <= LONGEST_VALUE {
        return Ok(path.to_owned());
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(path, flags, Mode::empty()).with_context(|| format!("open {path}"))?;
    let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
    held.push(directory);
    Ok(short)
}

/// The layers of a `lowerdir`, each with the option that adds it: `:` separates, `::` begins those
/// that hold data alone, `\` makes either part of a path.
fn split(list: &str) -> Vec<(&'static str, String)> {
    let mut layers = Vec::new();
    let mut layer = String::new();
    let mut kind = "lowerdir+";
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => layer.extend(characters.next()),
            ':' => {
                layers.push((kind, std::mem::take(&mut layer)));
                if characters.next_if_eq(&':').is_some() {
                    kind = "datadir+";
                }
            }
            other => layer.push(other),
        }
    }
    layers.push((kind, layer));
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_layers_is_taken_apart() {
        let layers = |list| -> Vec<(&str, String)> { split(list) };
        let lower = |path: &str| ("lowerdir+", path.to_owned());
        assert_eq!(layers("/a"), [lower("/a")]);
        assert_eq!(layers(r"/a\:b:/c\\d"), [lower("/a:b"), lower(r"/c\d")]);
        let data = ("datadir+", "/data".to_owned());
        assert_eq!(layers("/a:/b::/data"), [lower("/a"), lower("/b"), data]);
    }
}
