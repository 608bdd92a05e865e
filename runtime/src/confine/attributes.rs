//! How a program is scheduled, where its memory lies, what it takes itself for: the same for `create`
//! and `exec`.

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use rrun_spec::oci::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy,
    LinuxPersonalityDomain, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};

use crate::sys::attributes::{
    SchedulerAttributes, set_affinity, set_io_priority, set_memory_policy, set_personality,
    set_scheduler,
};

/// `PER_LINUX32`: `uname(2)` names the 32-bit machine.
const LINUX32: u32 = 8;

/// As many processors as a kernel can be built for (`CONFIG_NR_CPUS`).
const PROCESSORS: usize = 8192;

/// What a program gets besides its identity. Nothing that is not asked for costs a system call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    scheduler: Option<SchedulerAttributes>,
    /// Whether the container's cgroup has some of the processors only.
    some_processors: bool,
    io_priority: Option<u32>,
    memory: Option<MemoryPolicy>,
    personality: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MemoryPolicy {
    mode: u32,
    nodes: Vec<u64>,
}

impl Attributes {
    /// What `process` asks for, and `linux` for all processes of the container.
    ///
    /// # Errors
    ///
    /// A list of nodes that is none, with its JSON pointer.
    pub fn plan(process: &Process, linux: Option<&Linux>) -> Result<Self> {
        let policy = linux.and_then(|linux| linux.memory_policy().as_ref());
        let personality = linux.and_then(|linux| linux.personality().as_ref());
        Ok(Self {
            scheduler: process.scheduler().as_ref().map(scheduler),
            some_processors: linux.is_some_and(has_some_processors),
            io_priority: process.io_priority().as_ref().map(io_priority),
            memory: policy.map(memory_policy).transpose()?,
            personality: personality.map(|personality| match personality.domain() {
                LinuxPersonalityDomain::PerLinux => 0,
                LinuxPersonalityDomain::PerLinux32 => LINUX32,
            }),
        })
    }

    /// Gives all of it to the calling process, while that still has the privileges for it.
    ///
    /// # Errors
    ///
    /// What the kernel refuses, with the JSON pointer and, where there is one, the cure.
    pub fn apply(&self) -> Result<()> {
        if let Some(scheduler) = self.scheduler {
            set_scheduler(scheduler).map_err(|errno| match errno {
                Errno::EPERM if self.some_processors => anyhow!(
                    "/process/scheduler: EPERM: the process scheduler can't be used together with \
                     AllowedCPUs: remove /linux/resources/cpu/cpus"
                ),
                errno => refusal("/process/scheduler", errno),
            })?;
        }
        if let Some(value) = self.io_priority {
            set_io_priority(value).map_err(|errno| refusal("/process/ioPriority", errno))?;
        }
        if let Some(memory) = &self.memory {
            set_memory_policy(memory.mode, &memory.nodes)
                .map_err(|errno| refusal("/linux/memoryPolicy", errno))?;
        }
        if let Some(kind) = self.personality {
            set_personality(kind).context("/linux/personality")?;
        }
        Ok(())
    }
}

/// `SCHED_DEADLINE` is for who may run everywhere (`sched_setattr(2)`).
fn has_some_processors(linux: &Linux) -> bool {
    let cpu = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref());
    cpu.is_some_and(|cpu| cpu.cpus().as_deref().is_some_and(|cpus| !cpus.is_empty()))
}

fn refusal(pointer: &str, errno: Errno) -> anyhow::Error {
    let cure = match (pointer, errno) {
        ("/process/scheduler", Errno::EPERM) => {
            ": it needs CAP_SYS_NICE outside of any user namespace and, where cgroups share out \
             real time, /linux/resources/cpu/realtimeRuntime"
        }
        (_, Errno::EPERM) => ": it needs CAP_SYS_NICE outside of any user namespace",
        ("/process/scheduler", Errno::EBUSY) => {
            ": the machine has not that much time left to promise"
        }
        ("/linux/memoryPolicy", Errno::EINVAL) => {
            ": a node or mode that this machine does not have"
        }
        (_, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            ": this kernel does not have that"
        }
        _ => "",
    };
    anyhow!("{pointer}: {errno}{cure}")
}

