//! The command called by the name of fuse-overlayfs, as engines call it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{Sandbox, is_root, rrun_binary};

/// A user who owns nothing, and is known to the system.
const NOBODY: u32 = 65_534;

/// Layers, and a link to the command by the other's name.
struct Stage {
    sandbox: Sandbox,
    program: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        for name in ["a:b", "low", "upper", "work", "merged"] {
            fs::create_dir(sandbox.join(name)).unwrap();
        }
        fs::write(sandbox.join("a:b/top"), "top").unwrap();
        fs::create_dir(sandbox.join("low/d")).unwrap();
        fs::write(sandbox.join("low/d/f"), "below").unwrap();
        let program = sandbox.join("fuse-overlayfs");
        symlink(rrun_binary(), &program).unwrap();
        Self { sandbox, program }
    }

    /// Mounts in a user namespace with these options, then runs `script` there, with the tree in `$PWD`.
    fn inside(&self, options: &str, script: &str) -> Output {
        let script = format!(
            "{} -o '{options}' merged || exit; cd merged; {script}; cd ..; umount merged",
            self.program.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command.current_dir(self.sandbox.path()).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn engines_mount_by_relative_paths_and_odd_names() {
    let stage = Stage::new();
    let options = r"lowerdir=a\:b:low,upperdir=upper,workdir=work,volatile,xino=auto";
    let output = stage.inside(options, "cat top d/f; echo new >d/new; ls d");
    assert_eq!(ok(&output), "topbelowf\nnew\n");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(fs::read_to_string(stage.sandbox.join("upper/d/new")).unwrap(), "new\n");
    assert!(!stage.sandbox.join("low/d/new").exists());
}

#[test]
fn without_an_upper_directory_nobody_writes() {
    let stage = Stage::new();
    let output = stage.inside("lowerdir=low", "cat d/f; echo x 2>&1 >d/f");
    assert!(ok(&output).contains("Read-only file system"), "{output:?}");
}

#[test]
fn what_is_unknown_is_named_and_ignored() {
    let stage = Stage::new();
    let output = stage.inside("lowerdir=low,lazytime", "cat d/f");
    assert_eq!(ok(&output), "below");
    assert_eq!(text(&output.stderr), "rrun: warning: unknown argument ignored: lazytime\n");
    let strict = Command::new(rrun_binary())
        .args(["overlay", "-o", "lowerdir=/usr,lazytime", "/mnt"])
        .output()
        .unwrap();
    assert!(text(&strict.stderr).contains("unknown option \"lazytime\""), "{strict:?}");
}

#[test]
fn directories_of_lower_layers_stay_where_they_are() {
    let stage = Stage::new();
    let options = "lowerdir=low,upperdir=upper,workdir=work";
    let rename = "perl -e 'rename(\"d\", \"e\") or print $!'";
    assert_eq!(ok(&stage.inside(options, rename)), "Invalid cross-device link");
    let more = format!("{options},redirect_dir=on");
    assert_eq!(ok(&stage.inside(&more, &format!("{rename}; cat e/f"))), "below");
}

#[test]
fn options_show_other_owners() {
    let stage = Stage::new();
    let look = "stat -c '%u %g %h' d";
    let squashed = "lowerdir=low,squash_to_uid=0,squash_to_gid=0,static_nlink";
    assert_eq!(ok(&stage.inside(squashed, look)), "0 0 1\n");
    let mapped = "lowerdir=low,uidmapping=0:65534:1,gidmapping=0:65534:1";
    assert!(ok(&stage.inside(mapped, look)).starts_with("65534 65534 "));
}

#[test]
fn it_tells_its_version_and_options() {
    let stage = Stage::new();
    let run = |flag: &str| ok(&Command::new(&stage.program).arg(flag).output().unwrap());
    for flag in ["--version", "-V"] {
        assert!(run(flag).starts_with("fuse-overlayfs: version "));
    }
    for flag in ["--help", "-h"] {
        let help = run(flag);
        assert!(help.starts_with("usage: fuse-overlayfs [options] <mountpoint>"));
        assert!(help.contains("lowerdir=") && help.contains("squash_to_root"));
    }
    let nothing = Command::new(&stage.program).args(["-o", "lowerdir=/usr"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text(&nothing.stderr).ends_with("no mountpoint specified\n"), "{nothing:?}");
}

#[test]
fn in_the_foreground_it_serves_until_unmounted() {
    let stage = Stage::new();
    let script = format!(
        "{} -f -o lowerdir=low merged & server=$!
         until test -e merged/d; do kill -0 $server || exit; done
         cat merged/d/f; umount merged; wait $server",
        stage.program.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let output = command.current_dir(stage.sandbox.path()).output().unwrap();
    assert_eq!(ok(&output), "below");
}

/// Outside of any user namespace of his own a user mounts through fusermount3.
#[test]
fn fusermount3_mounts_where_there_is_no_namespace() {
    let stage = Stage::new();
    let top = stage.sandbox.path();
    if is_root() {
        fs::set_permissions(top, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["upper", "work", "merged"] {
            chown(top.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let as_user = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        if is_root() {
            command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
        }
        command.args(arguments).current_dir(top).output().unwrap()
    };
    let options = "lowerdir=low,upperdir=upper,workdir=work";
    ok(&as_user(&stage.program, &["-o", options, "merged"]));
    let script = "cat merged/d/f; echo new >merged/new; stat -f -c %T merged";
    assert_eq!(ok(&as_user(Path::new("sh"), &["-c", script])), "belowfuseblk\n");
    ok(&as_user(Path::new("fusermount3"), &["-u", "merged"]));
    assert_eq!(fs::read_to_string(top.join("upper/new")).unwrap(), "new\n");
    // Not a directory of the user's.
    let refused = as_user(&stage.program, &["-o", "lowerdir=low", "/usr"]);
    assert!(text(&refused.stderr).contains("fusermount3"), "{refused:?}");
}
