//! How long does a container take? Milliseconds of wall time per container, as whoever runs it.
//!
//! `cargo bench --bench startup`; as root and as an ordinary user these are different programs, so
//! run both. How we stand beside other runtimes, `scripts/compare` says.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use criterion::{Criterion, criterion_group, criterion_main};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;

const RRUN: &str = env!("CARGO_BIN_EXE_rrun");

/// Layers of an image that is not small.
const LAYERS: usize = 10;

/// Everything a container needs; goes with its directory.
struct Ground {
    dir: TempDir,
}

impl Ground {
    /// A bundle for `/bin/true` and one for a sleep, both of busybox alone.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("make a temporary directory");
        let ground = Self { dir };
        ground.bundle("true", json!(["/bin/true"]));
        ground.bundle("sleep", json!(["/bin/sleep", "1000"]));
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bundle(&self, name: &str, args: Value) {
        let bundle = self.path(name);
        make_root(&bundle.join("rootfs"));
        let rootless = (!geteuid().is_root()).then_some("--rootless");
        self.rrun(["spec", "--bundle", text(&bundle)].into_iter().chain(rootless));
        let config = bundle.join("config.json");
        let mut spec: Value = fs::read(&config)
            .map(|text| serde_json::from_slice(&text).expect("parse the config"))
            .expect("read the config");
        spec["process"]["args"] = args;
        spec["process"]["terminal"] = json!(false);
        fs::write(config, spec.to_string()).expect("write the config");
    }

    /// Flags for a root of many layers: busybox at the bottom, one file in each of the others.
    fn layers(&self) -> Vec<String> {
        let upper = (1..LAYERS).map(|number| {
            let layer = self.path(&format!("layer{number}"));
            fs::create_dir_all(layer.join("etc")).expect("make a layer");
            fs::write(layer.join(format!("etc/{number}")), "layer").expect("fill a layer");
            layer
        });
        let all: Vec<_> = upper.chain([self.path("true/rootfs")]).collect();
        let lower: Vec<_> = all.iter().map(|layer| text(layer)).collect();
        for name in ["upper", "work"] {
            fs::create_dir(self.path(name)).expect("make the writable layer");
        }
        [
            format!("--lowerdir={}", lower.join(":")),
            format!("--upperdir={}", text(&self.path("upper"))),
            format!("--workdir={}", text(&self.path("work"))),
        ]
        .into()
    }

    /// Runs one command, which must succeed.
    fn rrun<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) {
        let mut command = Command::new(RRUN);
        command.arg("--root").arg(self.path("state")).args(arguments);
        // A pipe would stay open in a container that outlives the command.
        command.env("RRUN_DATA", self.path("data")).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().expect("start rrun");
        assert!(status.success(), "{command:?}: {status}");
    }

    fn run(&self, flags: &[String]) {
        let bundle = self.path("true");
        let flags = flags.iter().map(String::as_str);
        self.rrun(["run", "--bundle", text(&bundle), "bench"].into_iter().chain(flags));
    }

    /// From nothing to nothing, as an engine does it.
    fn life(&self, flags: &[String]) {
        let bundle = self.path("true");
        let flags = flags.iter().map(String::as_str);
        self.rrun(["create", "--bundle", text(&bundle), "bench"].into_iter().chain(flags));
        self.rrun(["start", "bench"]);
        self.rrun(["delete", "--force", "bench"]);
    }
}

/// The steps that engines repeat on one running container.
struct Running<'a> {
    ground: &'a Ground,
}

impl<'a> Running<'a> {
    fn new(ground: &'a Ground) -> Self {
        let bundle = ground.path("sleep");
        ground.rrun(["run", "--detach", "--bundle", text(&bundle), "bench"]);
        Self { ground }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.ground.rrun(["delete", "--force", "bench"]);
    }
}

fn make_root(root: &Path) {
    for name in ["bin", "dev", "etc", "proc", "sys"] {
        fs::create_dir_all(root.join(name)).expect("make the root");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copy busybox-static");
    for applet in ["sleep", "true"] {
        symlink("busybox", root.join("bin").join(applet)).expect("link to busybox");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary directory has a plain name")
}

fn startup(criterion: &mut Criterion) {
    let ground = Ground::new();
    let layers = ground.layers();
    let who = if geteuid().is_root() { "root" } else { "rootless" };
    let mut group = criterion.benchmark_group(format!("startup, {who}"));
    group.sample_size(30).measurement_time(Duration::from_secs(10));
    for (name, flags) in [("plain", Vec::new()), ("layered", layers)] {
        group.bench_function(format!("run, {name}"), |bencher| {
            bencher.iter(|| ground.run(&flags));
        });
        group.bench_function(format!("create, start, delete, {name}"), |bencher| {
            bencher.iter(|| ground.life(&flags));
        });
    }
    let running = Running::new(&ground);
    group.bench_function("state", |bencher| {
        bencher.iter(|| running.ground.rrun(["state", "bench"]));
    });
    group.bench_function("exec", |bencher| {
        bencher.iter(|| running.ground.rrun(["exec", "bench", "/bin/true"]));
    });
    group.finish();
}

criterion_group!(benches, startup);
criterion_main!(benches);
