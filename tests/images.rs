//! Images: loaded, listed, named, saved, removed; what layers hold.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;
use tar_core::EntryType;

use crate::common::image::{Described, Layer, Layout, attribute};
use crate::common::outcome::Running;
use crate::common::{Sandbox, eventually, first_subordinate_uid, is_root, leftovers};

/// An ID that no machine's user has as a subordinate one.
const FAR: u64 = 4_000_000_000;

fn small(sandbox: &Sandbox, name: &str, content: &str) -> Layout {
    let layer = Layer::default().directory("etc/", 0o755).file("etc/name", content).finish();
    Layout::new(sandbox.join(format!("layout-{content}")), name, &[layer])
}

#[track_caller]
fn load(sandbox: &Sandbox, layout: &Layout) {
    let loaded = sandbox.rrun(&["image", "load", "-i", layout.as_str()]).ok();
    assert!(loaded.stderr.is_empty(), "{loaded}");
}

fn entries(path: &Path) -> Vec<String> {
    let all = fs::read_dir(path).into_iter().flatten();
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Whether nothing is half done or waits to be removed.
fn is_clean(sandbox: &Sandbox) -> bool {
    leftovers::reap();
    ["incoming", "trash"].iter().all(|name| entries(&sandbox.data().join(name)).is_empty())
}

#[test]
fn an_image_is_loaded_listed_named_and_removed() {
    let sandbox = Sandbox::new();
    let layout = small(&sandbox, "quay.io/ada/tool:1", "a");
    let loaded = sandbox.rrun(&["image", "load", "-i", layout.as_str()]).ok();
    assert_eq!(loaded.line(), "Loaded image: quay.io/ada/tool:1");
    let list = sandbox.rrun(&["images"]).ok();
    let lines: Vec<_> = list.stdout.lines().collect();
    assert!(lines[0].starts_with("REPOSITORY         TAG       IMAGE ID       CREATED"), "{list}");
    assert!(lines[1].starts_with("quay.io/ada/tool   1 "), "{list}");
    assert!(lines[1].contains(layout.id.short()) && lines[1].ends_with(" 1B"), "{list}");
    sandbox.rrun(&["image", "tag", layout.id.short(), "tool", "tool:2"]).ok();
    let names = sandbox.rrun(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    assert_eq!(names.line(), "tool:2\ntool:latest\nquay.io/ada/tool:1");
    sandbox.rrun(&["image", "rm", layout.id.short()]).complains_of(&["several names", "--force"]);
    let gone = sandbox.rrun(&["image", "rm", "tool"]).ok();
    assert_eq!(gone.line(), "Untagged: tool:latest");
    let gone =
        sandbox.rrun(&["image", "rm", "docker.io/library/tool:2", "quay.io/ada/tool:1"]).ok();
    let deleted = format!("Untagged: tool:2\nUntagged: quay.io/ada/tool:1\nDeleted: {}", layout.id);
    assert_eq!(gone.line(), deleted);
    assert_eq!(sandbox.rrun(&["images", "-q"]).ok().stdout, "");
    eventually("nothing is left", || {
        is_clean(&sandbox)
            && entries(&sandbox.data().join("layers")).is_empty()
            && entries(&sandbox.data().join("images/blobs/sha256")).is_empty()
    });
    sandbox.rrun(&["image", "rm", "tool"]).complains_of(&["rm tool", "no such image: tool"]);
    sandbox.rrun(&["image", "rm", "--force", "tool"]).ok();
}

#[test]
fn images_are_found_by_names_and_the_beginning_of_ids() {
    let sandbox = Sandbox::new();
    let layout = small(&sandbox, "tool", "a");
    load(&sandbox, &layout);
    let id = layout.id.as_str();
    for text in
        ["localhost/tool:latest", "tool", "localhost/tool", id, &id[7..], &id[7..12], &id[..20]]
    {
        let found = sandbox.rrun(&["image", "tag", text, "again"]);
        assert_eq!(found.code, 0, "{text}: {found}");
    }
    for text in ["tool:2", "docker.io/library/tool", "ffffffffffffffff", "", "localhost", "../x"] {
        sandbox.rrun(&["image", "tag", text, "again"]).complains_of(&["no such image"]);
    }
    sandbox.rrun(&["image", "tag", "tool", "Again"]).complains_of(&["lower-case"]);
}

#[test]
fn the_list_is_filtered_and_formatted() {
    let sandbox = Sandbox::new();
    for (name, content) in [("localhost/a:1", "a"), ("localhost/b:1", "b"), ("", "c")] {
        load(&sandbox, &small(&sandbox, name, content));
    }
    for (args, expected) in [
        (&["-f", "reference=localhost/a"][..], "localhost/a:1"),
        (&["-f", "reference=*/b:*"], "localhost/b:1"),
        (&["-f", "dangling=true"], "<none>:<none>"),
        (&["-f", "dangling=true", "-f", "label=color=red"], ""),
        (&["-f", "label=color=blue", "-f", "reference=localhost/a"], "localhost/a:1"),
        (&["-f", "until=2000-01-01T00:00:00Z"], ""),
        (&["a:1"], "localhost/a:1"),
        (&["localhost/b"], "localhost/b:1"),
        (&["nothing"], ""),
    ] {
        let mut all = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        all.extend(args);
        assert_eq!(sandbox.rrun(&all).ok().line(), expected, "{args:?}");
    }
    let rows = sandbox.rrun(&["image", "ls", "--format", "json", "--no-trunc"]).ok();
    let row: Value = serde_json::from_str(rows.stdout.lines().next().unwrap()).unwrap();
    assert!(row["ID"].as_str().unwrap().starts_with("sha256:"), "{row}");
    let heads = sandbox.rrun(&["images", "--digests", "--format", "table {{.ID}}\\t{{.Tag}}"]).ok();
    assert!(heads.stdout.starts_with("IMAGE ID       TAG\n"), "{heads}");
    sandbox.rrun(&["images", "-f", "colour=red"]).complains_of(&["invalid filter \"colour\""]);
    sandbox.rrun(&["images", "--format", "{{.Colour}}"]).complains_of(&["field Colour"]);
}

/// All that an archive can hold, in the order that is hardest: files before their directories.
fn everything() -> Layer {
    let long = format!("deep/{}/{}", "d".repeat(200), "f".repeat(200));
    let usual = Described::default();
    let set_id = Described { mode: 0o4755, content: b"run", ..usual.clone() };
    let modified = Described { pax: &[("mtime", b"981173106.25")], ..usual.clone() };
    let attributes = Described {
        pax: &[
            ("SCHILY.xattr.user.comment", b"two\nlines"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ],
        ..usual.clone()
    };
    let near = Described { owner: (1, 1), ..usual.clone() };
    let far = Described { owner: (FAR, FAR + 1), mode: 0o2750, ..usual.clone() };
    let device = Described { kind: EntryType::Char, device: (1, 3), mode: 0o666, ..usual };
    Layer::default()
        .file("first/file", "content")
        .directory("first/", 0o1777)
        .link(EntryType::Link, "second/hard", "first/file")
        .link(EntryType::Symlink, "second/soft", "../first/file")
        .file(&long, "long")
        .entry("set-id", &set_id)
        .entry("modified", &modified)
        .entry("attributes", &attributes)
        .entry("near", &near)
        .entry("far", &far)
        .entry("null", &device)
        .entry("fifo", &Described { kind: EntryType::Fifo, ..Described::default() })
        .file("second/.wh.gone", "")
        .file("second/.wh..wh..opq", "")
        .file("empty/.wh..wh.plnk", "")
        .file("zeros", &"\0".repeat(300_000))
}

#[test]
fn layers_keep_what_archives_hold() {
    let sandbox = Sandbox::new();
    let layout = Layout::new(sandbox.join("layout"), "all", &[everything().finish()]);
    load(&sandbox, &layout);
    let root = layout.unpacked(&sandbox, 0);
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(fs::read_to_string(root.join("first/file")).unwrap(), "content");
    assert_eq!(stat("first").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(stat("first").mtime(), 1_000_000_000);
    assert_eq!(stat("second/hard").ino(), stat("first/file").ino());
    assert_eq!(fs::read_link(root.join("second/soft")).unwrap(), Path::new("../first/file"));
    let long = format!("deep/{}/{}", "d".repeat(200), "f".repeat(200));
    assert_eq!(fs::read_to_string(root.join(long)).unwrap(), "long");
    assert_eq!(stat("set-id").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(
        (stat("modified").mtime(), stat("modified").mtime_nsec()),
        (981_173_106, 250_000_000)
    );
    assert_eq!(attribute(&root.join("attributes"), "user.comment").unwrap(), b"two\nlines");
    assert!(attribute(&root.join("attributes"), "security.capability").is_some());
    assert_eq!(attribute(&root.join("attributes"), "user.overlay.redirect"), None);
    assert!(stat("fifo").file_type().is_fifo());
    let gone = stat("second/gone");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(attribute(&root.join("second"), "user.overlay.opaque").unwrap(), b"y");
    assert!(entries(&root.join("empty")).is_empty());
    assert_eq!((stat("zeros").len(), stat("zeros").blocks()), (300_000, 0));
}

#[test]
fn owners_are_true_or_kept_in_an_attribute() {
    let sandbox = Sandbox::new();
    let layout = Layout::new(sandbox.join("layout"), "all", &[everything().finish()]);
    load(&sandbox, &layout);
    let root = layout.unpacked(&sandbox, 0);
    let owner = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().uid();
    let held = |name: &str| {
        let value = attribute(&root.join(name), "user.containers.override_stat")?;
        Some(String::from_utf8(value).unwrap())
    };
    if is_root() {
        assert_eq!((owner("near"), u64::from(owner("far"))), (1, FAR));
        assert_eq!(held("far"), None);
    } else {
        assert_eq!(owner("near"), first_subordinate_uid());
        assert_eq!(held("far").unwrap(), format!("{FAR}:{}:02750:file", FAR + 1));
        // Nobody becomes this group by running it.
        assert_eq!(fs::symlink_metadata(root.join("far")).unwrap().mode() & 0o7000, 0);
        assert!(held(".").is_some(), "the layer's root says that attributes count");
    }
    let null = fs::symlink_metadata(root.join("null")).unwrap();
    if null.file_type().is_char_device() {
        assert_eq!(null.rdev(), nix::sys::stat::makedev(1, 3));
    } else {
        assert_eq!(held("null").unwrap(), "0:0:0666:char-1-3");
    }
}

/// An archive may lack entries for directories; the topmost layer that has one says what it looks like.
#[test]
fn directories_without_an_entry_look_like_those_below() {
    let sandbox = Sandbox::new();
    let far = Described {
        kind: EntryType::Directory,
        owner: (7, 8),
        mode: 0o2755,
        ..Described::default()
    };
    let lower = Layer::default()
        .entry("./", &Described { kind: EntryType::Directory, mode: 0o711, ..Described::default() })
        .directory("tmp/", 0o1777)
        .entry("tmp/far/", &far)
        .directory("hidden/", 0o700)
        .finish();
    let middle = Layer::default().file(".wh.hidden", "").file("other", "").finish();
    let upper = Layer::default()
        .file("tmp/a", "")
        .file("tmp/far/deeper/b", "")
        .file("hidden/c", "")
        .finish();
    let layout = Layout::new(sandbox.join("layout"), "three", &[lower, middle, upper]);
    load(&sandbox, &layout);
    let [low, top] = [0, 2].map(|at| layout.unpacked(&sandbox, at));
    let mode = |root: &Path, name: &str| fs::metadata(root.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode(&top, "tmp"), mode(&top, ".")), (0o1777, 0o711));
    assert_eq!(mode(&top, "hidden"), 0o755, "what a whiteout hides does not count");
    assert_eq!(mode(&top, "tmp/far/deeper"), 0o755);
    assert_eq!(mode(&top, "tmp/far"), mode(&low, "tmp/far"));
    let owner = |root: &Path| fs::metadata(root.join("tmp/far")).unwrap().uid();
    assert_eq!(owner(&top), owner(&low));
    assert_eq!(fs::metadata(top.join("tmp/far")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn a_container_runs_from_the_layers() {
    crate::common::needs_fuse();
    let sandbox = Sandbox::new();
    let busybox = fs::read("/bin/busybox").unwrap();
    let program = Described { mode: 0o755, content: &busybox, ..Described::default() };
    let lower = Layer::default()
        .entry("bin/busybox", &program)
        .link(EntryType::Symlink, "bin/sh", "busybox")
        .file("etc/old", "old")
        .file("dir/below", "")
        .finish();
    let far = Described { owner: (FAR, 5), mode: 0o640, content: b"", ..Described::default() };
    let upper = Layer::default()
        .file("etc/.wh.old", "")
        .entry("etc/far", &far)
        .file("dir/.wh..wh..opq", "")
        .file("dir/above", "")
        .finish();
    let layout = Layout::new(sandbox.join("layout"), "two", &[lower, upper]);
    load(&sandbox, &layout);
    let dirs = [1, 0].map(|at| layout.unpacked(&sandbox, at).to_str().unwrap().to_owned());
    let script = "busybox ls etc dir; busybox stat -c %u:%g:%a etc/far";
    let bundle = sandbox.bundle(&["/bin/sh", "-c", script]);
    bundle.edit(|config| config["process"]["env"] = serde_json::json!(["PATH=/bin"]));
    let lowerdir = dirs.join(":");
    let args = ["run", "--bundle", bundle.as_str(), "--lowerdir", &lowerdir, &sandbox.id("r")];
    let outcome = sandbox.rrun(&args).ok();
    // An owner that does not exist inside is shown as nobody.
    let shown = if is_root() { format!("{FAR}:5:640") } else { "65534:5:640".to_owned() };
    assert_eq!(outcome.line(), format!("dir:\nabove\n\netc:\nfar\n{shown}"));
}

#[test]
fn compressed_layers_are_known_by_their_first_bytes() {
    use std::io::Write;
    let sandbox = Sandbox::new();
    let tar = Layer::default().file("a", "content").finish();
    let (first, second) = tar.split_at(700);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let members = [gzip(first), gzip(second)].concat();
    let zstd = zstd::encode_all(tar.as_slice(), 19).unwrap();
    for (name, blob) in [("gzip", gzip(&tar)), ("members", members), ("zstd", zstd)] {
        let layout = Layout::compressed(sandbox.join(name), name, &[(blob, tar.clone())]);
        load(&sandbox, &layout);
        let file = layout.unpacked(&sandbox, 0).join("a");
        assert_eq!(fs::read_to_string(file).unwrap(), "content", "{name}");
        sandbox.rrun(&["image", "rm", "--all"]).ok();
        eventually("the layer is gone", || !layout.unpacked(&sandbox, 0).exists());
    }
}

#[test]
fn several_commands_at_once_add_and_remove() {
    let sandbox = Sandbox::new();
    let layouts: Vec<_> =
        (0..3).map(|at| small(&sandbox, &format!("i{at}"), &format!("c{at}"))).collect();
    for _ in 0..3 {
        let mut running: Vec<Running> = Vec::new();
        for layout in layouts.iter().chain(&layouts) {
            running.push(sandbox.spawn(&["image", "load", "-q", "-i", layout.as_str()]));
        }
        running.push(sandbox.spawn(&["image", "rm", "-f", "i0"]));
        running.into_iter().for_each(|command| drop(command.wait().ok()));
        for (at, layout) in layouts.iter().enumerate().skip(1) {
            let name = format!("i{at}");
            assert_eq!(sandbox.rrun(&["images", "-q", &name]).ok().line(), layout.id.short());
            assert!(layout.unpacked(&sandbox, 0).join("etc/name").exists());
        }
    }
    sandbox.rrun(&["image", "rm", "--all"]).ok();
    eventually("nothing is left", || is_clean(&sandbox));
}

/// Killed at any moment, loading leaves nothing that harms: the next command goes on.
#[test]
fn killed_commands_leave_whole_images_or_none() {
    let sandbox = Sandbox::new();
    load(&sandbox, &small(&sandbox, "kept", "kept"));
    let mut layer = Layer::default();
    for at in 0..400 {
        layer = layer.file(&format!("d{}/f{at}", at % 20), &"x".repeat(at * 7));
    }
    let layout = Layout::new(
        sandbox.join("big"),
        "big",
        &[layer.clone().finish(), layer.file("z", "").finish()],
    );
    for delay in 0..24 {
        let mut running = sandbox.spawn(&["image", "load", "-q", "-i", layout.as_str()]);
        std::thread::sleep(std::time::Duration::from_millis(delay * 4));
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        let listed = sandbox.rrun(&["images", "--format", "{{.Repository}}"]).ok();
        assert!(listed.stderr.is_empty(), "{listed}");
        if listed.stdout.contains("big") {
            let top = layout.unpacked(&sandbox, 1);
            assert!(top.join("z").exists() && top.join("d19/f399").exists(), "{delay}");
        }
        if delay % 3 == 0 {
            sandbox.rrun(&["image", "rm", "-f", "big"]).ok();
        }
        assert!(listed.stdout.contains("kept"));
    }
    load(&sandbox, &layout);
    sandbox.rrun(&["image", "rm", "big"]).ok();
    eventually("what was half done is gone", || {
        is_clean(&sandbox) && entries(&sandbox.data().join("layers")).len() == 1
    });
}

#[test]
fn an_archive_of_files_becomes_an_image() {
    let sandbox = Sandbox::new();
    let tar = Layer::default().directory("etc/", 0o755).file("etc/name", "imported").finish();
    fs::write(sandbox.join("files.tar"), &tar).unwrap();
    let file = sandbox.join("files.tar");
    let import = |epoch: &str| {
        let args = [
            "image",
            "import",
            "-c",
            "CMD [\"sh\"]",
            "--change=ENV A=1",
            "-c",
            "LABEL x=y",
            "-m",
            "hello",
            file.to_str().unwrap(),
            "files:1",
        ];
        let mut command = sandbox.command(&args);
        command.env("SOURCE_DATE_EPOCH", epoch);
        crate::common::outcome::spawn(&mut command).wait().ok().line().to_owned()
    };
    let id = import("1000000000");
    assert_eq!(id, import("1000000000"), "the same files make the same image");
    assert_ne!(id, import("1000000001"));
    let all = sandbox.rrun(&["image", "inspect", "files:1"]).ok();
    let all: Value = serde_json::from_str(&all.stdout).unwrap();
    let one = &all[0];
    assert_eq!(one["RepoTags"], serde_json::json!(["files:1"]));
    assert_eq!(one["Created"], "2001-09-09T01:46:41Z");
    assert_eq!(
        (&one["Config"]["Env"][0], &one["Config"]["Labels"]["x"]),
        (&"A=1".into(), &"y".into())
    );
    let layer = one["GraphDriver"]["Data"]["UpperDir"].as_str().unwrap();
    assert_eq!(fs::read_to_string(Path::new(layer).join("etc/name")).unwrap(), "imported");
}

#[test]
fn imported_images_are_described() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.join("files.tar"), Layer::default().file("a", "imported").finish()).unwrap();
    let file = sandbox.join("files.tar");
    let file = file.to_str().unwrap();
    let import = ["image", "import", "-c", "CMD [\"sh\"]", "-m", "hello", file, "files:1"];
    sandbox.rrun(&import).ok();
    let formatted =
        sandbox.rrun(&["image", "inspect", "-f", "{{.Os}} {{index .Config.Cmd 0}}", "files:1"]);
    assert_eq!(formatted.ok().line(), "linux sh");
    let history = sandbox.rrun(&["image", "history", "files:1"]).ok();
    assert!(history.stdout.starts_with("IMAGE          CREATED"), "{history}");
    assert!(history.stdout.contains("8B") && history.stdout.contains("hello"), "{history}");
    sandbox.rrun(&["image", "inspect", "files:1", "nothing"]).exits(1);
    sandbox.rrun(&["image", "import", "http://a/b"]).complains_of(&["not fetched", "curl"]);
    let bad = ["image", "import", "-c", "RUN x", file];
    sandbox.rrun(&bad).complains_of(&["RUN changes no configuration"]);
}

#[test]
fn history_tells_every_step() {
    let sandbox = Sandbox::new();
    load(&sandbox, &small(&sandbox, "a", "content"));
    let format = "{{.ID}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}";
    let steps = sandbox.rrun(&["image", "history", "--format", format, "a"]).ok();
    let id = sandbox.rrun(&["images", "-q"]).ok();
    assert_eq!(steps.line(), format!("{}|COPY a b|7B|by hand\n<missing>|nothing|0B|", id.line()));
    let raw =
        sandbox.rrun(&["image", "history", "--human=false", "--format", "{{.Size}}", "a"]).ok();
    assert_eq!(raw.line(), "7\n0");
}

#[test]
fn nameless_images_are_pruned() {
    let sandbox = Sandbox::new();
    let (old, new) = (small(&sandbox, "moving", "old"), small(&sandbox, "moving", "new"));
    load(&sandbox, &old);
    load(&sandbox, &new);
    let none = sandbox.rrun(&["images", "-f", "dangling=true", "-q"]).ok();
    assert_eq!(none.line(), old.id.short());
    let asked = sandbox.rrun(&["image", "prune"]).ok();
    assert!(asked.stdout.ends_with("[y/N] "), "{asked}");
    let kept = sandbox.rrun(&["image", "prune", "--force", "--filter", "label=color=red"]).ok();
    assert_eq!(kept.line(), "Total reclaimed space: 0B");
    let pruned = sandbox.rrun(&["image", "prune", "--force"]).ok();
    assert_eq!(
        pruned.line(),
        format!("Deleted Images:\ndeleted: {}\n\nTotal reclaimed space: 3B", old.id)
    );
    assert_eq!(sandbox.rrun(&["images", "-q"]).ok().line(), new.id.short());
    let all = sandbox.rrun(&["image", "prune", "-a", "-f"]).ok();
    assert!(all.stdout.contains("untagged: localhost/moving:latest"), "{all}");
    eventually("nothing is left", || {
        is_clean(&sandbox) && entries(&sandbox.data().join("layers")).is_empty()
    });
}

#[test]
fn damage_is_found() {
    let sandbox = Sandbox::new();
    let layout = small(&sandbox, "a", "content");
    load(&sandbox, &layout);
    load(&sandbox, &small(&sandbox, "b", "other"));
    let good = sandbox.rrun(&["image", "verify"]).ok();
    assert_eq!(good.line(), "localhost/a:latest: ok\nlocalhost/b:latest: ok");
    let blob = layout.chain[0].hex();
    let path = sandbox.data().join("images/blobs/sha256").join(blob);
    let mut content = fs::read(&path).unwrap();
    content[600] ^= 1;
    fs::write(&path, content).unwrap();
    let bad = sandbox.rrun(&["image", "verify"]).exits(1);
    assert!(bad.stdout.contains("localhost/a:latest: blob sha256:"), "{bad}");
    assert!(bad.stdout.contains("localhost/b:latest: ok"), "{bad}");
    assert!(bad.stderr.contains("1 of 2 images are damaged"), "{bad}");
}

/// Without subordinate IDs everything lies on disk as the caller's, and the attribute tells the truth.
#[test]
fn one_id_is_enough() {
    crate::common::needs_fuse();
    let sandbox = Sandbox::new();
    let busybox = fs::read("/bin/busybox").unwrap();
    let program = Described { mode: 0o755, content: &busybox, ..Described::default() };
    let owned = Described { owner: (3, 4), mode: 0o2640, ..Described::default() };
    let folder = Described { kind: EntryType::Directory, mode: 0o1770, ..owned.clone() };
    let layer = Layer::default()
        .entry("bin/busybox", &program)
        .entry("owned", &owned)
        .entry("folder/", &folder)
        .finish();
    let layout = Layout::new(sandbox.join("layout"), "one", &[layer]);
    // In a user namespace with nothing but the caller as root there are no other IDs.
    let rrun = |args: &[&str]| {
        let inner = sandbox.command(args);
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).arg(inner.get_program());
        command.args(inner.get_args()).env("RRUN_DATA", sandbox.data());
        crate::common::outcome::spawn(&mut command).wait()
    };
    rrun(&["image", "load", "-i", layout.as_str()]).ok();
    let root = layout.unpacked(&sandbox, 0);
    let own = nix::unistd::geteuid().as_raw();
    assert_eq!(fs::metadata(root.join("owned")).unwrap().uid(), own);
    let held = attribute(&root.join("owned"), "user.containers.override_stat").unwrap();
    assert_eq!(String::from_utf8(held).unwrap(), "3:4:02640:file");
    let held = attribute(&root.join("folder"), "user.containers.override_stat").unwrap();
    assert_eq!(String::from_utf8(held).unwrap(), "3:4:01770:dir");
    assert_eq!(fs::metadata(root.join("owned")).unwrap().mode() & 0o7777, 0o640);
    // Root of the whole machine sees the true owners through the overlay.
    let script = "busybox stat -c %u:%g:%a owned folder bin/busybox";
    let bundle = sandbox.bundle(&["/bin/busybox", "sh", "-c", script]);
    bundle.edit(|config| config["process"]["env"] = serde_json::json!(["PATH=/bin"]));
    let lowerdir = root.to_str().unwrap();
    let args = ["run", "--bundle", bundle.as_str(), "--lowerdir", lowerdir, &sandbox.id("r")];
    let shown = sandbox.rrun(&args).ok();
    assert_eq!(shown.line(), "3:4:2640\n3:4:1770\n0:0:755");
}

/// On a file system of 8 MiB: an image that does not fit leaves the others whole, and room for more.
#[test]
fn a_full_disk_harms_no_other_image() {
    use std::io::Write;
    let sandbox = Sandbox::new();
    let (first, second) = (small(&sandbox, "first", "1"), small(&sandbox, "second", "2"));
    let tar = Layer::default().file("big", &"x".repeat(12 << 20)).finish();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let packed = [(gzip.finish().unwrap(), tar.clone())];
    let packed = Layout::compressed(sandbox.join("packed"), "packed", &packed);
    let plain = Layout::new(sandbox.join("plain"), "plain", &[tar]);
    let script = r#"
        mount -t tmpfs -o size=8m none "$RRUN_DATA"
        load() { "$0" image load -q -i "$1"; }
        load "$1"
        for big in "$2" "$3"; do load "$big" && exit 9; done
        # What did not fit goes behind the command.
        for attempt in $(seq 100); do load "$4" 2>/dev/null && break || sleep 0.05; done
        "$0" image verify
        "$0" images --format '{{.Repository}}'
    "#;
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]);
    command.arg(crate::common::rrun_binary());
    command.args([first.as_str(), packed.as_str(), plain.as_str(), second.as_str()]);
    command.env("RRUN_DATA", sandbox.directory("data"));
    let outcome = crate::common::outcome::spawn(&mut command).wait().ok();
    assert!(outcome.stdout.contains("localhost/first:latest: ok"), "{outcome}");
    assert!(outcome.stdout.contains("localhost/second:latest: ok"), "{outcome}");
    assert!(!outcome.stdout.contains("packed") && !outcome.stdout.contains("plain"), "{outcome}");
    let complaints: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(complaints.len(), 2, "{outcome}");
    let tells = |line: &&str| line.contains("No space left") || line.contains("less than 1 % left");
    assert!(complaints.iter().all(tells), "{outcome}");
}
