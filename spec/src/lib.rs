//! What a container should be: the `config.json` of an OCI bundle, loaded, checked, and written
//! as a template.
//!
//! [`load_bundle`] reads and parses one file; [`check()`] says all that is wrong with it at once;
//! [`unsupported`] says what is right but not applied yet. Apart from reading that one file the
//! crate makes no system call: everything else is a pure function, and knows neither this machine
//! nor this user.
//!
//! The types are those of the crate `oci-spec`, re-exported as [`oci`].

mod check;
mod id_ranges;
mod load;
pub mod mount_options;
mod number_list;
mod template;

pub use check::{
    Problem, Problems, check, check_mounts, check_process, check_resources, sysctl_path,
    unsupported,
};
pub use id_ranges::{IdRange, IdRanges, id_ranges};
pub use load::{
    Bundle, CONFIG, LoadError, load_bundle, load_bundle_with, load_mounts, load_process, parse,
    parse_process, parse_resources,
};
pub use number_list::number_list;
pub use oci_spec::runtime as oci;
pub use template::Template;
