//! What comes from outside and is parsed: one function for each kind of it, which takes any bytes.
//!
//! They state what always holds: no input makes rrun panic, read past an end or run for ever, and what
//! was accepted keeps the promises in the function. `tests/fuzz.rs` feeds them with mutated examples in
//! every run of the tests, `cargo fuzz` (in `fuzz/`) for as long as one likes.

use std::path::Path;

use clap::Parser as _;
use prost::Message as _;
use rrun::cli::Command;
use rrun::confine::capabilities::Available;
use rrun::confine::cgroup::Hierarchies;
use rrun::container::ContainerId;
use rrun::container::kill::parse_signal;
use rrun::criu::rpc::Response;
use rrun::image::archive::Archive;
use rrun::image::digest::Digest;
use rrun::image::document::{self, Config, Document};
use rrun::image::media::{OCI_INDEX, OCI_MANIFEST};
use rrun::image::reference::Reference;
use rrun::plan::{Given, needs_default_maps, plan};
use rrun::process::enter::home_in;
use rrun::process::protocol::{FromServer, ToInit, ToParent, ToServer};
use rrun::store::containers::{Record, state_and_start};
use rrun::userns::{map, subid};

/// A kind of input.
pub(crate) struct Target {
    /// Its name, as that of the fuzz target.
    pub(crate) name: &'static str,
    /// Takes any bytes, and panics if something does not hold.
    pub(crate) run: fn(&[u8]),
    /// Good examples to begin with.
    pub(crate) examples: &'static [&'static [u8]],
}

/// All kinds of input.
pub(crate) const TARGETS: [Target; 11] = [
    Target {
        name: "config",
        run: config,
        examples: &[
            include_bytes!("../spec/tests/fixtures/docker.json"),
            include_bytes!("../spec/tests/fixtures/podman.json"),
            include_bytes!("../spec/tests/fixtures/containerd.json"),
            include_bytes!("examples/everything.json"),
        ],
    },
    Target { name: "process", run: process, examples: &[include_bytes!("examples/process.json")] },
    Target {
        name: "id_ranges",
        run: id_ranges,
        examples: &[
            b"ada:100000:65536\n1000:7:9\nbob:4294967295:2\n",
            b"         0       1000          1\n         1     100000      65536\n",
        ],
    },
    Target {
        name: "proc",
        run: proc,
        examples: &[
            b"12 (a) Z 1) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20",
            b"31 23 0:26 / /sys/fs/cgroup/cpu\\040x rw,nosuid shared:9 - cgroup cgroup rw,cpu\n\
              42 23 0:27 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n5:cpu,cpuacct:/a\n0::/b\n",
        ],
    },
    Target {
        name: "passwd",
        run: passwd,
        examples: &[b"root:x:0:0:root:/root:/bin/sh\nada:x:7:7::/home/ada:\nbroken:x\n"],
    },
    Target {
        name: "messages",
        run: messages,
        examples: &[
            b"\"Go\"",
            br#"{"Failed":{"chain":"mount proc on /proc: EPERM"}}"#,
            br#"{"Warning":{"text":"left out"}}"#,
        ],
    },
    Target { name: "state", run: state, examples: &[include_bytes!("examples/state.json")] },
    Target { name: "archive", run: archive, examples: &[include_bytes!("examples/layer.tar")] },
    Target {
        name: "documents",
        run: documents,
        examples: &[
            include_bytes!("examples/manifest.json"),
            include_bytes!("examples/index.json"),
            include_bytes!("examples/image-config.json"),
        ],
    },
    Target {
        name: "reference",
        run: reference,
        examples: &[
            b"debian",
            b"localhost:5000/a__b/c--d/e.f:v1.2-x",
            b"quay.io/ada/tool@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            b"[::1]:5000/a:b",
        ],
    },
    Target {
        name: "words",
        run: words,
        examples: &[
            b"create\n--bundle\n/b\n--preserve-fds\n2\nweb\n",
            b"exec\n--user\n5:6\n--cap\nCAP_KILL\n-e\nA=1\nweb\nsh\n-c\nexit 1\n",
            b"checkpoint\n--page-server\n[::1]:27\n--status-fd\n3\nweb\n",
            b"kill\nweb\nSIGRTMIN+3\n",
            b"image\nls\n--filter\nreference=a*\n--format\n{{.ID}}\n",
        ],
    },
];

/// A whole configuration: what passes the checks can be planned without a panic, and every complaint is one
/// line.
pub(crate) fn config(data: &[u8]) {
    let path = Path::new("config.json");
    let spec = match rrun_spec::parse(data, path) {
        Ok(spec) => spec,
        Err(error) => return assert_one_line(&error.to_string()),
    };
    if let Err(problems) = rrun_spec::check(&spec) {
        return assert_one_line(&problems.to_string());
    }
    if !rrun_spec::unsupported(&spec).is_empty() || needs_default_maps(&spec, false) {
        return;
    }
    let Ok(capabilities) = Available::current() else { return };
    let given = Given {
        bundle: Path::new("/bundle"),
        default_maps: None,
        capabilities,
        needs_user_namespace: false,
        overlay: None,
        no_pivot: false,
        no_new_keyring: false,
    };
    if let Ok(plan) = plan(&spec, &given) {
        for (name, _value) in &plan.sysctl {
            assert!(!name.split('/').any(|part| part == ".."), "sysctl {name} climbs");
        }
    }
}

