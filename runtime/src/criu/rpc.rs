//! The messages of CRIU's RPC, as far as we use them.
//!
//! Protocol buffers: what matters are the numbers of the fields, which never change. Fields that we do
//! not know are skipped.
//!
//! Source: CRIU `images/rpc.proto`.

/// What a message is about (`criu_req_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// None: what CRIU answers to what it does not understand.
    Empty = 0,
    /// Save a process with all that come from it.
    Dump = 1,
    /// Bring them back.
    Restore = 2,
    /// Save their memory, as a beginning; they go on.
    PreDump = 4,
    /// A turn of the work, in which we may do our part.
    Notify = 6,
}

/// What becomes of cgroups (`criu_cg_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CgroupMode {
    /// Nothing.
    Ignore = 0,
    /// Properties are restored for cgroups that CRIU makes.
    Soft = 3,
    /// Properties are always restored.
    Full = 4,
    /// All must be made by CRIU.
    Strict = 5,
    /// What CRIU thinks best, which is `Soft`.
    Default = 6,
}

/// `criu_page_server_info`
#[derive(Clone, PartialEq, prost::Message)]
pub struct PageServer {
    /// Where it is.
    #[prost(string, optional, tag = "1")]
    pub address: Option<String>,
    /// Its port.
    #[prost(int32, optional, tag = "2")]
    pub port: Option<i32>,
}

/// A mount that comes from outside of the container (`ext_mount_map`).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExternalMount {
    /// Where it is inside.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Its name in the images; for a restore, the source on the host.
    #[prost(string, required, tag = "2")]
    pub value: String,
}

/// `join_namespace`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JoinNamespace {
    /// Its kind.
    #[prost(string, required, tag = "1")]
    pub kind: String,
    /// The file that stands for it.
    #[prost(string, required, tag = "2")]
    pub path: String,
}

/// A descriptor of the process `criu` that takes the place of one that was saved (`inherit_fd`).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InheritFd {
    /// What it was.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Its number.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// `cgroup_root`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CgroupRoot {
    /// The controllers of the hierarchy, empty for version 2.
    #[prost(string, optional, tag = "1")]
    pub controllers: Option<String>,
    /// The directory that takes the place of the old root.
    #[prost(string, required, tag = "2")]
    pub path: String,
}

