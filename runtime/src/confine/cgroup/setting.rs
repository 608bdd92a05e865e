//! One limit: which text goes into which control file, and what a refusal means to the user.

use std::borrow::Cow;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write as _};

use anyhow::{Error, anyhow};
use nix::errno::Errno;

use super::{Cgroup, Directory, errno_of, files};

/// One limit, in the words of both versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Where the config says so, below `/linux/resources`.
    pub(super) field: String,
    /// The controller's name in version 2, where it has one.
    pub(super) controller: Cow<'static, str>,
    pub(super) v1: Form,
    pub(super) v2: Form,
    /// Whether a kernel without the file keeps the limit anyway.
    pub(super) optional: bool,
}

/// How a version expresses a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The first of these files that is there gets its text, each line by a write of its own.
    Files(Vec<(Cow<'static, str>, String)>),
    /// It is so without saying it.
    Given,
    /// It has nothing like it: why, and what to do instead.
    Impossible(String),
}

impl Form {
    /// A single file.
    pub(super) fn file(name: impl Into<Cow<'static, str>>, text: impl Display) -> Self {
        Self::Files(vec![(name.into(), text.to_string())])
    }

    /// The first of these files that is there.
    pub(super) fn either(files: [(&'static str, String); 2]) -> Self {
        Self::Files(files.map(|(name, text)| (name.into(), text)).into())
    }

    /// Nothing like it in version 2.
    pub(super) fn no_version_2(cure: &str) -> Self {
        Self::Impossible(format!("cgroup version 2 has nothing like it ({cure})"))
    }
}

/// Why a limit was not set.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no such controller here.
    Nowhere,
    /// The version knows no such limit.
    Impossible(String),
    /// The kernel did not take it.
    Kernel { file: String, text: String, errno: Errno },
}

impl Refusal {
    /// Whether the same write may pass when other limits have been set: the kernel checks memory
    /// against memory and swap together, quota against period and burst.
    pub(super) fn may_pass_later(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno::EINVAL | Errno::EBUSY, .. })
    }

    /// The error for the user.
    pub(super) fn explain(self, setting: &Setting) -> Error {
        let Setting { field, controller, .. } = setting;
        match self {
            Self::Nowhere => setting.nowhere(),
            Self::Impossible(why) => anyhow!("/linux/resources/{field}: {why}"),
            Self::Kernel { file, text, errno } => {
                let why = match errno {
                    Errno::ENOENT => missing_file(controller),
                    Errno::EINVAL => ": the kernel does not take this value",
                    Errno::EBUSY => ": more is in use already",
                    Errno::ENODEV => ": there is no such device",
                    _ => "",
                };
                anyhow!("/linux/resources/{field}: write {text:?} to {file}: {errno}{why}")
            }
        }
    }
}

/// Why a kernel with the controller may lack a file of it.
fn missing_file(controller: &str) -> &'static str {
    match controller {
        "memory" => ": the kernel was started without it (cure for swap: swapaccount=1)",
        "io" => ": the kernel has no such file (cure for weights: the bfq scheduler, or io.cost)",
        "hugetlb" => ": no such page size (see /sys/kernel/mm/hugepages)",
        _ => ": this kernel has no such file",
    }
}

impl Setting {
    /// A limit whose file has the same name and text in both versions.
    pub(super) fn alike(
        field: impl Into<String>,
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        text: impl Display,
    ) -> Self {
        let form = Form::file(file, text);
        Self::new(field, controller, form.clone(), form)
    }

    /// A limit that must be set.
    pub(super) fn new(
        field: impl Into<String>,
        controller: impl Into<Cow<'static, str>>,
        v1: Form,
        v2: Form,
    ) -> Self {
        Self { field: field.into(), controller: controller.into(), v1, v2, optional: false }
    }

    /// The same, but a kernel without the file is fine.
    pub(super) fn where_there_is(self) -> Self {
        Self { optional: true, ..self }
    }

    /// The controller's name in version 1.
    fn v1_controller(&self) -> &str {
        if self.controller == "io" { "blkio" } else { &self.controller }
    }

