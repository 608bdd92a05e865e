//! Images that somebody made to harm: refused or contained, and nothing of them is left.

use std::fs;
use std::path::Path;

use serde_json::json;
use tar_core::EntryType;

use crate::common::image::{Described, Layer, Layout, put};
use crate::common::{Sandbox, eventually, leftovers};

/// A sandbox, and a directory beside the store that nothing may get into.
fn watched() -> (Sandbox, std::path::PathBuf) {
    let sandbox = Sandbox::new();
    let canary = sandbox.directory("canary");
    fs::write(canary.join("file"), "untouched").unwrap();
    (sandbox, canary)
}

#[track_caller]
fn assert_untouched(canary: &Path) {
    assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(canary).unwrap().count(), 1);
}

#[track_caller]
fn refused(sandbox: &Sandbox, layout: &Layout, causes: &[&str]) {
    sandbox.rrun(&["image", "load", "-i", layout.as_str()]).complains_of(causes);
    assert_eq!(sandbox.rrun(&["images", "-q"]).ok().stdout, "");
    eventually("nothing is left", || {
        leftovers::reap();
        ["incoming", "trash", "layers"]
            .iter()
            .all(|name| fs::read_dir(sandbox.data().join(name)).unwrap().next().is_none())
    });
}

/// Layers with an entry that leads outside, to `canary` for one, and why each is refused.
fn leading_outside(canary: &Path) -> Vec<(&'static str, Layer, &'static str)> {
    let nul = Described { pax: &[("path", b"a\0b")], ..Described::default() };
    let file = format!("{}/file", canary.display());
    let outside = format!("{}/planted", canary.display());
    let ups = "../".repeat(20);
    let link = |target: &str, path: &str| {
        Layer::default().link(EntryType::Symlink, "link", target).file(path, "planted")
    };
    vec![
        ("up", Layer::default().file(&format!("{ups}{outside}"), ""), "leads out"),
        ("directory", Layer::default().directory("a/..", 0o777), "leads out"),
        ("whiteout", Layer::default().file("../.wh.file", ""), "leads out"),
        (
            "hard link up",
            Layer::default().link(EntryType::Link, "a", &format!("{ups}{file}")),
            "leads out",
        ),
        ("hard link", Layer::default().link(EntryType::Link, "a", &file), "this layer lacks"),
        (
            "hard link through a link",
            link(canary.to_str().unwrap(), "x").link(EntryType::Link, "a", "link/file"),
            "this layer lacks",
        ),
        ("through a link", link(canary.to_str().unwrap(), "link/planted"), "leads to no directory"),
        (
            "through a link up",
            link(&format!("{ups}nowhere"), "link/planted"),
            "leads to no directory",
        ),
        ("through itself", link("link", "link/planted"), "link"),
        ("through a file", Layer::default().file("f", "").file("f/x", ""), "is no directory"),
        (
            "the root",
            Layer::default().link(EntryType::Symlink, "./", "/"),
            "cannot be anything else",
        ),
        ("nul", Layer::default().entry("x", &nul), "NUL"),
        ("too long", Layer::default().file(&"n".repeat(300), ""), "ENAMETOOLONG"),
    ]
}

#[test]
fn entries_that_lead_outside_are_refused() {
    let (sandbox, canary) = watched();
    for (name, layer, cause) in leading_outside(&canary) {
        let layout = Layout::new(sandbox.join(format!("layout {name}")), "bad", &[layer.finish()]);
        refused(&sandbox, &layout, &[cause]);
        assert_untouched(&canary);
    }
}

#[test]
fn links_lead_where_they_would_inside() {
    let (sandbox, canary) = watched();
    let layer = Layer::default()
        .directory("real/", 0o755)
        .link(EntryType::Symlink, "absolute", "/real")
        .link(EntryType::Symlink, "up", "../../../../real")
        .file("absolute/one", "1")
        .file("up/two", "2")
        .file("/rooted", "3")
        .link(EntryType::Symlink, "over", canary.to_str().unwrap())
        .file("over", "a file takes the link's place")
        .link(EntryType::Symlink, "folder", canary.to_str().unwrap())
        .directory("folder/", 0o755)
        .file("folder/inside", "4")
        .directory("gone/deep/", 0o755)
        .file("gone/deep/x", "")
        .file("gone", "a file takes the directory's place")
        .finish();
    let layout = Layout::new(sandbox.join("layout"), "links", &[layer]);
    sandbox.rrun(&["image", "load", "-i", layout.as_str()]).ok();
    let root = layout.unpacked(&sandbox, 0);
    for (path, content) in [
        ("real/one", "1"),
        ("real/two", "2"),
        ("rooted", "3"),
        ("over", "a file takes the link's place"),
        ("folder/inside", "4"),
        ("gone", "a file takes the directory's place"),
    ] {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), content, "{path}");
        assert!(fs::symlink_metadata(root.join(path)).unwrap().is_file(), "{path}");
    }
    assert_untouched(&canary);
}

#[test]
fn marks_of_the_overlay_cannot_be_planted() {
    let sandbox = Sandbox::new();
    let zero = Described { kind: EntryType::Char, ..Described::default() };
    let layout =
        Layout::new(sandbox.join("device"), "bad", &[Layer::default().entry("x", &zero).finish()]);
    refused(&sandbox, &layout, &["device 0:0"]);
    let whiteout = Layer::default().file(".wh.x", "").link(EntryType::Link, "y", "x").finish();
    refused(
        &sandbox,
        &Layout::new(sandbox.join("link"), "bad", &[whiteout]),
        &["this layer lacks"],
    );
}

