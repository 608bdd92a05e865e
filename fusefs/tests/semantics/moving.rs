//! Directories of lower layers under new names.

use super::*;
use crate::common::tree_text;

/// Two layers that share directories.
fn layers(stage: &Path) -> Layers {
    let layers = Layers::new(stage, 2);
    for file in ["a/b/c/deep", "a/b/two", "a/x", "other/y", "gone/z"] {
        layers.file(2, file, file);
    }
    layers.file(1, "a/b/one", "one");
    layers.file(1, "a/b/c/deep", "newer");
    layers.whiteout(1, "a/b/two");
    layers
}

/// The tree before and after a remount, which must be the same.
fn settled(mounted: Mounted, layers: &Layers) -> (Mounted, String) {
    let before = tree_text(mounted.root());
    mounted.unmount();
    let mounted = Mounted::new(&layers.config(), &layers.merged());
    assert_eq!(tree_text(mounted.root()), before, "after a remount");
    (mounted, before)
}

#[test]
fn directories_of_lower_layers_move() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let open = File::open(mounted.path("a/b/c/deep")).unwrap();
        fs::rename(mounted.path("a/b"), mounted.path("a/sibling")).unwrap();
        assert_eq!(names(&mounted.path("a")), ["sibling", "x"]);
        assert_eq!(names(&mounted.path("a/sibling")), ["c", "one"]);
        fs::rename(mounted.path("a/sibling/c"), mounted.path("far")).unwrap();
        fs::write(mounted.path("far/deep"), "written").unwrap();
        let mut text = [0; 7];
        open.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"written", "who had it open sees it");
        drop(open);
        let (mounted, _) = settled(mounted, &layers);
        // Moved again, with what was moved out of it back inside, and its parent too.
        fs::rename(mounted.path("far"), mounted.path("a/sibling/c again")).unwrap();
        fs::rename(mounted.path("a"), mounted.path("other/a")).unwrap();
        fs::rename(mounted.path("other"), mounted.path("all")).unwrap();
        assert_eq!(mounted.read("all/a/sibling/c again/deep"), "written");
        assert_eq!(mounted.read("all/a/sibling/one"), "one");
        let (mounted, _) = settled(mounted, &layers);
        assert_eq!(names(mounted.root()), ["all", "gone"]);
        // What takes the old names has nothing of the old contents.
        fs::create_dir_all(mounted.path("a/b")).unwrap();
        assert_eq!(names(&mounted.path("a/b")), [""; 0]);
        fs::rename(mounted.path("all/a/sibling"), mounted.path("a/b")).unwrap();
        assert_eq!(names(&mounted.path("a/b")), ["c again", "one"]);
        let (mounted, _) = settled(mounted, &layers);
        fs::remove_dir_all(mounted.path("a")).unwrap();
        fs::remove_dir_all(mounted.path("all")).unwrap();
        let (mounted, _) = settled(mounted, &layers);
        assert_eq!(names(mounted.root()), ["gone"]);
        mounted.unmount();
    });
}

#[test]
fn directories_of_lower_layers_change_places() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let swap = |mounted: &Mounted, one: &str, two: &str| {
            let (one, two) = (mounted.path(one), mounted.path(two));
            renameat2(AT_FDCWD, &one, AT_FDCWD, &two, RenameFlags::RENAME_EXCHANGE).unwrap();
        };
        swap(&mounted, "a", "other");
        assert_eq!(
            (names(&mounted.path("a")), mounted.read("other/b/one")),
            (vec!["y".into()], "one".into())
        );
        let (mounted, _) = settled(mounted, &layers);
        swap(&mounted, "other/b", "gone");
        assert_eq!(mounted.read("gone/one"), "one");
        assert_eq!(names(&mounted.path("other/b")), ["z"]);
        let (mounted, _) = settled(mounted, &layers);
        fs::write(mounted.path("file"), "file").unwrap();
        swap(&mounted, "file", "gone");
        assert_eq!(
            (mounted.read("gone"), mounted.read("file/c/deep")),
            ("file".into(), "newer".into())
        );
        let (mounted, _) = settled(mounted, &layers);
        mounted.unmount();
    });
}

