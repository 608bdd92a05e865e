//! The session keyring of a container (session-keyring(7)): its processes share one that the caller's
//! keys are not in.

use std::ffi::{CStr, CString};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::unistd::getuid;

use crate::container::ContainerId;
use crate::sys::process::{Key, describe_key, join_session_keyring, set_key_permissions};

/// What a keyring that is joined by name has to allow, and no more: everything to who possesses it;
/// to its user to view, read and search it and to link to it. By default the kernel leaves out
/// searching, without which `exec` could not join it.
///
/// Source: Linux `security/keys/process_keys.c`, `join_session_keyring()`; `include/linux/key.h`.
const PERMISSIONS: u32 = 0x3f1b_0000;

/// The name of the session keyring of `id`, as runc calls it.
///
/// # Errors
///
/// Never: a container's name holds no NUL.
pub fn name(id: &ContainerId) -> anyhow::Result<CString> {
    Ok(CString::new(format!("_ses.{id}"))?)
}

/// Leaves the caller's session keyring for the container's, which is made if it is not there yet.
///
/// Another user of the same user namespace may have made one of that name, to see what is put into it:
/// then the process gets one without a name, and shares it with its children alone. Kernels without
/// key retention have none.
///
/// # Errors
///
/// `EDQUOT` past the user's quota of keys.
pub fn join(name: &CStr) -> anyhow::Result<()> {
    let joined = match join_session_keyring(Some(name)) {
        Err(Errno::ENOSYS) => return Ok(()),
        joined => joined.and_then(|_key| take()),
    };
    match joined {
        Ok(()) => Ok(()),
        Err(Errno::EACCES) => join_session_keyring(None).map(drop),
        Err(errno) => Err(errno),
    }
    .context("join the session keyring (--no-new-keyring leaves it out)")
}

/// Makes sure that the session keyring is ours and that `exec` finds it.
fn take() -> nix::Result<()> {
    if owner(&describe_key(Key::SESSION)?) != Some(getuid().as_raw()) {
        return Err(Errno::EACCES);
    }
    set_key_permissions(Key::SESSION, PERMISSIONS)
}

/// The user in `type;uid;gid;permissions;description`.
fn owner(description: &str) -> Option<u32> {
    description.split(';').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{Uid, setresuid};

    use super::*;
    use crate::sys::filter::tests::in_child;
    use crate::sys::process::{Clone, clone, fork};
    use crate::userns::subid::rootless_maps;
    use crate::userns::write::write_maps;

    #[test]
    fn the_owner_is_the_second_field() {
        assert_eq!(owner("keyring;1000;100;3f1b0000;_ses.a;b"), Some(1000));
        for wrong in ["keyring", "keyring;-1;0;0;", "", ";x;"] {
            assert_eq!(owner(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_keyring_is_found_again_by_its_name() {
        in_child(|| {
            let name = CString::new(format!("_ses.test-{}", std::process::id())).unwrap();
            join(&name).unwrap();
            in_child(|| {
                join_session_keyring(None).unwrap();
                join_session_keyring(Some(&name)).unwrap();
                // A new one would have the permissions that the kernel gives it.
                let description = describe_key(Key::SESSION).unwrap();
                assert!(description.contains(";3f1b0000;_ses.test-"), "{description}");
            });
        });
    }

    /// What the process of the next test sees, as root of a user namespace with two users.
    fn is_trapped(name: &CStr) -> nix::Result<bool> {
        let (root, other) = (Uid::from_raw(0), Uid::from_raw(1));
        setresuid(other, other, root)?;
        let trap = join_session_keyring(Some(name))?;
        set_key_permissions(trap, 0x3f3f_3f3f)?;
        setresuid(root, root, root)?;
        // Kept by the parent's session, it is found by its name from another one.
        let child = fork(|| {
            let elsewhere = join_session_keyring(None).is_ok();
            u8::from(!elsewhere || is_fooled(name, trap) != Ok(false))
        })?;
        Ok(waitpid(child, None)? != WaitStatus::Exited(child, 0))
    }

    fn is_fooled(name: &CStr, trap: Key) -> nix::Result<bool> {
        let would_be = join_session_keyring(Some(name))? == trap;
        join(name).map_err(|_| Errno::EIO)?;
        let own = owner(&describe_key(Key::SESSION)?) == Some(0);
        Ok(!would_be || !own)
    }

    #[test]
    fn the_keyring_of_another_user_is_not_joined() {
        in_child(|| {
            let maps = rootless_maps().unwrap().0;
            let (told, tell) = nix::unistd::pipe().unwrap();
            let namespaces = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
            let child = clone(Clone { namespaces, ..Clone::default() }, || {
                let waited = nix::unistd::read(&told, &mut [0]);
                u8::from(waited != Ok(1) || is_trapped(c"_ses.trap") != Ok(false))
            });
            let child = child.unwrap();
            write_maps(child.pid, &maps).unwrap();
            assert_eq!(nix::unistd::write(&tell, b"x"), Ok(1));
            let ended = waitpid(child.pid, None).unwrap();
            assert_eq!(ended, WaitStatus::Exited(child.pid, 0));
        });
    }
}
