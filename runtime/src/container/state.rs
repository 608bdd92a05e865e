//! What a container is doing now.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::confine::cgroup::Cgroup;
use crate::container::{ContainerId, Runtime, Status};
use crate::store::containers::{Record, is_waiting};

/// The version of the specification that `state` follows.
pub const OCI_VERSION: &str = "1.3.0";

/// A container as `state` and `list` show it; the keys are runc's.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of the specification.
    #[serde(rename = "ociVersion")]
    pub oci_version: &'static str,
    /// Its name.
    pub id: ContainerId,
    /// Its first process; 0 once that has ended.
    pub pid: i32,
    /// What it is doing.
    pub status: Status,
    /// The absolute path of its bundle.
    pub bundle: PathBuf,
    /// The absolute path of its root directory.
    pub rootfs: PathBuf,
    /// When it was created: RFC 3339 with nanoseconds.
    pub created: String,
    /// The annotations of its configuration.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// The name of the user that created it, empty if the number has none.
    pub owner: String,
}

impl Runtime {
    /// What `record`'s container is doing now.
    #[must_use]
    pub fn status(&self, record: &Record) -> Status {
        if !record.is_alive() {
            return Status::Stopped;
        }
        if is_waiting(&self.containers.path(&record.id)) {
            return Status::Created;
        }
        match record.cgroup.as_ref().map(Cgroup::frozen) {
            Some(Ok(true)) => Status::Paused,
            _ => Status::Running,
        }
    }

    /// The report on one container.
    #[must_use]
    pub fn report(&self, record: Record) -> Report {
        let status = self.status(&record);
        Report {
            oci_version: OCI_VERSION,
            pid: if status == Status::Stopped { 0 } else { record.init.pid },
            status,
            owner: crate::userns::subid::user_name(record.owner).unwrap_or_default(),
            id: record.id,
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
        }
    }
}
