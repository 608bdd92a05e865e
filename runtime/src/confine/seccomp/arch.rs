//! Architectures: their tokens, and the numbers of the calls in them.

use std::str::FromStr as _;

use anyhow::{Context as _, Result, bail};
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::Arch;

/// `__X32_SYSCALL_BIT`: x32 shares its token with x86-64 and sets this bit in the numbers.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An architecture that a profile can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// What the library calls it.
    pub(super) arch: ScmpArch,
    /// `AUDIT_ARCH_*`, which x32 shares with x86-64.
    pub(super) token: u32,
}

impl Target {
    /// The architecture that this program runs on.
    ///
    /// # Errors
    ///
    /// One that has no name in the runtime-spec, or that makes calls in ways of its own.
    pub(super) fn native() -> Result<Self> {
        let name = match ScmpArch::native() {
            ScmpArch::X8664 => Arch::ScmpArchX86_64,
            ScmpArch::Aarch64 => Arch::ScmpArchAarch64,
            ScmpArch::Arm => Arch::ScmpArchArm,
            ScmpArch::X86 => Arch::ScmpArchX86,
            ScmpArch::Riscv64 => Arch::ScmpArchRiscv64,
            ScmpArch::Loongarch64 => Arch::ScmpArchLoongarch64,
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

    /// The number up to which the call `name` is known here; none if it does not exist.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let call = ScmpSyscall::from_name_by_arch(name, self.arch).ok()?.as_raw_syscall();
        u32::try_from(call).ok().or_else(|| self.last_direct(call))
    }

    /// The last direct number of the family that the library's own number `call` belongs to.
    ///
    /// 32-bit x86 has calls that go through `socketcall` or `ipc` as well as, since Linux 4.3 and
    /// 5.1, directly; the library numbers them below zero, as `socketcall` and `ipc` do.
    ///
    /// Source: libseccomp `include/seccomp.h.in`, `__PNR_socket` and `__PNR_semop`; Linux
    /// `arch/x86/entry/syscalls/syscall_32.tbl`.
    fn last_direct(self, call: i32) -> Option<u32> {
        const SHUTDOWN: u32 = 373;
        const MSGCTL: u32 = 402;
        match (self.arch, call) {
            (ScmpArch::X86, -120..=-101) => Some(SHUTDOWN),
            (ScmpArch::X86, -224..=-201) => Some(MSGCTL),
            _ => None,
        }
    }

    /// The largest number that a call can have here. Above it are those of x32, on x86-64, or -1,
    /// which is no call: a tracer has put it there to skip one.
    pub(super) fn largest(self) -> u32 {
        match self.arch {
            ScmpArch::X8664 => X32_BIT - 1,
            _ => u32::MAX - 1,
        }
    }
}
