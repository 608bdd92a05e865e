//! Architectures: their tokens, and the numbers of the calls in them.

use std::str::FromStr as _;

use anyhow::{Context as _, Result, bail};
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::Arch;

use super::bpf::X32_BIT;

/// An architecture that a profile can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    arch: ScmpArch,
    /// `AUDIT_ARCH_*`, which x32 shares with x86-64.
    pub(super) token: u32,
}

/// The calls of 32-bit x86 that multiplex others, the one meant being the first argument.
const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// What can be reached on 32-bit x86 through one of them: name, through which, the first argument, and
/// the number of the direct call, which is younger. The library gives numbers of its own for these.
///
/// Source: Linux `include/uapi/linux/net.h` and `ipc.h`, `arch/x86/entry/syscalls/syscall_32.tbl`.
#[rustfmt::skip]
const MULTIPLEXED: [(&str, u32, u64, Option<u32>); 32] = [
    ("socket", SOCKETCALL, 1, Some(359)),
    ("bind", SOCKETCALL, 2, Some(361)),
    ("connect", SOCKETCALL, 3, Some(362)),
    ("listen", SOCKETCALL, 4, Some(363)),
    ("accept", SOCKETCALL, 5, None),
    ("getsockname", SOCKETCALL, 6, Some(367)),
    ("getpeername", SOCKETCALL, 7, Some(368)),
    ("socketpair", SOCKETCALL, 8, Some(360)),
    ("send", SOCKETCALL, 9, None),
    ("recv", SOCKETCALL, 10, None),
    ("sendto", SOCKETCALL, 11, Some(369)),
    ("recvfrom", SOCKETCALL, 12, Some(371)),
    ("shutdown", SOCKETCALL, 13, Some(373)),
    ("setsockopt", SOCKETCALL, 14, Some(366)),
    ("getsockopt", SOCKETCALL, 15, Some(365)),
    ("sendmsg", SOCKETCALL, 16, Some(370)),
    ("recvmsg", SOCKETCALL, 17, Some(372)),
    ("accept4", SOCKETCALL, 18, Some(364)),
    ("recvmmsg", SOCKETCALL, 19, Some(337)),
    ("sendmmsg", SOCKETCALL, 20, Some(345)),
    ("semop", IPC, 1, None),
    ("semget", IPC, 2, Some(393)),
    ("semctl", IPC, 3, Some(394)),
    ("semtimedop", IPC, 4, None),
    ("msgsnd", IPC, 11, Some(400)),
    ("msgrcv", IPC, 12, Some(401)),
    ("msgget", IPC, 13, Some(399)),
    ("msgctl", IPC, 14, Some(402)),
    ("shmat", IPC, 21, Some(397)),
    ("shmdt", IPC, 22, Some(398)),
    ("shmget", IPC, 23, Some(395)),
    ("shmctl", IPC, 24, Some(396)),
];

impl Target {
    /// The architecture that this program runs on.
    ///
    /// # Errors
    ///
    /// One that has no name in the runtime-spec.
    pub(super) fn native() -> Result<Self> {
        let name = match ScmpArch::native() {
            ScmpArch::X8664 => Arch::ScmpArchX86_64,
            ScmpArch::Aarch64 => Arch::ScmpArchAarch64,
            ScmpArch::Arm => Arch::ScmpArchArm,
            ScmpArch::X86 => Arch::ScmpArchX86,
            ScmpArch::Riscv64 => Arch::ScmpArchRiscv64,
            ScmpArch::Loongarch64 => Arch::ScmpArchLoongarch64,
            // The others multiplex calls in ways of their own.
            other => bail!("seccomp on {other:?} is not supported yet"),
        };
        Self::named(name)
    }

    /// The architecture of a profile.
    ///
    /// # Errors
    ///
    /// One that libseccomp does not know.
    pub(super) fn named(name: Arch) -> Result<Self> {
        let arch = ScmpArch::from_str(&name.to_string()).context("unknown architecture")?;
        match (arch, name) {
            (ScmpArch::Native, _) => Self::native(),
            (ScmpArch::X32, _) => Ok(Self { arch, token: Arch::ScmpArchX86_64 as u32 }),
            // The runtime-spec's numbers are the kernel's tokens.
            _ => Ok(Self { arch, token: name as u32 }),
        }
    }

    /// Whether an argument has 32 bits.
    pub(super) fn is_half(self) -> bool {
        const AUDIT_ARCH_64BIT: u32 = 0x8000_0000;
        self.token & AUDIT_ARCH_64BIT == 0
    }

    /// Whether these are the 32-bit calls of an x86-64 kernel, with numbers of their own.
    pub(super) fn is_x32(self) -> bool {
        self.arch == ScmpArch::X32
    }

    /// Whether x32 calls could come with this token.
    pub(super) fn is_x86_64(self) -> bool {
        self.arch == ScmpArch::X8664
    }

    /// The number of the call `name`, without the bit of x32; none if it does not exist here.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let call = ScmpSyscall::from_name_by_arch(name, self.arch).ok()?.as_raw_syscall();
        match u32::try_from(call) {
            Ok(number) if self.is_x32() => Some(number & !X32_BIT),
            Ok(number) => Some(number),
            // What does not exist here, or has no single number.
            Err(_negative) => self.entry(name)?.3,
        }
    }

    /// Through which other call, with which first argument, `name` can be reached too.
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, u64)> {
        let (_name, through, selector, _direct) = self.entry(name)?;
        Some((*through, *selector))
    }

    fn entry(self, name: &str) -> Option<&'static (&'static str, u32, u64, Option<u32>)> {
        let here = self.arch == ScmpArch::X86;
        here.then(|| MULTIPLEXED.iter().find(|(call, ..)| *call == name)).flatten()
    }
}