#[test]
fn broken_archives_are_refused() {
    let sandbox = Sandbox::new();
    let good = Layer::default().file("a", &"x".repeat(5000)).finish();
    let endless = Described { pax: &[("comment", &[b'x'; 2 << 20])], ..Described::default() };
    let window = {
        use std::io::Write;
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&good).unwrap();
        encoder.finish().unwrap()
    };
    for (name, blob, cause) in [
        ("cut", good[..2000].to_vec(), "ends in the middle"),
        ("noise", vec![7; 4096], "broken tar archive"),
        ("names", Layer::default().entry("a", &endless).finish(), "broken tar archive"),
        ("gzip", b"\x1f\x8b\x08\0broken".to_vec(), "layer"),
        ("zstd", b"\x28\xb5\x2f\xfdbroken".to_vec(), "layer"),
        ("xz", b"\xfd7zXZ\0........".to_vec(), "compressed with xz"),
        ("window", window, "layer"),
        (
            "socket",
            Layer::default()
                .entry("s", &Described { kind: EntryType::Other(b's'), ..Described::default() })
                .finish(),
            "belongs to no image layer",
        ),
    ] {
        let layout = Layout::compressed(sandbox.join(name), "bad", &[(blob, good.clone())]);
        refused(&sandbox, &layout, &[cause]);
    }
    let other = Layer::default().file("b", "").finish();
    let layout = Layout::compressed(sandbox.join("other"), "bad", &[(other, good)]);
    refused(&sandbox, &layout, &["it holds sha256:", "the configuration says"]);
}

#[test]
fn layouts_that_lie_are_refused() {
    let sandbox = Sandbox::new();
    let layer = Layer::default().file("a", "content").finish();
    let make = |name: &str| Layout::new(sandbox.join(name), "bad", std::slice::from_ref(&layer));
    let blob = |layout: &Layout, content: &[u8]| {
        layout.path.join("blobs/sha256").join(rrun::image::digest::Digest::of(content).hex())
    };
    let changed = make("changed");
    fs::write(blob(&changed, &layer), [&layer[..layer.len() - 1], b"x"].concat()).unwrap();
    refused(&sandbox, &changed, &["is damaged"]);
    let longer = make("longer");
    fs::write(blob(&longer, &layer), [&layer[..], b"x"].concat()).unwrap();
    refused(&sandbox, &longer, &["is damaged"]);
    let link = make("link");
    fs::remove_file(blob(&link, &layer)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", blob(&link, &layer)).unwrap();
    refused(&sandbox, &link, &["blob sha256:", "open"]);
    let missing = make("missing");
    fs::remove_file(blob(&missing, &layer)).unwrap();
    refused(&sandbox, &missing, &["blob sha256:", "ENOENT"]);
    let fifo = make("fifo");
    fs::remove_file(fifo.path.join("index.json")).unwrap();
    nix::unistd::mkfifo(&fifo.path.join("index.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&sandbox, &fifo, &["neither index.json nor manifest.json"]);
}

#[test]
fn documents_that_lie_are_refused() {
    let sandbox = Sandbox::new();
    let layer = Layer::default().file("a", "").finish();
    for (name, change, cause) in [
        ("digest", json!("sha256:../../../etc/passwd"), "index.json"),
        ("upper", json!(format!("sha256:{}", "A".repeat(64))), "index.json"),
        ("unknown", json!(format!("md5:{}", "a".repeat(32))), "md5"),
    ] {
        let layout = Layout::new(sandbox.join(name), "bad", std::slice::from_ref(&layer));
        layout.edit(|index| index["manifests"][0]["digest"] = change);
        refused(&sandbox, &layout, &[cause]);
    }
    let layout = Layout::new(sandbox.join("both"), "bad", std::slice::from_ref(&layer));
    let both = json!({
        "schemaVersion": 2, "manifests": [],
        "config": put(&layout.path, b"{}", "application/vnd.oci.image.config.v1+json"), "layers": [],
    });
    let entry = put(
        &layout.path,
        both.to_string().as_bytes(),
        "application/vnd.oci.image.manifest.v1+json",
    );
    layout.edit(|index| index["manifests"][0] = entry);
    refused(&sandbox, &layout, &["two things"]);
    let layout = Layout::new(sandbox.join("long"), "bad", &[layer]);
    let long = vec![b' '; 5 << 20];
    let entry = put(&layout.path, &long, "application/vnd.oci.image.manifest.v1+json");
    layout.edit(|index| index["manifests"][0] = entry);
    refused(&sandbox, &layout, &["too long"]);
}

/// A terabyte of nothing takes no room, and a name for it no memory.
#[test]
fn files_of_zeros_take_no_room() {
    let sandbox = Sandbox::new();
    let sparse = Described {
        pax: &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"huge"),
            ("GNU.sparse.realsize", b"1099511627776"),
        ],
        content: &{
            let mut map = b"1\n0\n0\n".to_vec();
            map.resize(512, 0);
            map
        },
        ..Described::default()
    };
    let layout = Layout::new(
        sandbox.join("layout"),
        "huge",
        &[Layer::default().entry("x", &sparse).finish()],
    );
    sandbox.rrun(&["image", "load", "-i", layout.as_str()]).ok();
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(layout.unpacked(&sandbox, 0).join("huge")).unwrap();
    assert_eq!((found.len(), found.blocks()), (1 << 40, 0));
}
