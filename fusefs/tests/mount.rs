//! Mounting and unmounting, and what must not be left behind.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::common::{Layers, Mounted, everywhere, names};

#[test]
fn a_mount_shows_the_layers_and_keeps_what_is_written() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        layers.file(2, "etc/passwd", "lower");
        layers.file(1, "etc/hosts", "upper");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(names(&mounted.path("etc")), ["hosts", "passwd"]);
        fs::write(mounted.path("etc/new"), "new").unwrap();
        fs::write(mounted.path("etc/passwd"), "changed").unwrap();
        mounted.unmount();
        assert_eq!(fs::read_to_string(layers.lower(2).join("etc/passwd")).unwrap(), "lower");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(mounted.read("etc/new"), "new");
        assert_eq!(mounted.read("etc/passwd"), "changed");
        mounted.unmount();
    });
}

#[test]
fn the_work_directory_is_empty_after_use() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        layers.file(1, "d/f", "f");
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        fs::remove_dir_all(mounted.path("d")).unwrap();
        fs::create_dir(mounted.path("d")).unwrap();
        mounted.unmount();
        assert_eq!(names(&layers.work().join("work")), [""; 0]);
    });
}

#[test]
fn what_an_unclean_end_left_is_cleared() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        fs::create_dir_all(layers.work().join("work/#3/deeper")).unwrap();
        fs::write(layers.work().join("work/#4"), "half").unwrap();
        Mounted::new(&layers.config(), &layers.merged()).unmount();
        assert_eq!(names(&layers.work().join("work")), [""; 0]);
    });
}

#[test]
fn a_read_only_overlay_has_no_upper_directory() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 2);
        layers.file(1, "f", "text");
        let config = rrun_fusefs::Config { upperdir: None, workdir: None, ..layers.config() };
        let mounted = Mounted::new(&config, &layers.merged());
        assert_eq!(mounted.read("f"), "text");
        for error in [
            fs::write(mounted.path("f"), "no").unwrap_err(),
            fs::write(mounted.path("g"), "no").unwrap_err(),
            fs::create_dir(mounted.path("d")).unwrap_err(),
            fs::remove_file(mounted.path("f")).unwrap_err(),
            fs::rename(mounted.path("f"), mounted.path("g")).unwrap_err(),
        ] {
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        }
        mounted.unmount();
    });
}

#[test]
fn programs_run_from_the_mount() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        fs::copy("/bin/busybox", layers.lower(1).join("busybox")).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let run = |path: &str| {
            Command::new(mounted.path(path)).args(["echo", "it runs"]).output().unwrap()
        };
        assert_eq!(run("busybox").stdout, b"it runs\n");
        fs::create_dir(mounted.path("made")).unwrap();
        fs::copy(mounted.path("busybox"), mounted.path("made/busybox")).unwrap();
        assert_eq!(run("made/busybox").stdout, b"it runs\n");
        mounted.unmount();
    });
}

#[test]
fn sixty_layers_merge_like_two() {
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 60);
        for layer in 1..=60 {
            layers.file(layer, "d/same", &layer.to_string());
            layers.file(layer, &format!("d/only{layer}"), "");
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        assert_eq!(names(&mounted.path("d")).len(), 61);
        assert_eq!(mounted.read("d/same"), "1");
        mounted.unmount();
    });
}

/// Directories so deep that no path can name them are reached step by step.
#[test]
fn depth_has_no_limit() {
    const DEPTH: usize = 1_200;
    everywhere(|_, stage| {
        let layers = Layers::new(stage, 1);
        let step = "deeper";
        let here = std::env::current_dir().unwrap();
        std::env::set_current_dir(layers.lower(1)).unwrap();
        for _ in 0..DEPTH {
            fs::create_dir(step).unwrap();
            std::env::set_current_dir(step).unwrap();
        }
        fs::write("bottom", "reached").unwrap();
        std::env::set_current_dir(&here).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        std::env::set_current_dir(mounted.root()).unwrap();
        for _ in 0..DEPTH {
            std::env::set_current_dir(step).unwrap();
        }
        assert_eq!(fs::read_to_string("bottom").unwrap(), "reached");
        fs::write("bottom", "changed").unwrap();
        std::env::set_current_dir(&here).unwrap();
        let removed = Command::new("rm").arg("-rf").arg(mounted.path("deeper")).status().unwrap();
        assert!(removed.success());
        assert_eq!(names(mounted.root()), [""; 0]);
        mounted.unmount();
        let removed = Command::new("rm").arg("-rf").arg(layers.lower(1)).status().unwrap();
        assert!(removed.success());
    });
}

/// More files in use at once than the process may have open, by way of their directories.
#[test]
fn descriptors_are_not_used_up() {
    everywhere(|_, stage| {
        use nix::sys::resource::{Resource, setrlimit};
        let layers = Layers::new(stage, 1);
        for number in 0..600 {
            layers.file(1, &format!("d{number}/f"), &number.to_string());
        }
        setrlimit(Resource::RLIMIT_NOFILE, 300, 300).unwrap();
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        for number in 0..600 {
            assert_eq!(mounted.read(&format!("d{number}/f")), number.to_string());
            fs::write(mounted.path(&format!("d{number}/g")), "").unwrap();
        }
        for number in 0..600 {
            fs::write(mounted.path(&format!("d{number}/f")), "new").unwrap();
        }
        assert_eq!(mounted.read("d7/f"), "new");
        mounted.unmount();
    });
}

/// What the kernel has forgotten holds no descriptor: a second look needs no more than the first.
#[test]
fn forgotten_files_leave_no_descriptors() {
    everywhere(|identity, stage| {
        if identity != crate::common::Identity::Root {
            return; // dropping the kernel's caches is root's alone
        }
        let layers = Layers::new(stage, 1);
        for number in 0..2_000 {
            layers.file(1, &format!("d{}/f{number}", number % 20), "");
        }
        let mounted = Mounted::new(&layers.config(), &layers.merged());
        let walk = || {
            for folder in 0..20 {
                for entry in fs::read_dir(mounted.path(&format!("d{folder}"))).unwrap() {
                    entry.unwrap().metadata().unwrap().size();
                }
            }
        };
        walk();
        let descriptors =
            || fs::read_dir(format!("/proc/{}/fd", mounted.server())).unwrap().count();
        let before = descriptors();
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        walk();
        assert!(descriptors() <= before + 20, "{} after {before}", descriptors());
        mounted.unmount();
    });
}
