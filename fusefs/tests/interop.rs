//! Kernel overlayfs reads what we write, and the reverse.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};

use crate::common::{
    Identity, Layers, Mounted, everywhere, names, tree_text, without_devices, xattr,
};

/// Mounts the same layers with the kernel's own overlayfs, as far as this identity may.
pub(crate) fn kernel_mount(layers: &Layers, lowers: usize) {
    let lower: Vec<_> =
        (1..=lowers).map(|number| layers.lower(number).to_str().unwrap().to_owned()).collect();
    let options = format!(
        "userxattr,lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        layers.upper().display(),
        layers.work().display()
    );
    let (kind, none) = (Some("overlay"), MsFlags::empty());
    mount(kind, &layers.merged(), kind, none, Some(options.as_str())).unwrap();
}

/// Two layers with everything that merging is about.
pub(crate) fn two_layers(stage: &Path) -> Layers {
    let layers = Layers::new(stage, 2);
    for file in ["keep", "change", "remove", "move", "d/a", "d/b", "gone/x", "opaque/old", "e/f/g"]
    {
        layers.file(2, file, file);
    }
    layers.file(1, "d/a", "newer");
    layers.whiteout(1, "e/f");
    symlink("keep", layers.lower(2).join("link")).unwrap();
    layers
}

/// Changes of every kind.
pub(crate) fn change(root: &Path) {
    fs::write(root.join("change"), "changed").unwrap();
    fs::write(root.join("new"), "new").unwrap();
    fs::remove_file(root.join("remove")).unwrap();
    fs::rename(root.join("move"), root.join("moved")).unwrap();
    fs::remove_file(root.join("d/b")).unwrap();
    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_dir_all(root.join("opaque")).unwrap();
    fs::create_dir(root.join("opaque")).unwrap();
    fs::write(root.join("opaque/new"), "new").unwrap();
    fs::create_dir(root.join("e/f")).unwrap();
    fs::create_dir(root.join("made")).unwrap();
    fs::write(root.join("made/file"), "file").unwrap();
    fs::rename(root.join("made"), root.join("d/made")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("elsewhere", root.join("link")).unwrap();
    fs::create_dir(root.join("replaced")).unwrap();
    fs::remove_dir(root.join("replaced")).unwrap();
    fs::remove_file(root.join("keep")).unwrap();
    fs::create_dir(root.join("keep")).unwrap();
}

#[test]
fn overlayfs_reads_what_we_write() {
    everywhere(|identity, stage| {
        let layers = two_layers(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        change(mounted.root());
        let ours = tree_text(mounted.root());
        assert_eq!(names(&mounted.path("opaque")), ["new"]);
        mounted.unmount();
        kernel_mount(&layers, 2);
        let theirs = tree_text(&layers.merged());
        umount(&layers.merged()).unwrap();
        assert_eq!(ours, theirs, "{identity:?}");
    });
}

#[test]
fn we_read_what_overlayfs_writes() {
    everywhere(|identity, stage| {
        let layers = two_layers(stage);
        kernel_mount(&layers, 2);
        change(&layers.merged());
        let theirs = tree_text(&layers.merged());
        umount(&layers.merged()).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let ours = tree_text(mounted.root());
        mounted.unmount();
        assert_eq!(ours, theirs, "{identity:?}");
    });
}

/// Inode numbers of the objects of a tree that have them from a lower layer; not of the root.
fn numbers(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(numbers(&path));
        }
        if !meta.is_symlink() {
            found.push((path, meta.ino()));
        }
    }
    found.sort();
    found
}

