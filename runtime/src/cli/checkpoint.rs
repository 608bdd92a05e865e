//! `rrun checkpoint`: a container's processes become files.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Global;
use super::images::ImagesArgs;
use crate::container::ContainerId;
use crate::container::checkpoint::Request;

/// Save a running container to files
///
/// The program criu does the work; it needs root. Unless the container is to go on, it is deleted
/// afterwards, and `rrun restore` makes it anew from its bundle and the files.
#[derive(Debug, clap::Args)]
pub(super) struct Checkpoint {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: ContainerId,
    #[command(flatten)]
    images: ImagesArgs,
    /// Let the container go on afterwards
    #[arg(long)]
    leave_running: bool,
    /// Save memory only, as a beginning, and let the container go on
    #[arg(long)]
    pre_dump: bool,
    /// Earlier images that these build on, relative to --image-path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Send memory to this server instead of into the images
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    page_server: Option<(String, u16)>,
    /// Descriptor that gets a zero byte when lazy pages can be fetched
    #[arg(long, value_name = "FD", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
    status_fd: Option<i32>,
    /// Leave out TCP connections that are just being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give removed files that are still open a name for the time being
    #[arg(long)]
    link_remap: bool,
}

impl Checkpoint {
    /// Saves the container.
    ///
    /// # Errors
    ///
    /// If it does not run, or CRIU is missing or refuses.
    pub(super) fn run(&self, global: &Global) -> Result<u8> {
        let request = Request {
            images: self.images.images(),
            leave_running: self.leave_running,
            pre_dump: self.pre_dump,
            parent: self.parent_path.clone(),
            page_server: self.page_server.clone(),
            status_fd: self.status_fd.filter(|fd| *fd >= 0),
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            link_remap: self.link_remap,
        };
        let saved = global.runtime()?.checkpoint(&self.id, &request);
        saved.with_context(|| format!("checkpoint {}", self.id)).map(|()| 0)
    }
}

fn page_server(text: &str) -> Result<(String, u16), String> {
    let wanted = || format!("{text:?}: want ADDRESS:PORT");
    let (address, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match port.parse() {
        Ok(port) if port > 0 && !address.is_empty() => Ok((address.to_owned(), port)),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers_have_an_address_and_a_port() {
        assert_eq!(page_server("h:1"), Ok(("h".into(), 1)));
        assert_eq!(page_server("[::1]:27"), Ok(("::1".into(), 27)));
        for wrong in ["", "h", "h:", ":1", "h:0", "h:65536", "h:x"] {
            assert!(page_server(wrong).is_err(), "{wrong:?}");
        }
    }
}
