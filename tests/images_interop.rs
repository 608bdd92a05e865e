//! Images of others, and ours with others: skopeo, umoci, podman and buildah.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::image::{Layer, Layout};
use crate::common::{Outcome, Sandbox, needs, outcome};

fn needs_program(name: &str) {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|directory| directory.join(name).exists());
    needs(found, name, &format!("apt install {name}"));
}

fn run(sandbox: &Sandbox, program: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    command.args(args).current_dir(sandbox.path());
    outcome::spawn(&mut command).wait()
}

fn two_layers(sandbox: &Sandbox) -> Layout {
    let lower =
        Layer::default().directory("etc/", 0o755).file("etc/a", "lower").file("b", "").finish();
    let upper = Layer::default().file("etc/a", "upper").file(".wh.b", "").finish();
    Layout::new(sandbox.join("layout"), "quay.io/ada/tool:1", &[lower, upper])
}

/// Takes every image away, so that the next load does all the work.
fn empty(sandbox: &Sandbox) {
    sandbox.rrun(&["image", "rm", "--all"]).ok();
}

fn names(sandbox: &Sandbox) -> String {
    let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
    sandbox.rrun(&["images", "--no-trunc", "--format", format]).ok().line().to_owned()
}

#[test]
fn archives_of_skopeo_are_loaded() {
    needs_program("skopeo");
    let sandbox = Sandbox::new();
    let layout = two_layers(&sandbox);
    let from = "oci:layout:quay.io/ada/tool:1";
    for (to, compress) in [
        ("docker-archive:d.tar:quay.io/ada/tool:1", None),
        ("oci-archive:o.tar:quay.io/ada/tool:1", None),
        ("oci:other:quay.io/ada/tool:1", None),
        ("docker-archive:z.tar:quay.io/ada/tool:1", Some("gzip")),
        ("oci-archive:y.tar:quay.io/ada/tool:1", Some("zstd")),
    ] {
        run(&sandbox, "skopeo", &["--insecure-policy", "copy", "-q", from, to]).ok();
        let mut file = to.split(':').nth(1).unwrap().to_owned();
        if let Some(program) = compress {
            run(&sandbox, program, &["-q", "-k", &file]).ok();
            file += if program == "gzip" { ".gz" } else { ".zst" };
        }
        let path = sandbox.join(&file);
        sandbox.rrun(&["image", "load", "-i", path.to_str().unwrap()]).ok();
        assert_eq!(names(&sandbox), format!("quay.io/ada/tool:1 {}", layout.id), "{to}");
        assert_eq!(
            fs::read_to_string(layout.unpacked(&sandbox, 1).join("etc/a")).unwrap(),
            "upper"
        );
        empty(&sandbox);
    }
}

#[test]
fn skopeo_and_umoci_read_what_we_write() {
    needs_program("skopeo");
    needs_program("umoci");
    let sandbox = Sandbox::new();
    let layout = two_layers(&sandbox);
    sandbox.rrun(&["image", "load", "-i", layout.as_str()]).ok();
    sandbox.rrun(&["image", "tag", "quay.io/ada/tool:1", "tool:2"]).ok();
    for (format, transport, file) in [
        ("docker-archive", "docker-archive", "d.tar"),
        ("oci-archive", "oci-archive", "o.tar"),
        ("oci-dir", "oci", "directory"),
    ] {
        let path = sandbox.join(file);
        let path = path.to_str().unwrap();
        sandbox.rrun(&["image", "save", "--format", format, "-o", path, "tool:2"]).ok();
        let name = if format == "docker-archive" { "tool:2" } else { "docker.io/library/tool:2" };
        let source = format!("{transport}:{path}:{name}");
        let config = run(&sandbox, "skopeo", &["inspect", "--config", &source]).ok();
        let config: Value = serde_json::from_str(&config.stdout).unwrap();
        assert_eq!(config["config"]["Labels"]["color"], "blue", "{format}");
        let target = format!("dir:copy-{format}");
        run(&sandbox, "skopeo", &["--insecure-policy", "copy", "-q", &source, &target]).ok();
    }
    let image = format!("{}:docker.io/library/tool:2", sandbox.data().join("images").display());
    run(&sandbox, "umoci", &["unpack", "--rootless", "--image", &image, "unpacked"]).ok();
    let root = sandbox.join("unpacked/rootfs");
    assert_eq!(fs::read_to_string(root.join("etc/a")).unwrap(), "upper");
    assert!(!root.join("b").exists());
}

