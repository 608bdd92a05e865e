//! A directory of its own for each test, with rrun's state and data, taken away with all in it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::outcome::{self, Running};
use super::{Bundle, Outcome, eventually, is_root, leftovers, rrun_binary, sys};

/// A place for one test: `--root`, `RRUN_DATA` and bundles lie in it, and nothing else is shared
/// with other tests but the cgroup tree, where [`Sandbox::id`] keeps the names apart.
///
/// Dropping it ends its containers and removes it, also when the test has panicked.
#[derive(Debug)]
pub(crate) struct Sandbox {
    directory: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        sys::adopt_orphans();
        let directory = tempfile::Builder::new().prefix("t").tempdir().unwrap();
        // Root's containers may be other users, who must reach their roots.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let sandbox = Self { directory };
        fs::create_dir(sandbox.root()).unwrap();
        sandbox
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in this place.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// The directory of rrun's runtime state.
    pub(crate) fn root(&self) -> PathBuf {
        self.join("run")
    }

    /// The directory of what rrun keeps.
    pub(crate) fn data(&self) -> PathBuf {
        self.join("data")
    }

    /// A container id that no other test has.
    pub(crate) fn id(&self, name: &str) -> String {
        let own = self.path().file_name().unwrap().to_str().unwrap();
        format!("{name}-{}", own.trim_start_matches('.'))
    }

    /// A new directory in this place.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A new bundle in this place whose program is `args`, with a root of busybox.
    pub(crate) fn bundle(&self, args: &[&str]) -> Bundle {
        let number = (0..).find(|number| !self.join(format!("bundle{number}")).exists()).unwrap();
        Bundle::new(self.directory(&format!("bundle{number}")), args)
    }

    /// `rrun`, with its state and data here and nothing on its standard input.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(rrun_binary());
        command.arg("--root").arg(self.root()).args(args);
        command.env("RRUN_DATA", self.data()).stdin(Stdio::null());
        command
    }

    /// Runs `rrun` to its end.
    pub(crate) fn rrun<S: AsRef<OsStr>>(&self, args: &[S]) -> Outcome {
        self.spawn(args).wait()
    }

    /// Starts `rrun`.
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        outcome::spawn(&mut self.command(args))
    }

    /// Runs the program of `bundle` in the foreground.
    pub(crate) fn run(&self, bundle: &Bundle) -> Outcome {
        self.rrun(&["run", "--bundle", bundle.as_str(), &self.id("run")])
    }

    /// What the shell `script` prints in a new container of `bundle`.
    #[track_caller]
    pub(crate) fn prints(&self, bundle: &Bundle, script: &str) -> String {
        bundle.edit(|config| config["process"]["args"] = serde_json::json!(["sh", "-c", script]));
        self.run(bundle).ok().line().to_owned()
    }

    /// Creates and starts a container of `bundle`; its id.
    #[track_caller]
    pub(crate) fn start(&self, bundle: &Bundle, name: &str) -> String {
        let id = self.id(name);
        self.rrun(&["create", "--bundle", bundle.as_str(), &id]).ok();
        self.rrun(&["start", &id]).ok();
        id
    }

    /// What `rrun state` says of a container.
    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.rrun(&["state", id]).ok().stdout).unwrap()
    }

    /// Pauses a container; false where its user may make no cgroup that could be frozen, and is told so.
    #[track_caller]
    pub(crate) fn pauses(&self, id: &str) -> bool {
        let outcome = self.rrun(&["pause", id]);
        if outcome.code == 0 {
            return true;
        }
        assert!(!is_root(), "{outcome}");
        outcome.complains_of(&["pause", "cgroup", "cure"]);
        false
    }

    /// Waits until the container has stopped, as an engine does: reaping what was left to us.
    /// (The first process of a pid namespace cannot end while a dead one in it is not reaped.)
    #[track_caller]
    pub(crate) fn wait_until_stopped(&self, id: &str) {
        eventually("the container stops", || {
            leftovers::reap();
            self.state(id)["status"] == "stopped"
        });
    }

    /// Kills a container and deletes it.
    #[track_caller]
    pub(crate) fn remove(&self, id: &str) {
        self.rrun(&["kill", id, "KILL"]).ok();
        self.wait_until_stopped(id);
        self.rrun(&["delete", id]).ok();
    }

    /// Fails the test if a process, mount, cgroup or runtime file of a container is left.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let left = leftovers::find(self.path(), &self.root());
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for id in leftovers::entries(&self.root()) {
            let _best_effort =
                self.command(&["delete", "--force", &id]).stderr(Stdio::null()).status();
        }
        leftovers::end_children();
        remove_tree(self.path());
    }
}

/// Removes what may belong to the caller's subordinate ids as well.
fn remove_tree(path: &Path) {
    if fs::remove_dir_all(path).is_err() && !is_root() {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--map-auto", "rm", "-rf"]).arg(path);
        let _best_effort = command.stderr(Stdio::null()).status();
    }
}