    /// The form for `cgroup`, and the directory that has its files.
    pub(super) fn place<'a>(&'a self, cgroup: &'a Cgroup) -> Option<(&'a Form, &'a Directory)> {
        let v1 = cgroup.v1(self.v1_controller()).map(|directory| (&self.v1, directory));
        v1.or_else(|| cgroup.unified.as_ref().map(|directory| (&self.v2, directory)))
    }

    /// Writes it.
    pub(super) fn write(&self, cgroup: &Cgroup) -> Result<(), Refusal> {
        let Some((form, directory)) = self.place(cgroup) else { return Err(Refusal::Nowhere) };
        let files = match form {
            Form::Given => return Ok(()),
            Form::Impossible(why) => return Err(Refusal::Impossible(why.clone())),
            Form::Files(files) => files,
        };
        let refusal = match write_first(directory, files) {
            Err(refusal) if refusal.is_absent() && directory.is_unified() => {
                enable(&self.controller, directory);
                match write_first(directory, files) {
                    Err(refusal) if refusal.is_absent() && !self.is_enabled(directory) => {
                        return if self.optional { Ok(()) } else { Err(Refusal::Nowhere) };
                    }
                    written => written.err(),
                }
            }
            written => written.err(),
        };
        match refusal {
            None => Ok(()),
            Some(refusal) if self.optional && refusal.is_absent() => Ok(()),
            Some(refusal) => Err(refusal),
        }
    }

    fn is_enabled(&self, directory: &Directory) -> bool {
        let enabled = files::read(&directory.path.join("cgroup.controllers")).unwrap_or_default();
        self.controller == "cgroup"
            || enabled.split_ascii_whitespace().any(|name| name == self.controller)
    }

    /// The error if there is no such controller.
    pub(super) fn nowhere(&self) -> Error {
        let Self { field, controller, .. } = self;
        anyhow!(
            "/linux/resources/{field}: no {controller} controller in a cgroup that we may write \
             (cure: run as root, or on cgroup v2 have it delegated: the line \
             \"Delegate={controller}\" below [Service] in \
             /etc/systemd/system/user@.service.d/delegate.conf, then \
             systemd-run --user --scope -p Delegate=yes; or leave the limit out)"
        )
    }
}

impl Refusal {
    /// A file that cannot be made shows itself either way, depending on the mount.
    fn is_absent(&self) -> bool {
        let Self::Kernel { errno, .. } = self else { return false };
        matches!(errno, Errno::ENOENT | Errno::EACCES | Errno::EPERM)
    }
}

/// Writes to the first of `files` that is there.
fn write_first(
    directory: &Directory,
    files: &[(Cow<'static, str>, String)],
) -> Result<(), Refusal> {
    let mut refusal = Refusal::Nowhere;
    for (file, text) in files {
        match write_lines(directory, file, text) {
            Ok(()) => return Ok(()),
            Err(error) => {
                let (file, text) = (file.to_string(), text.clone());
                let errno = errno_of(&error);
                refusal = Refusal::Kernel { file, text, errno };
                if errno != Errno::ENOENT {
                    break;
                }
            }
        }
    }
    Err(refusal)
}

/// The kernel takes one line a write; most texts are one.
fn write_lines(directory: &Directory, file: &str, text: &str) -> io::Result<()> {
    let mut opened = OpenOptions::new().write(true).open(directory.path.join(file))?;
    text.lines().try_for_each(|line| opened.write_all(line.as_bytes()))
}

/// Hands `controller` down from the root to the cgroup's parent. Ancestors that are not ours refuse and
/// mostly have it on already; whether it arrived is seen by who needs it.
fn enable(controller: &str, directory: &Directory) {
    let inside = |path: &&std::path::Path| path.starts_with(&directory.mount);
    let mut parents = directory.path.ancestors().skip(1).take_while(inside).collect::<Vec<_>>();
    parents.reverse();
    for parent in parents {
        if let Err(error) =
            files::write(&parent.join("cgroup.subtree_control"), &format!("+{controller}"))
        {
            log::debug!("enable {controller} in {}: {error}", parent.display());
        }
    }
}