/// Others write into the layout that is our store: the image is there, and unpacked when it is needed.
#[test]
fn others_may_write_into_the_store() {
    needs_program("skopeo");
    let sandbox = Sandbox::new();
    let layout = two_layers(&sandbox);
    sandbox.rrun(&["images"]).ok();
    let target =
        format!("oci:{}:docker.io/library/mine:1", sandbox.data().join("images").display());
    let from = "oci:layout:quay.io/ada/tool:1";
    run(&sandbox, "skopeo", &["--insecure-policy", "copy", "-q", from, &target]).ok();
    assert_eq!(names(&sandbox), format!("mine:1 {}", layout.id));
}

#[test]
fn saving_and_loading_keep_the_image() {
    let sandbox = Sandbox::new();
    let layout = two_layers(&sandbox);
    sandbox.rrun(&["image", "load", "-i", layout.as_str()]).ok();
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let path = sandbox.join(format);
        let path = path.to_str().unwrap();
        sandbox.rrun(&["image", "save", "--format", format, "-o", path, "quay.io/ada/tool:1"]).ok();
        let again = sandbox.join(format!("again-{format}"));
        let save = ["image", "save", "--format", format, "-o", again.to_str().unwrap()];
        sandbox.rrun(&[&save[..], &["quay.io/ada/tool:1"]].concat()).ok();
        if Path::new(path).is_file() {
            assert_eq!(fs::read(path).unwrap(), fs::read(&again).unwrap(), "{format}");
        }
        empty(&sandbox);
        let loaded = sandbox.rrun(&["image", "load", "-i", path]).ok();
        assert_eq!(loaded.line(), "Loaded image: quay.io/ada/tool:1", "{format}");
        assert_eq!(names(&sandbox), format!("quay.io/ada/tool:1 {}", layout.id), "{format}");
    }
    let failed = sandbox.rrun(&["image", "save", "-o", "/nonexistent/x", layout.id.short()]);
    failed.complains_of(&["save", "/nonexistent/x", "No such file"]);
    let twice = sandbox.join("oci-dir");
    let save = ["image", "save", "--format", "oci-dir", "-o", twice.to_str().unwrap()];
    sandbox.rrun(&[&save[..], &[layout.id.short()]].concat()).complains_of(&["is not empty"]);
}

/// podman keeps its images in a place of the test's own.
#[test]
fn podman_and_we_load_what_the_other_saves() {
    needs_program("podman");
    let sandbox = Sandbox::new();
    let layout = two_layers(&sandbox);
    let root = sandbox.join("podman");
    // podman refuses one of more than fifty characters.
    let run_root = tempfile::Builder::new().prefix("t").tempdir_in("/tmp").unwrap();
    let run_root = run_root.path().to_str().unwrap();
    let podman = |args: &[&str]| {
        let place = ["--root", root.to_str().unwrap(), "--runroot", run_root];
        run(&sandbox, "podman", &[&place[..], &["--storage-driver", "vfs"], args].concat())
    };
    sandbox.rrun(&["image", "load", "-i", layout.as_str()]).ok();
    for format in ["docker-archive", "oci-archive"] {
        let ours = sandbox.join(format!("ours-{format}"));
        let ours = ours.to_str().unwrap();
        sandbox.rrun(&["image", "save", "--format", format, "-o", ours, "quay.io/ada/tool:1"]).ok();
        podman(&["load", "-q", "-i", ours]).ok();
        let id = podman(&["images", "-q", "--no-trunc"]).ok();
        assert_eq!(id.line(), layout.id.to_string(), "{format}");
        let theirs = sandbox.join(format!("theirs-{format}"));
        let theirs = theirs.to_str().unwrap();
        podman(&["save", "-q", "--format", format, "-o", theirs, "quay.io/ada/tool:1"]).ok();
        empty(&sandbox);
        sandbox.rrun(&["image", "load", "-i", theirs]).ok();
        assert_eq!(names(&sandbox), format!("quay.io/ada/tool:1 {}", layout.id), "{format}");
        podman(&["rmi", "-f", "quay.io/ada/tool:1"]).ok();
    }
}
