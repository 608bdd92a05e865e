//! What the kernel's security modules call a program: its AppArmor profile, its SELinux label.
//!
//! Both are said before exec, to take effect with it, by writing to files of the process's own in
//! procfs: in the host's, since a container could mount something else where it expects us to write.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use rrun_spec::oci::Process;

use crate::host::SecurityModules;
use crate::procfs::{Own, Procfs};

/// The labels of a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// `process.apparmorProfile`
    apparmor: Option<String>,
    /// `process.selinuxLabel`
    selinux: Option<String>,
}

impl Labels {
    /// What `process` asks for.
    ///
    /// # Errors
    ///
    /// A label of a module that is not there, with its JSON pointer.
    pub fn plan(process: &Process, probe: impl FnOnce() -> SecurityModules) -> Result<Self> {
        let labels = Self {
            apparmor: given(process.apparmor_profile().as_deref()),
            selinux: given(process.selinux_label().as_deref()),
        };
        if labels.is_empty() {
            return Ok(labels);
        }
        let modules = probe();
        ensure!(
            modules.apparmor || labels.apparmor.is_none(),
            "/process/apparmorProfile: AppArmor is not enabled on this machine: remove the profile, \
             or boot with apparmor=1 security=apparmor"
        );
        if labels.selinux.is_some() {
            require_selinux("/process/selinuxLabel", modules)?;
        }
        Ok(labels)
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apparmor.is_none() && self.selinux.is_none()
    }

    /// Opens the files for it, in the process that is to be labelled, which still has the caller's
    /// `/proc`.
    ///
    /// # Errors
    ///
    /// No procfs, or a kernel without these files.
    pub fn open_here(&self) -> Result<Opened> {
        if self.is_empty() { Ok(Opened::default()) } else { self.open(&Procfs::of_caller()?) }
    }

    /// Opens the files for it, in the process that is to be labelled.
    ///
    /// # Errors
    ///
    /// A kernel without these files.
    pub fn open(&self, procfs: &Procfs) -> Result<Opened> {
        let apparmor = self.apparmor.as_ref().map(|profile| {
            // Where several modules share attr/exec, AppArmor has one of its own (Linux 5.1).
            let file = match procfs.open_own("attr/apparmor/exec") {
                Err(Errno::ENOENT) => procfs.open_own("attr/exec"),
                opened => opened,
            };
            let what = format!("/process/apparmorProfile: apply profile {profile:?}");
            Ok(Label { file: file.context(what.clone())?, text: format!("exec {profile}"), what })
        });
        let selinux = self.selinux.as_ref().map(|label| {
            let what = format!("/process/selinuxLabel: apply label {label:?}");
            let file = procfs.open_own("attr/exec").context(what.clone())?;
            Ok(Label { file, text: label.clone(), what })
        });
        let labels: Result<Vec<Label>> = apparmor.into_iter().chain(selinux).collect();
        Ok(Opened(labels?))
    }

    /// Makes the keyrings of this process carry its label too, as runc does; `join` makes one.
    ///
    /// # Errors
    ///
    /// What `join` says, or a label that SELinux does not know.
    pub fn while_labelling_keys(&self, join: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(label) = &self.selinux else { return join() };
        let what = || format!("/process/selinuxLabel: label the session keyring {label:?}");
        let file = Procfs::of_caller()?.open_own("attr/keycreate").with_context(what)?;
        file.write(label.as_bytes()).with_context(what)?;
        join()?;
        // Keys that the program makes get what the policy says.
        file.write(b"\n").with_context(what)
    }
}

/// The labels of a process, ready to be written by it.
#[derive(Debug, Default)]
pub struct Opened(Vec<Label>);

#[derive(Debug)]
struct Label {
    file: Own,
    text: String,
    what: String,
}

impl Opened {
    /// The files that must stay open until then.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|label| label.file.as_fd())
    }

    /// Says what exec is to label the process.
    ///
    /// # Errors
    ///
    /// A profile or label that the module does not know or does not allow.
    pub fn apply(&self) -> Result<()> {
        self.0.iter().try_for_each(|label| {
            label.file.write(label.text.as_bytes()).with_context(|| label.what.clone())
        })
    }
}

/// Makes sure that SELinux is there, since something is to be labelled for it.
///
/// # Errors
///
/// That it is not, with the JSON pointer.
pub fn require_selinux(pointer: &str, modules: SecurityModules) -> Result<()> {
    ensure!(
        modules.selinux,
        "{pointer}: SELinux is not enabled on this machine: remove the label, or boot with selinux=1"
    );
    Ok(())
}

fn given(label: Option<&str>) -> Option<String> {
    label.filter(|label| !label.is_empty()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn planned(process: &serde_json::Value, modules: SecurityModules) -> Result<Labels> {
        let mut whole = json!({"cwd": "/", "user": {}});
        whole.as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        Labels::plan(&serde_json::from_value(whole).unwrap(), || modules)
    }

    #[test]
    fn a_label_needs_its_module() {
        let all = SecurityModules { apparmor: true, selinux: true };
        for (field, value) in [("apparmorProfile", "docker-default"), ("selinuxLabel", "a:b:c")] {
            let process = json!({field: value});
            assert!(!planned(&process, all).unwrap().is_empty());
            let error = planned(&process, SecurityModules::default()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/process/{field}: ")), "{error}");
            assert!(error.contains("is not enabled on this machine"), "{error}");
            let empty = planned(&json!({field: ""}), SecurityModules::default()).unwrap();
            assert!(empty.is_empty());
        }
    }

    #[test]
    fn what_is_written_is_what_the_modules_read() {
        let all = SecurityModules { apparmor: true, selinux: true };
        let process = json!({"apparmorProfile": "web", "selinuxLabel": "u:r:t:s0"});
        let labels = planned(&process, all).unwrap();
        let opened = labels.open(&Procfs::of_caller().unwrap()).unwrap();
        let texts: Vec<_> = opened.0.iter().map(|label| label.text.as_str()).collect();
        assert_eq!(texts, ["exec web", "u:r:t:s0"]);
        assert_eq!(opened.descriptors().count(), 2, "what exec must leave open until then");
    }

    #[test]
    fn a_label_that_nobody_knows_is_refused_by_name() {
        // No module of this machine, or none that knows this profile.
        let all = SecurityModules { apparmor: true, selinux: true };
        let labels = planned(&json!({"apparmorProfile": "rrun-no-such-profile"}), all).unwrap();
        let opened = labels.open(&Procfs::of_caller().unwrap()).unwrap();
        let error = format!("{:#}", opened.apply().unwrap_err());
        assert!(error.starts_with("/process/apparmorProfile: apply profile"), "{error}");
    }
}