/// The process of `exec --process`.
pub(crate) fn process(data: &[u8]) {
    match rrun_spec::parse_process(data, Path::new("process.json")) {
        Ok(process) => drop(rrun_spec::check_process(&process)),
        Err(error) => assert_one_line(&error.to_string()),
    }
}

/// `/etc/subuid` and `/proc/PID/uid_map`: ranges that overflow are none.
pub(crate) fn id_ranges(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for range in subid::ranges(&text, Some("ada"), 1000) {
        let end = u64::from(range.first) + u64::from(range.count);
        assert!(range.count > 0 && end <= 1 << 32, "{range:?}");
    }
    let Ok(maps) = map::parse(&text) else { return };
    if map::check(&maps).is_ok() {
        for range in &maps {
            assert_eq!(map::inside_to_outside(&maps, range.inside), Some(range.outside));
            assert_eq!(map::outside_to_inside(&maps, range.outside), Some(range.inside));
        }
    }
}

/// `/proc/PID/stat`, and `mountinfo` with `cgroup`, between which a name with any bytes may stand.
pub(crate) fn proc(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _no_process = state_and_start(&text);
    let middle = text.floor_char_boundary(text.len() / 2);
    let (mounts, own) = text.split_at(middle);
    for (mounts, own) in [(mounts, own), (&text[..], &text[..])] {
        let found = Hierarchies::parse(mounts, own);
        let all = found.v1.iter().chain(&found.unified);
        for hierarchy in all {
            assert!(hierarchy.own.starts_with(&hierarchy.mount), "{hierarchy:?}");
        }
    }
}

/// `/etc/passwd`, which an image may have written.
pub(crate) fn passwd(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(home_in(&text, 7).is_none_or(|home| home.starts_with('/')));
    let _no_name = subid::name_in(&text, 7);
}

/// What our processes, and CRIU, say to each other.
pub(crate) fn messages(data: &[u8]) {
    let _one_of = (
        serde_json::from_slice::<ToParent>(data).is_ok(),
        serde_json::from_slice::<ToInit>(data).is_ok(),
        serde_json::from_slice::<FromServer>(data).is_ok(),
        serde_json::from_slice::<ToServer>(data).is_ok(),
        Response::decode(data).is_ok(),
    );
}

/// `state.json`: a name in it is always one safe component of a path.
pub(crate) fn state(data: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return };
    let name: &str = record.id.as_str();
    assert!(name.parse::<ContainerId>().is_ok(), "{name:?}");
    assert!(!name.contains('/') && name != "." && name != ".." && !name.is_empty(), "{name:?}");
}

/// A layer: its entries are read to the end, or to an error, and none has more contents than there are bytes.
pub(crate) fn archive(data: &[u8]) {
    let mut archive = Archive::new(data);
    for _ in 0..=data.len() / 512 {
        let Ok(Some(entry)) = archive.next_entry() else { return };
        assert!(entry.mode <= 0o7777 && entry.path.len() <= 4096, "{entry:?}");
        let mut contents = std::io::sink();
        let Ok(length) = std::io::copy(&mut archive, &mut contents) else { return };
        assert!(length <= data.len() as u64, "{entry:?}");
        if let Some(stretches) = &entry.stretches {
            let sum: u64 = stretches.iter().map(|stretch| stretch.length).sum();
            assert_eq!(sum, length, "{entry:?}");
        }
    }
    assert!(!matches!(archive.next_entry(), Ok(Some(_))), "more entries than blocks");
}

/// Index, manifest and configuration of an image: what is accepted has digests that are safe in a path.
pub(crate) fn documents(data: &[u8]) {
    for media_type in [OCI_INDEX, OCI_MANIFEST] {
        match document::parse(data, &media_type.into()) {
            Ok(Document::Manifest(manifest)) => {
                let blobs = manifest.layers.iter().chain([&manifest.config]);
                blobs.for_each(|blob| assert_safe(&blob.digest));
            }
            Ok(Document::Index(choices)) => {
                let _the_host_may_have_none =
                    document::choose(&choices, &"linux/amd64".parse().unwrap());
            }
            Err(error) => assert_one_line(&format!("{error:#}").replace('\n', " ")),
        }
    }
    for layers in 0..3 {
        if let Ok(config) = Config::parse(data, layers) {
            let chain = config.chain();
            assert_eq!(chain.len(), layers);
            chain.iter().for_each(assert_safe);
        }
    }
}

fn assert_safe(digest: &Digest) {
    let (algorithm, hex) = digest.parts();
    let legal =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    assert!(legal(algorithm) && legal(hex), "{digest}");
}

/// A name of an image: what is accepted is written as it would be read again, and is safe in an address.
pub(crate) fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse(), Ok(reference.clone()), "{text:?}");
    assert_eq!(reference.familiar().parse(), Ok(reference.clone()), "{text:?}");
    assert!(
        !reference.repository.split('/').any(|part| matches!(part, "" | "." | "..")),
        "{text:?}"
    );
}

/// The command line, one argument a line.
pub(crate) fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words = std::iter::once("rrun").chain(text.lines());
    if let Err(error) = Command::try_parse_from(words) {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(signal) = parse_signal(&text) {
        assert!((0..=64).contains(&signal), "{signal}");
    }
}

fn assert_one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}