/// Source: Linux `include/uapi/linux/sched.h`.
fn scheduler(wanted: &Scheduler) -> SchedulerAttributes {
    let policy = match wanted.policy() {
        Policy::SchedOther => libc::SCHED_OTHER,
        Policy::SchedFifo => libc::SCHED_FIFO,
        Policy::SchedRr => libc::SCHED_RR,
        Policy::SchedBatch => libc::SCHED_BATCH,
        Policy::SchedIso => 4,
        Policy::SchedIdle => libc::SCHED_IDLE,
        Policy::SchedDeadline => libc::SCHED_DEADLINE,
    };
    let flag = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    };
    let flags = wanted.flags().iter().flatten().fold(0, |flags, one| flags | flag(one));
    SchedulerAttributes {
        policy: policy.unsigned_abs(),
        flags,
        nice: wanted.nice().unwrap_or(0),
        priority: wanted.priority().unwrap_or(0).unsigned_abs(),
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
        ..SchedulerAttributes::default()
    }
}

/// Source: Linux `include/uapi/linux/ioprio.h`.
fn io_priority(wanted: &LinuxIOPriority) -> u32 {
    const CLASS_SHIFT: u32 = 13;
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    class << CLASS_SHIFT | u32::try_from(wanted.priority()).unwrap_or(0)
}

/// Source: Linux `include/uapi/linux/mempolicy.h`.
fn memory_policy(wanted: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    let mode = match wanted.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let mode = wanted.flags().iter().flatten().fold(mode, |mode, one| mode | flag(one));
    let nodes = wanted.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let nodes = nodes.map(mask).transpose().context("/linux/memoryPolicy/nodes")?;
    Ok(MemoryPolicy { mode, nodes: nodes.unwrap_or_default() })
}

/// One bit for each number of `list`.
fn mask(list: &str) -> Result<Vec<u64>> {
    const BITS: u32 = u64::BITS;
    let mut mask = Vec::new();
    for number in rrun_spec::number_list(list).map_err(anyhow::Error::msg)?.into_iter().flatten() {
        let word = usize::try_from(number / BITS)?;
        mask.resize(mask.len().max(word + 1), 0);
        mask[word] |= 1 << (number % BITS);
    }
    Ok(mask)
}

/// On which processors `exec` makes its process, and on which that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity {
    initial: Option<Vec<u64>>,
    last: Option<Vec<u64>>,
}

impl Affinity {
    /// What `execCPUAffinity` says.
    ///
    /// # Errors
    ///
    /// A list that is none, with its JSON pointer.
    pub fn plan(wanted: Option<&ExecCPUAffinity>) -> Result<Self> {
        let of = |list: &Option<String>, name: &str| {
            let mask = list.as_deref().map(mask).transpose();
            mask.with_context(|| format!("/process/execCPUAffinity/{name}"))
        };
        let Some(wanted) = wanted else { return Ok(Self::default()) };
        Ok(Self {
            initial: of(wanted.initial(), "initial")?,
            last: of(wanted.cpu_affinity_final(), "final")?,
        })
    }

    /// Says where the process is made, in the form of runc's log.
    pub fn log(&self) {
        let digits = self.initial.iter().flatten().rev().map(|word| format!("{word:016x}"));
        if self.initial.is_some() {
            let digits: String = digits.collect();
            log::debug!("nsexec: affinity: 0x{}", digits.trim_start_matches('0'));
        }
    }

    /// Before the process enters the container's cgroup.
    ///
    /// # Errors
    ///
    /// Processors that are not there.
    pub fn before_cgroup(&self) -> Result<()> {
        pin(self.initial.as_deref(), "initial", "the machine")
    }

