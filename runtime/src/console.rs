//! stub
use nix::errno::Errno;
use nix::sys::wait::*;
use std::os::fd::*;
use std::path::Path;
#[derive(Debug)]
pub struct Pty {
    pub master: OwnedFd,
    pub peer: OwnedFd,
}
pub fn open(_d: BorrowedFd<'_>, _s: Option<(u16, u16)>) -> anyhow::Result<Pty> {
    anyhow::bail!(Errno::ENOSYS)
}
pub fn take(_p: &OwnedFd) -> anyhow::Result<()> {
    Ok(())
}
pub fn send_master(_s: &Path, _m: &OwnedFd) -> anyhow::Result<()> {
    Ok(())
}
#[derive(Debug)]
pub struct Foreground;
impl Foreground {
    pub fn begin() -> anyhow::Result<Self> {
        Ok(Self)
    }
    pub fn wait(self, c: &crate::sys::process::Child, _m: Option<OwnedFd>) -> anyhow::Result<u8> {
        match waitpid(c.pid, None)? {
            WaitStatus::Exited(_, c) => Ok(c as u8),
            WaitStatus::Signaled(_, s, _) => Ok(128 + s as u8),
            _ => Ok(1),
        }
    }
}
