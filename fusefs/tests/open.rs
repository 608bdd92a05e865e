//! What cannot work is refused before anything is mounted, in one line with the cure.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::{Uid, setfsuid};
use rrun_fusefs::{Config, Options, Overlay};

use crate::common::{Identity, Layers, everywhere, in_user_namespace};

/// The text with which opening `config` fails.
fn refusal(config: &Config) -> String {
    let text = Overlay::open(config).unwrap_err().to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

fn with_lower(config: &Config, lower: PathBuf) -> Config {
    Config { lowerdirs: vec![lower], ..config.clone() }
}

#[test]
fn missing_layers_and_files_are_refused() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        fs::write(stage.join("file"), "").unwrap();
        let config = layers.config();
        let text = refusal(&with_lower(&config, stage.join("absent")));
        assert!(text.contains("open lower directory") && text.contains("absent"), "{text}");
        assert!(text.contains("does not exist") && text.contains("ENOENT"), "{text}");
        let text = refusal(&with_lower(&config, stage.join("file")));
        assert!(text.contains("is not a directory"), "{text}");
        let text = refusal(&Config { workdir: Some(stage.join("absent")), ..config.clone() });
        assert!(text.contains("open work directory"), "{text}");
        let text = refusal(&Config { lowerdirs: Vec::new(), ..config });
        assert!(text.contains("no lower directory"), "{text}");
    });
}

#[test]
fn an_unreadable_layer_is_refused() {
    // A single id has no power over files of others, and real root's are such.
    in_user_namespace(|identity, stage| {
        if identity == Identity::Single && Path::new("/root").exists() {
            let config = with_lower(&Layers::new(stage, 1).config(), "/root".into());
            let text = refusal(&config);
            assert!(text.contains("/root: no permission"), "{text}");
        }
    });
}

#[test]
fn directories_that_contain_each_other_are_refused() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let config = layers.config();
        let inside = layers.folder(1, "deep/inside");
        let cases = [
            (with_lower(&config, layers.upper()), "the same directory as"),
            (with_lower(&config, layers.work()), "the same directory as"),
            (with_lower(&config, stage.to_owned()), "inside"),
            (Config { upperdir: Some(inside.clone()), ..config.clone() }, "inside"),
            (Config { workdir: Some(inside), ..config.clone() }, "inside"),
            (
                Config { workdir: config.upperdir.clone(), ..config.clone() },
                "the same directory as",
            ),
        ];
        for (config, relation) in cases {
            let text = refusal(&config);
            assert!(text.contains(relation) && text.contains("use separate"), "{text}");
        }
        symlink(layers.upper(), stage.join("alias")).unwrap();
        let text = refusal(&with_lower(&config, stage.join("alias")));
        assert!(text.contains("the same directory as"), "through a link: {text}");
    });
}

#[test]
fn an_upper_directory_serves_one_overlay_at_a_time() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        fs::create_dir(stage.join("work2")).unwrap();
        fs::create_dir(stage.join("upper2")).unwrap();
        let first = Overlay::open(&layers.config()).unwrap();
        let other_work = Config { workdir: Some(stage.join("work2")), ..layers.config() };
        let text = refusal(&other_work);
        assert!(text.contains("upper directory") && text.contains("in use"), "{text}");
        let other_upper = Config { upperdir: Some(stage.join("upper2")), ..layers.config() };
        let text = refusal(&other_upper);
        assert!(text.contains("work directory") && text.contains("in use"), "{text}");
        drop(first);
        Overlay::open(&layers.config()).unwrap();
    });
}

#[test]
fn the_work_directory_must_be_on_the_mount_of_the_upper_one() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let bind = Some(layers.work().as_path().to_owned());
        mount(bind.as_ref(), &layers.work(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let text = refusal(&layers.config());
        assert!(text.contains("is not on the mount of upper directory"), "{text}");
        nix::mount::umount(&layers.work()).unwrap();
    });
}

#[test]
fn an_upper_directory_needs_user_attributes() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        // Of the file systems that everybody may mount, ramfs has none.
        let none = None::<&str>;
        mount(Some("none"), &layers.upper(), Some("ramfs"), MsFlags::empty(), none).unwrap();
        fs::create_dir(layers.upper().join("up")).unwrap();
        fs::create_dir(layers.upper().join("work")).unwrap();
        let config = Config {
            upperdir: Some(layers.upper().join("up")),
            workdir: Some(layers.upper().join("work")),
            ..layers.config()
        };
        let text = refusal(&config);
        assert!(text.contains("without user extended attributes"), "{text}");
        nix::mount::umount(&layers.upper()).unwrap();
    });
}

#[test]
fn a_read_only_upper_directory_is_refused() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let (bind, none) = (Some(stage), None::<&str>);
        mount(bind, stage, none, MsFlags::MS_BIND, none).unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, stage, none, read_only, none).unwrap();
        let config = Config {
            lowerdirs: vec![PathBuf::from("/usr")],
            upperdir: Some(stage.join("upper")),
            workdir: Some(stage.join("work")),
            ..layers.config()
        };
        let text = refusal(&config);
        assert!(text.contains("read-only"), "{text}");
        nix::mount::umount(stage).unwrap();
    });
}

#[test]
fn a_device_without_permission_is_refused_with_the_cure() {
    // In a mount namespace of its own, a node that nobody may open takes the device's place.
    everywhere(|identity, stage| {
        if !identity.has_many_ids() {
            return; // there is nobody else to become, and root may open everything
        }
        let stand_in = stage.join("fuse");
        fs::write(&stand_in, "").unwrap();
        fs::set_permissions(&stand_in, PermissionsExt::from_mode(0o000)).unwrap();
        let none = None::<&str>;
        mount(Some(&stand_in), "/dev/fuse", none, MsFlags::MS_BIND, none).unwrap();
        setfsuid(Uid::from_raw(1000));
        let text = rrun_fusefs::open_device().unwrap_err().to_string();
        setfsuid(Uid::from_raw(0));
        assert!(text.contains("EACCES") && text.contains("chmod 0666 /dev/fuse"), "{text}");
    });
}

#[test]
fn layers_named_on_the_command_line_may_contain_anything() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 0);
        let odd = stage.join(r"a:b,c\d");
        fs::create_dir(&odd).unwrap();
        let mut text = OsString::from("lowerdir=");
        let escaped = odd.to_str().unwrap().replace('\\', r"\\").replace(':', r"\:");
        text.push(escaped.replace(',', r"\,"));
        let config = Options::parse(&text, Config::default()).unwrap().config;
        assert_eq!(config.lowerdirs, [odd]);
        let config = Config { lowerdirs: config.lowerdirs, ..layers.config() };
        Overlay::open(&config).unwrap();
    });
}
