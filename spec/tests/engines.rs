//! Configs as engines write them load without a problem.

use std::path::Path;

use rrun_spec::{check, parse, unsupported};

const ENGINES: [(&str, &str); 3] = [
    ("containerd", include_str!("fixtures/containerd.json")),
    ("docker", include_str!("fixtures/docker.json")),
    ("podman", include_str!("fixtures/podman.json")),
];

#[test]
fn what_engines_write_is_accepted() {
    for (engine, text) in ENGINES {
        let spec = parse(text.as_bytes(), Path::new(engine)).unwrap();
        assert_eq!(check(&spec), Ok(()), "{engine}");
        assert_eq!(unsupported(&spec), [], "{engine}");
    }
}

#[test]
fn what_engines_write_is_not_lost() {
    for (engine, text) in ENGINES {
        let spec = parse(text.as_bytes(), Path::new(engine)).unwrap();
        let again = serde_json::to_vec(&spec).unwrap();
        assert_eq!(parse(&again, Path::new(engine)).unwrap(), spec, "{engine}");
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.cgroups_path().is_some() && linux.masked_paths().is_some(), "{engine}");
        assert!(spec.mounts().as_ref().is_some_and(|mounts| mounts.len() > 10), "{engine}");
    }
}