/// `criu_opts`; descriptors are numbers of ours, except those to inherit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Options {
    /// The directory of the images.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// The process to save.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// Whether it goes on afterwards.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// Whether unix sockets may have a peer outside.
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    /// Whether TCP connections are saved too.
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    /// Whether any path to a device will do.
    #[prost(bool, optional, tag = "6")]
    pub evasive_devices: Option<bool>,
    /// Whether session and terminal may be those of a shell outside.
    #[prost(bool, optional, tag = "7")]
    pub shell_job: Option<bool>,
    /// Whether file locks are saved too.
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    /// How much is logged: 1 errors to 4 everything.
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// The log's name in the work directory.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// Where memory goes instead of into the images.
    #[prost(message, optional, tag = "11")]
    pub page_server: Option<PageServer>,
    /// Whether we want to hear of the turns of the work.
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    /// The root directory.
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// The images that these build on, relative to the directory of the images.
    #[prost(string, optional, tag = "14")]
    pub parent_images: Option<String>,
    /// Whether changes of memory are tracked from now on.
    #[prost(bool, optional, tag = "15")]
    pub track_memory: Option<bool>,
    /// Whether pages that the parent has, too, are removed there.
    #[prost(bool, optional, tag = "16")]
    pub auto_dedup: Option<bool>,
    /// The directory of logs and other files that are no images.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Whether removed files may get a name again for the time being.
    #[prost(bool, optional, tag = "18")]
    pub link_remap: Option<bool>,
    /// Mounts from outside.
    #[prost(message, repeated, tag = "23")]
    pub external_mounts: Vec<ExternalMount>,
    /// Before there were modes: whether CRIU takes care of cgroups.
    #[prost(bool, optional, tag = "24")]
    pub manage_cgroups: Option<bool>,
    /// The cgroups that the processes are restored into.
    #[prost(message, repeated, tag = "25")]
    pub cgroup_roots: Vec<CgroupRoot>,
    /// Whether what is restored becomes a child of ours.
    #[prost(bool, optional, tag = "26")]
    pub restore_as_sibling: Option<bool>,
    /// Descriptors to inherit.
    #[prost(message, repeated, tag = "27")]
    pub inherit_fds: Vec<InheritFd>,
    /// How CRIU takes care of cgroups.
    #[prost(enumeration = "CgroupMode", optional, tag = "34")]
    pub cgroup_mode: Option<i32>,
    /// Things from outside, by `TYPE[ID]:NAME`.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// `CLONE_NEW*` of namespaces that are made, but not filled.
    #[prost(uint32, optional, tag = "38")]
    pub empty_namespaces: Option<u32>,
    /// Namespaces to join.
    #[prost(message, repeated, tag = "39")]
    pub join_namespaces: Vec<JoinNamespace>,
    /// The cgroup by which processes are frozen.
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    /// Whether connections that are being made are left out.
    #[prost(bool, optional, tag = "46")]
    pub tcp_skip_in_flight: Option<bool>,
    /// Whether memory follows when it is touched.
    #[prost(bool, optional, tag = "48")]
    pub lazy_pages: Option<bool>,
    /// Whether the master of a terminal outside is handed to us.
    #[prost(bool, optional, tag = "50")]
    pub orphan_pts_master: Option<bool>,
    /// A file whose settings go before these.
    #[prost(string, optional, tag = "51")]
    pub config_file: Option<String>,
    /// The profile of the security module, as `TYPE:NAME`.
    #[prost(string, optional, tag = "53")]
    pub lsm_profile: Option<String>,
    /// The context of mounts.
    #[prost(string, optional, tag = "63")]
    pub lsm_mount_context: Option<String>,
}

/// `criu_req`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// What is wanted.
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    /// How.
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    /// The answer to a notice.
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
}

/// `criu_notify`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Notice {
    /// Which turn it is.
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    /// The process that it is about.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

/// `criu_resp`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// What it answers.
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    /// Whether it was done.
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    /// A turn of the work.
    #[prost(message, optional, tag = "5")]
    pub notice: Option<Notice>,
    /// Why it was not done.
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    /// The same in words.
    #[prost(string, optional, tag = "9")]
    pub complaint: Option<String>,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// Written by hand from the numbers in `rpc.proto`.
    #[test]
    fn messages_are_those_of_criu() {
        let request = Request {
            kind: Kind::Dump.into(),
            options: Some(Options {
                images_dir_fd: 5,
                pid: Some(300),
                log_file: Some("l".into()),
                cgroup_mode: Some(CgroupMode::Soft.into()),
                ..Options::default()
            }),
            notify_success: None,
        };
        let options = [0x08, 5, 0x10, 0xac, 2, 0x52, 1, b'l', 0x90, 2, 3];
        let mut expected = vec![0x08, 1, 0x12, 11];
        expected.extend(options);
        assert_eq!(request.encode_to_vec(), expected);
        let response = [0x08, 6, 0x10, 1, 0x2a, 5, 0x0a, 1, b'x', 0x10, 7, 0x38, 9, 0x60, 1];
        let response = Response::decode(&response[..]).unwrap();
        assert_eq!(
            (response.kind(), response.success, response.errno),
            (Kind::Notify, true, Some(9))
        );
        let notice = response.notice.unwrap();
        assert_eq!((notice.script(), notice.pid()), ("x", 7));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [&[][..], &[0x08], &[0x2a, 200, 1], &[0xff; 20], &[0x08, 1]] {
            let decoded = Response::decode(bytes);
            assert!(decoded.is_err() || !decoded.unwrap().success, "{bytes:?}");
        }
    }
}
