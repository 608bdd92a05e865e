//! Mounts an overlay by hand: `mount -o lowerdir=A:B,upperdir=U,workdir=W MOUNTPOINT`.
//!
//! Serves in the foreground until it is unmounted. The mount appears in the caller's mount
//! namespace, so that without being root one calls it inside `unshare --user --mount`.

use std::error::Error;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use rrun_fusefs::{Config, Options, Overlay, attach, mount_detached, open_device, serve};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [flag, options, mountpoint] = arguments.as_slice() else {
        return Err("usage: mount -o OPTIONS MOUNTPOINT".into());
    };
    if flag != "-o" {
        return Err("usage: mount -o OPTIONS MOUNTPOINT".into());
    }
    let overlay = Overlay::open(&Options::parse(options, Config::default())?.config)?;
    let device = open_device()?;
    let target = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(mountpoint)?;
    let mount = mount_detached(device.as_fd())?;
    attach(mount.as_fd(), target.as_fd())?;
    drop((mount, target));
    Ok(serve(overlay, device)?)
}
