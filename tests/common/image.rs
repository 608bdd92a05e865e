//! Images made by hand: layers as anybody may write them, in an OCI image layout.

use std::fs;
use std::path::{Path, PathBuf};

use rrun::image::digest::Digest;
use serde_json::{Value, json};
use tar_core::EntryType;
use tar_core::builder::{EntryBuilder, ExtensionMode};

use super::Sandbox;

/// An archive that grows entry by entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    bytes: Vec<u8>,
}

/// One entry; what is not said is usual.
#[derive(Clone, Debug)]
pub(crate) struct Described<'a> {
    pub(crate) kind: EntryType,
    pub(crate) link: &'a str,
    pub(crate) content: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) modified: u64,
    pub(crate) device: (u32, u32),
    pub(crate) pax: &'a [(&'a str, &'a [u8])],
}

impl Default for Described<'_> {
    fn default() -> Self {
        Self {
            kind: EntryType::Regular,
            link: "",
            content: b"",
            mode: 0o644,
            owner: (0, 0),
            modified: 1_000_000_000,
            device: (0, 0),
            pax: &[],
        }
    }
}

impl Layer {
    pub(crate) fn entry(mut self, path: &str, it: &Described<'_>) -> Self {
        let mut builder = EntryBuilder::new_ustar();
        builder.set_extension_mode(ExtensionMode::Pax);
        builder.path(path).mode(it.mode).unwrap().size(it.content.len() as u64).unwrap();
        builder.uid(it.owner.0).unwrap().gid(it.owner.1).unwrap();
        builder.mtime(it.modified).unwrap().entry_type(it.kind);
        if !it.link.is_empty() {
            builder.link_name(it.link);
        }
        if matches!(it.kind, EntryType::Char | EntryType::Block) {
            builder.device(it.device.0, it.device.1).unwrap();
        }
        for (key, value) in it.pax {
            builder.add_pax(key, value);
        }
        self.bytes.extend(builder.finish_bytes());
        self.bytes.extend(it.content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.entry(path, &Described { content: content.as_bytes(), ..Described::default() })
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        let kind = EntryType::Directory;
        self.entry(path, &Described { kind, mode, ..Described::default() })
    }

    pub(crate) fn link(self, kind: EntryType, path: &str, link: &str) -> Self {
        self.entry(path, &Described { kind, link, mode: 0o777, ..Described::default() })
    }

    /// The archive with its end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }
}

/// An OCI image layout at `path` with one image.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    pub(crate) chain: Vec<Digest>,
    pub(crate) id: Digest,
}

impl Layout {
    /// Of these archives, uncompressed.
    pub(crate) fn new(path: PathBuf, name: &str, layers: &[Vec<u8>]) -> Self {
        let blobs: Vec<_> = layers.iter().map(|tar| (tar.clone(), tar.clone())).collect();
        Self::compressed(path, name, &blobs)
    }

    /// Of these blobs, and what they hold.
    pub(crate) fn compressed(path: PathBuf, name: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let diffs: Vec<_> = layers.iter().map(|(_, tar)| Digest::of(tar)).collect();
        let config = json!({
            "created": "2024-03-01T10:00:00Z", "architecture": architecture(), "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"color": "blue"}},
            "rootfs": {"type": "layers", "diff_ids": diffs},
            "history": [
                {"created_by": "nothing", "empty_layer": true},
                {"created_by": "COPY a b", "comment": "by hand"},
            ],
        });
        Self::with_config(path, name, layers, &config)
    }

    pub(crate) fn with_config(
        path: PathBuf,
        name: &str,
        layers: &[(Vec<u8>, Vec<u8>)],
        config: &Value,
    ) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let mut chain: Vec<Digest> = Vec::new();
        let mut descriptors = Vec::new();
        for (blob, tar) in layers {
            let compression = match blob.as_slice() {
                [0x1f, 0x8b, ..] => "+gzip",
                [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
                _ => "",
            };
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{compression}");
            descriptors.push(put(&path, blob, &media_type));
            let own = Digest::of(tar);
            let next = chain
                .last()
                .map_or(own.clone(), |below| Digest::of(format!("{below} {own}").as_bytes()));
            chain.push(next);
        }
        let config = config.to_string().into_bytes();
        let id = Digest::of(&config);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(&path, &config, "application/vnd.oci.image.config.v1+json"),
            "layers": descriptors,
        });
        let mut entry = put(
            &path,
            manifest.to_string().as_bytes(),
            "application/vnd.oci.image.manifest.v1+json",
        );
        if !name.is_empty() {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(path.join("index.json"), index.to_string()).unwrap();
        Self { path, chain, id }
    }

    /// Changes a JSON file of the layout.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path.join("index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut index);
        fs::write(path, index.to_string()).unwrap();
    }

    pub(crate) fn as_str(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Where `sandbox` has layer number `at`.
    pub(crate) fn unpacked(&self, sandbox: &Sandbox, at: usize) -> PathBuf {
        sandbox.data().join("layers").join(self.chain[at].hex()).join("diff")
    }
}

/// Puts a blob into a layout; its descriptor.
pub(crate) fn put(layout: &Path, content: &[u8], media_type: &str) -> Value {
    let digest = Digest::of(content);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), content).unwrap();
    json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

/// This machine's, as Go calls it.
pub(crate) fn architecture() -> String {
    rrun::image::platform::Platform::host().architecture
}

/// An extended attribute of a path, that of a link itself.
pub(crate) fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let directory = fs::File::open(path.parent().unwrap()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    use std::os::fd::AsFd;
    rrun::sys::xattr::get(directory.as_fd(), path.file_name().unwrap(), &name).ok()
}