    /// After that; where no processors are asked for, all that the cgroup allows.
    ///
    /// # Errors
    ///
    /// Processors that the cgroup does not allow.
    pub fn after_cgroup(&self) -> Result<()> {
        if self.initial.is_none() && self.last.is_none() {
            use_all_processors();
        }
        pin(self.last.as_deref(), "final", "the container's cgroup")
    }
}

/// Lets the calling process run on all processors that its cgroup allows: what the caller of ours is pinned
/// to, a service manager's choice perhaps, is not the container's (as with runc).
pub fn use_all_processors() {
    let all = [u64::MAX; PROCESSORS / u64::BITS as usize];
    // A filter of system calls around us may refuse: then it runs where it does.
    let _as_it_was = set_affinity(&all);
}

fn pin(mask: Option<&[u64]>, name: &str, place: &str) -> Result<()> {
    let Some(mask) = mask else { return Ok(()) };
    set_affinity(mask).map_err(|errno| match errno {
        Errno::EINVAL => {
            anyhow!("/process/execCPUAffinity/{name}: {place} has none of these processors")
        }
        _ => anyhow!("/process/execCPUAffinity/{name}: {errno}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sys::filter::tests::in_child;

    fn planned(process: &Value, linux: Value) -> Attributes {
        let mut whole = json!({"cwd": "/", "user": {}});
        whole.as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        let process = serde_json::from_value(whole).unwrap();
        Attributes::plan(&process, Some(&serde_json::from_value(linux).unwrap())).unwrap()
    }

    #[test]
    fn masks_have_a_bit_for_each_number() {
        assert_eq!(mask("0-1,3").unwrap(), [0b1011]);
        assert_eq!(mask("64,128-129").unwrap(), [0, 1, 0b11]);
        assert!(mask("1-").is_err());
    }

    #[test]
    fn names_become_the_kernel_s_numbers() {
        let process = json!({
            "scheduler": {"policy": "SCHED_DEADLINE", "nice": -3, "runtime": 2000,
                "deadline": 3000, "period": 4000,
                "flags": ["SCHED_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"]},
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
        });
        let linux = json!({
            "personality": {"domain": "LINUX32"},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0,65",
                "flags": ["MPOL_F_STATIC_NODES"]},
        });
        let attributes = planned(&process, linux);
        let scheduler = attributes.scheduler.unwrap();
        assert_eq!((scheduler.policy, scheduler.flags, scheduler.nice), (6, 3, -3));
        assert_eq!((scheduler.runtime, scheduler.deadline, scheduler.period), (2000, 3000, 4000));
        assert_eq!(attributes.io_priority, Some(0x6004));
        assert_eq!(attributes.memory, Some(MemoryPolicy { mode: 0x8002, nodes: vec![1, 2] }));
        assert_eq!(attributes.personality, Some(8));
        assert_eq!(planned(&json!({}), json!({})), Attributes::default());
    }

    #[test]
    fn a_refusal_names_the_field_and_the_cure() {
        in_child(|| {
            let linux = json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "8191"}});
            let error = planned(&json!({}), linux).apply().unwrap_err().to_string();
            assert!(error.starts_with("/linux/memoryPolicy: EINVAL"), "{error}");
            let affinity = json!({"initial": "8191", "final": "8190"});
            let affinity: ExecCPUAffinity = serde_json::from_value(affinity).unwrap();
            let affinity = Affinity::plan(Some(&affinity)).unwrap();
            let error = affinity.before_cgroup().unwrap_err().to_string();
            assert_eq!(
                error,
                "/process/execCPUAffinity/initial: the machine has none of these processors"
            );
        });
        let error = refusal("/process/scheduler", Errno::EPERM).to_string();
        assert!(error.contains("CAP_SYS_NICE"), "{error}");
    }
}
