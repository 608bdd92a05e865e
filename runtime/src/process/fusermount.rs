//! Mounting through `fusermount3`, which may do it for everybody: where there is no user namespace of
//! ours.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use rrun_fusefs::MountOptions;

/// The program, of the package fuse3.
const PROGRAM: &str = "fusermount3";
/// How it is told where to send the device.
const SOCKET: &str = "_FUSE_COMMFD";

/// Mounts at `mountpoint`, a directory of the caller's, and returns the device to serve.
///
/// # Errors
///
/// If the program is missing, or what it says when it refuses.
pub(super) fn mount(options: &MountOptions, mountpoint: &Path) -> anyhow::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (here, there) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        .context("make a socket for the device")?;
    fcntl(there.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).context("hand over a socket")?;
    let mut program = Command::new(PROGRAM);
    program.arg("-o").arg(arguments(options)).arg("--").arg(mountpoint);
    program.env(SOCKET, there.as_raw_fd().to_string());
    let running =
        program.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().with_context(|| {
            format!("start {PROGRAM}: install the package fuse3, or mount in `unshare -r -m`")
        })?;
    drop(there);
    let device = receive(&here);
    let ended = running.wait_with_output().with_context(|| format!("wait for {PROGRAM}"))?;
    match device {
        Ok(Some(device)) if ended.status.success() => Ok(device),
        _ => {
            let said = String::from_utf8_lossy(&ended.stderr);
            bail!("{}: or mount in `unshare -r -m`", said.trim().replace('\n', "; "))
        }
    }
}

/// The device that the program sends, beside one byte.
fn receive(socket: &OwnedFd) -> nix::Result<Option<OwnedFd>> {
    let (mut byte, mut control) = ([0], nix::cmsg_space!([i32; 1]));
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut device = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            device = fds.into_iter().map(crate::sys::process::received).next_back();
        }
    }
    Ok(device)
}

/// Its options. Others than the caller may use the mount only if asked for: /etc/fuse.conf must allow it.
/// Set-id bits and devices it never lets in.
fn arguments(options: &MountOptions) -> OsString {
    let mut all = OsString::from("fsname=rrun,subtype=rrun,default_permissions");
    let flags = [
        (options.allow_other, "allow_other"),
        (options.read_only, "ro"),
        (options.no_exec, "noexec"),
        (options.no_atime, "noatime"),
        (options.no_dir_atime, "nodiratime"),
    ];
    for (_, name) in flags.into_iter().filter(|(wanted, _)| *wanted) {
        all.push(",");
        all.push(name);
    }
    if let Some(context) = &options.context {
        all.push(",context=");
        all.push(context);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_asked_for() {
        let plain = arguments(&MountOptions::default());
        assert_eq!(plain, "fsname=rrun,subtype=rrun,default_permissions");
        let more = MountOptions { allow_other: true, read_only: true, ..MountOptions::default() };
        assert_eq!(arguments(&more), format!("{},allow_other,ro", plain.display()).as_str());
    }
}
