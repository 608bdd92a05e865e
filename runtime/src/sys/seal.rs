//! Keeps the file of this program from being overwritten from inside a container (CVE-2019-5736).
//!
//! A process of ours that has entered a container can be found there, and `/proc/PID/exe` leads to
//! our file: a program named `/proc/self/exe` even makes us execute it again. What is found must
//! not be writable by anybody inside:
//!
//! - an ordinary user's containers hold IDs of that user only, so a file that is not the user's is
//!   safe as it is;
//! - root goes on from a read-only mount of the file;
//! - everybody else goes on from a copy in memory that the kernel has sealed.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::Result;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, faccessat, fexecve, geteuid};
use rrun_spec::mount_options::attr;

use super::mount::{Attributes, clone_tree, set_attributes};

/// Where the kernel shows the file of the program that runs.
const PROGRAM: &str = "/proc/self/exe";

/// The variable that tells the new program that it is the safe one; that is not taken on trust.
const SEALED: &CStr = c"_RRUN_SEALED=1";

/// Whether [`ensure_sealed`] has looked already.
static SAFE: AtomicBool = AtomicBool::new(false);

/// Verbs whose processes enter a container.
const ENTERING: [&str; 3] = ["create", "run", "exec"];

/// Does what [`ensure_sealed`] does if the command line looks as if a process of ours will enter a
/// container: to begin again costs least before anything else was done.
///
/// What is missed here, or fails, the verb itself finds.
pub fn seal_early() {
    if std::env::args_os().skip(1).any(|argument| ENTERING.iter().any(|verb| argument == *verb)) {
        let _tried_again_by_the_verb = ensure_sealed();
    }
}

/// Returns if nobody in a container could overwrite this program's file; else goes on, from the
/// beginning, as a copy of which that is true.
///
/// # Errors
///
/// Those of `memfd_create(2)`, `sendfile(2)` and `execve(2)`.
pub fn ensure_sealed() -> io::Result<()> {
    if SAFE.load(Ordering::Relaxed) {
        return Ok(());
    }
    let program = File::open(PROGRAM)?;
    let told = std::env::var_os("_RRUN_SEALED").is_some();
    if (told && is_safe_copy(&program)) || is_somebody_elses(&program)? {
        SAFE.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let copy = match readonly_mount() {
        Ok(mount) => mount,
        Err(_may_not_mount) => sealed_copy(&program)?,
    };
    match go_on_as(&copy)? {}
}

fn is_safe_copy(program: &File) -> bool {
    let sealed = fcntl(program, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| seals & SealFlag::F_SEAL_SEAL.bits() != 0);
    sealed || fstatvfs(program).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether the file is neither ours nor writable for us, and we are not root, who can write to any.
fn is_somebody_elses(program: &File) -> io::Result<bool> {
    let user = geteuid();
    if user.is_root() || program.metadata()?.uid() == user.as_raw() {
        return Ok(false);
    }
    Ok(faccessat(AT_FDCWD, PROGRAM, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_err())
}

fn readonly_mount() -> Result<OwnedFd> {
    let mount = clone_tree(AT_FDCWD, PROGRAM, false)?;
    let readonly = Attributes { set: attr::RDONLY, ..Attributes::default() };
    set_attributes(mount.as_fd(), readonly, false)?;
    Ok(mount)
}

fn sealed_copy(program: &File) -> io::Result<OwnedFd> {
    let size = program.metadata()?.len();
    let copy = memory_file()?;
    let mut done = 0_u64;
    while done < size {
        let left = usize::try_from(size - done).unwrap_or(usize::MAX);
        match nix::sys::sendfile::sendfile(&copy, program, None, left)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            sent => done += sent as u64,
        }
    }
    // F_SEAL_FUTURE_WRITE and not F_SEAL_WRITE: nobody has mapped the copy yet, and the latter
    // waits until the kernel has put its pages in order, for milliseconds on a busy machine.
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy)
}

fn memory_file() -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Kernels before 6.3 do not know MFD_EXEC, newer ones may demand it.
    let exec = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    memfd_create(c"rrun", flags | exec).or_else(|_old_kernel| memfd_create(c"rrun", flags))
}

fn go_on_as(copy: &OwnedFd) -> io::Result<Infallible> {
    let arguments: Vec<CString> = std::env::args_os()
        .map(|argument| CString::new(argument.into_vec()))
        .collect::<std::result::Result<_, _>>()?;
    let mut environment: Vec<CString> = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec())
        })
        .collect::<std::result::Result<_, _>>()?;
    environment.push(SEALED.to_owned());
    Ok(fexecve(copy, &arguments, &environment)?)
}