/// Copies keep the numbers of the originals, whoever copied them and whoever looks.
#[test]
fn overlayfs_and_we_show_the_same_inode_numbers() {
    everywhere(|identity, stage| {
        let layers = two_layers(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let before = numbers(mounted.root());
        fs::write(mounted.path("keep"), "copied by us").unwrap();
        fs::write(mounted.path("gone/x"), "copied by us").unwrap();
        assert_eq!(numbers(mounted.root()), before);
        mounted.unmount();
        kernel_mount(&layers, 2);
        if identity == Identity::Root {
            assert_eq!(numbers(&layers.merged()), before, "it follows records for real root alone");
        }
        fs::write(layers.merged().join("d/b"), "copied by overlayfs").unwrap();
        umount(&layers.merged()).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(mounted.read("d/b"), "copied by overlayfs");
        if identity == Identity::Root {
            assert_eq!(numbers(mounted.root()), before, "and writes them for it alone");
        }
        for path in ["keep", "gone/x", "d/a"] {
            assert!(
                before.contains(&(
                    mounted.path(path),
                    fs::metadata(mounted.path(path)).unwrap().ino()
                ))
            );
        }
        mounted.unmount();
    });
}

/// Both do the same to the same layers, in turns.
#[test]
fn each_goes_on_where_the_other_stopped() {
    everywhere(|_, stage| {
        let layers = two_layers(stage);
        for round in 0..3 {
            let mounted = Mounted::new(&layers.config(), &layers.merged());
            fs::write(mounted.path("d/a"), format!("ours {round}")).unwrap();
            fs::create_dir(mounted.path("turn")).unwrap();
            fs::write(mounted.path("turn/ours"), "").unwrap();
            mounted.unmount();
            kernel_mount(&layers, 2);
            let text = fs::read_to_string(layers.merged().join("d/a")).unwrap();
            assert_eq!(text, format!("ours {round}"));
            assert_eq!(names(&layers.merged().join("turn")), ["ours"]);
            fs::remove_dir_all(layers.merged().join("turn")).unwrap();
            umount(&layers.merged()).unwrap();
        }
    });
}

/// Directories that overlayfs renamed with `redirect_dir=on`, which only real root may ask for.
#[test]
fn we_follow_the_redirects_of_overlayfs() {
    everywhere(|identity, stage| {
        if identity != Identity::Root {
            return;
        }
        let layers = with_folders(stage);
        mount_with_redirects(&layers, "on");
        let root = layers.merged();
        move_folders(&root);
        let theirs = tree_text(&root);
        umount(&root).unwrap();
        let mounted = Mounted::new(&layers.config(), &root);
        assert_eq!(mounted.read("far/file"), "deep");
        assert_eq!(names(&mounted.path("back")), ["other", "upper"]);
        let ours = tree_text(mounted.root());
        mounted.unmount();
        assert_eq!(ours, theirs);
    });
}

/// Mounts overlayfs as real root may, with `redirect_dir=HOW`.
fn mount_with_redirects(layers: &Layers, how: &str) {
    let options = format!(
        "redirect_dir={how},lowerdir={}:{},upperdir={},workdir={}",
        layers.lower(1).display(),
        layers.lower(2).display(),
        layers.upper().display(),
        layers.work().display()
    );
    let (kind, none) = (Some("overlay"), MsFlags::empty());
    mount(kind, &layers.merged(), kind, none, Some(options.as_str())).unwrap();
}

/// Renames directories of lower layers, in all ways.
fn move_folders(root: &Path) {
    fs::rename(root.join("a/b"), root.join("a/sibling")).unwrap();
    fs::rename(root.join("a/sibling/c"), root.join("far")).unwrap();
    fs::create_dir(root.join("a/b")).unwrap();
    fs::write(root.join("far/new"), "new").unwrap();
    fs::rename(root.join("a"), root.join("z")).unwrap();
    fs::rename(root.join("z/sibling"), root.join("back")).unwrap();
}

fn with_folders(stage: &Path) -> Layers {
    let layers = Layers::new(stage, 2);
    layers.file(2, "a/b/c/file", "deep");
    layers.file(2, "a/b/other", "other");
    layers.file(1, "a/b/upper", "upper");
    layers
}

/// What our redirects look like to overlayfs mounted by real root, which reads them under another name.
#[test]
fn overlayfs_follows_our_redirects() {
    everywhere(|identity, stage| {
        if identity != Identity::Root {
            return;
        }
        let layers = with_folders(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        move_folders(mounted.root());
        let ours = tree_text(mounted.root());
        mounted.unmount();
        rename_attributes(&layers.upper());
        mount_with_redirects(&layers, "follow");
        let theirs = tree_text(&layers.merged());
        umount(&layers.merged()).unwrap();
        assert_eq!(ours, theirs);
    });
}

/// Gives all attributes of the format the names that real root's overlayfs reads.
fn rename_attributes(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for (name, value) in xattr::all(&path) {
            let name = String::from_utf8(name).unwrap();
            if let Some(rest) = name.strip_prefix("user.overlay.") {
                xattr::set(&path, &format!("trusted.overlay.{rest}"), &value).unwrap();
            }
        }
        if path.is_dir() && !path.is_symlink() {
            rename_attributes(&path);
        }
    }
}

/// Overlayfs with `userxattr` follows no redirects: such a directory is `EPERM`, never a wrong one.
#[test]
fn overlayfs_as_a_user_mounts_it_refuses_redirects() {
    everywhere(|_, stage| {
        let layers = with_folders(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::rename(mounted.path("a/b"), mounted.path("moved")).unwrap();
        mounted.unmount();
        kernel_mount(&layers, 2);
        let refused = fs::metadata(layers.merged().join("moved")).unwrap_err();
        umount(&layers.merged()).unwrap();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    });
}

/// Image layers carry whiteouts as files.
#[test]
fn markers_of_image_layers_hide() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        layers.file(2, "d/hidden", "");
        layers.file(2, "d/shown", "");
        layers.file(2, "o/old", "");
        layers.file(1, "d/.wh.hidden", "");
        layers.file(1, "o/.wh..wh..opq", "");
        layers.file(1, "o/new", "");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(names(&mounted.path("d")), ["shown"]);
        assert_eq!(names(&mounted.path("o")), ["new"]);
        assert!(!mounted.path("d/hidden").exists());
        fs::write(mounted.path("d/hidden"), "new").unwrap();
        assert_eq!(mounted.read("d/hidden"), "new");
        mounted.unmount();
    });
}

#[test]
fn markers_take_the_place_of_devices_where_those_are_refused() {
    everywhere(|_, stage| {
        let top = without_devices(stage);
        let layers = two_layers(stage).with_upper(&top);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        change(mounted.root());
        let before = tree_text(mounted.root());
        mounted.unmount();
        assert!(layers.upper().join(".wh.remove").exists());
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(tree_text(mounted.root()), before);
        fs::write(mounted.path("remove"), "again").unwrap();
        fs::remove_file(mounted.path("remove")).unwrap();
        assert!(!mounted.path("remove").exists());
        mounted.unmount();
        umount(&top).unwrap();
    });
}

#[test]
fn fuse_overlayfs_reads_what_we_write() {
    everywhere(|_, stage| {
        let layers = two_layers(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        change(mounted.root());
        let ours = tree_text(mounted.root());
        mounted.unmount();
        let options = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            layers.lower(1).display(),
            layers.lower(2).display(),
            layers.upper().display(),
            layers.work().display()
        );
        let merged = layers.merged();
        let started = std::process::Command::new("fuse-overlayfs")
            .arg("-o")
            .arg(options)
            .arg(&merged)
            .status();
        assert!(started.expect("package fuse-overlayfs").success());
        let theirs = tree_text(&merged);
        umount(&merged).unwrap();
        assert_eq!(ours, theirs);
    });
}