#[test]
fn a_moved_directory_replaces_an_empty_one() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let rename = |from: &str, to: &str| fs::rename(mounted.path(from), mounted.path(to));
        assert_eq!(errno(rename("a", "gone")), Errno::ENOTEMPTY);
        fs::remove_file(mounted.path("gone/z")).unwrap();
        rename("a", "gone").unwrap();
        assert_eq!(names(&mounted.path("gone")), ["b", "x"]);
        fs::create_dir(mounted.path("a")).unwrap();
        rename("gone/b", "a").unwrap();
        assert_eq!(names(&mounted.path("a")), ["c", "one"]);
        let (mounted, _) = settled(mounted, &layers);
        mounted.unmount();
    });
}

/// The way to the root is written down; what is longer than any path cannot be.
#[test]
fn too_long_a_way_is_left_to_mv() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let (long, here) = ("n".repeat(250), std::env::current_dir().unwrap());
        std::env::set_current_dir(layers.lower(1)).unwrap();
        for _ in 0..20 {
            fs::create_dir(&long).unwrap();
            std::env::set_current_dir(&long).unwrap();
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        std::env::set_current_dir(mounted.root()).unwrap();
        for _ in 0..18 {
            std::env::set_current_dir(&long).unwrap();
        }
        fs::rename(&long, "sibling").unwrap();
        assert_eq!(errno(fs::rename(format!("sibling/{long}"), "away")), Errno::EXDEV);
        std::env::set_current_dir(&here).unwrap();
        mounted.unmount();
        for folder in [layers.lower(1), layers.upper()] {
            assert!(Command::new("rm").arg("-rf").arg(folder).status().unwrap().success());
        }
    });
}

#[test]
fn without_redirects_they_stay() {
    everywhere(|_, stage| {
        let layers = layers(stage);
        let config = rrun_fusefs::Config { redirect_dir: false, ..layers.config() };
        let mounted = Mounted::new(&config, &layers.merged());
        fs::write(mounted.path("a/new"), "").unwrap();
        for name in ["a", "other"] {
            assert_eq!(errno(fs::rename(mounted.path(name), mounted.path("z"))), Errno::EXDEV);
        }
        fs::create_dir(mounted.path("made")).unwrap();
        fs::rename(mounted.path("made"), mounted.path("moved")).unwrap();
        mounted.unmount();
    });
}

/// Redirects that no overlay has written: nothing leads outside, and nothing has no end.
#[test]
fn hostile_redirects_lead_nowhere() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        fs::create_dir(stage.join("outside")).unwrap();
        fs::write(stage.join("outside/secret"), "secret").unwrap();
        let values = ["/../outside", "..", "../outside", ".", "/", "", "/a//b", "a/b", "/a/."];
        symlink(stage.join("outside"), layers.lower(2).join("link")).unwrap();
        layers.file(2, "a/b/c", "");
        for (number, value) in values.iter().enumerate() {
            let folder = layers.folder(1, &format!("r{number}"));
            xattr::set(&folder, "user.overlay.redirect", value.as_bytes()).unwrap();
        }
        for (name, value) in [("link2", "/link"), ("a/b", "/a"), ("absent", "/nothing/there")] {
            let folder = layers.folder(1, name);
            fs::write(folder.join("own"), "").unwrap();
            xattr::set(&folder, "user.overlay.redirect", value.as_bytes()).unwrap();
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        for (number, value) in values.iter().enumerate() {
            let mut listing = fs::read_dir(mounted.path(&format!("r{number}"))).unwrap();
            assert_eq!(errno(listing.next().unwrap()), Errno::EIO, "{value:?}");
        }
        assert_eq!(names(&mounted.path("link2")), ["own"]);
        assert_eq!(names(&mounted.path("absent")), ["own"]);
        // It contains the directory that it lies in, as that is in the layer below, and no further.
        assert_eq!(names(&mounted.path("a/b")), ["b", "own"]);
        assert_eq!(names(&mounted.path("a/b/b")), ["c"]);
        mounted.unmount();
    });
}
