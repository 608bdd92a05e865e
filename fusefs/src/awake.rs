//! Keeps processors from falling asleep while requests follow each other closely.
//!
//! Each request wakes the server, and each reply its client. Where a processor has nothing else to
//! do it is halted meanwhile, and to wake it takes longer than the request itself: 25 to 80 µs in
//! a virtual machine. So while there are many requests one thread for each processor spins, in the
//! scheduler's idle class, which gives way to everything else (`SCHED_IDLE`, sched(7)); soon
//! after the last request they sleep, and an idle mount costs nothing. On a machine that has other
//! work no processor is halted: there they only would be in the way, and are not woken.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::sys::schedule;

/// Requests farther apart than this are no rush, in microseconds: without us, the four requests that
/// make a file take about 300.
const APART: u64 = 500;
/// Requests without a longer pause before processors are kept awake: more than a container makes to start.
const RUSH: u32 = 64;
/// Threads that may want to run while nothing but one client and its server do: the two take turns,
/// and a client is often a pipe of two programs.
const ALONE: usize = 2;
/// How long to leave a busy machine alone, in microseconds.
const REST: u64 = 500_000;
/// How often to look whether the machine has become busy, in microseconds.
const LOOK: u64 = 10_000;
/// Turns between two looks at the clock.
const TURNS: u32 = 64;
/// Processors beyond which none is kept awake. Two were measured: creating and unpacking files took
/// half the time. With one, client and server share what is awake anyhow.
const MOST_PROCESSORS: usize = 4;
/// What a spinning thread needs of a stack, in bytes.
const STACK: usize = 64 * 1024;

/// The threads that keep processors awake, and what they watch.
#[derive(Debug)]
pub(crate) struct Awake {
    watch: Arc<Watch>,
    /// Started with the first rush: most mounts never see one.
    threads: OnceLock<Vec<Thread>>,
}

#[derive(Debug)]
struct Watch {
    start: Instant,
    /// When the last request came, in microseconds since `start`.
    last: AtomicU64,
    /// Requests since the last longer pause.
    streak: AtomicU32,
    awake: AtomicBool,
    /// Until when nothing is kept awake, in microseconds since `start`.
    rest: AtomicU64,
    /// When to look again whether we are in the way, in microseconds since `start`.
    look: AtomicU64,
    /// The processors to keep awake; none where that would not help.
    processors: Vec<usize>,
}

impl Awake {
    /// Watches for a rush.
    pub(crate) fn new() -> Self {
        let mut processors = processors();
        if !(2..=MOST_PROCESSORS).contains(&processors.len()) {
            processors.clear();
        }
        let watch = Arc::new(Watch {
            start: Instant::now(),
            last: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            awake: AtomicBool::new(false),
            rest: AtomicU64::new(0),
            look: AtomicU64::new(0),
            processors,
        });
        Self { watch, threads: OnceLock::new() }
    }

    /// The threads, asleep.
    fn threads(&self) -> &[Thread] {
        let spin = |processor: &usize| {
            let (watch, processor) = (Arc::clone(&self.watch), *processor);
            let thread = thread::Builder::new().name("rrun-awake".to_owned()).stack_size(STACK);
            thread.spawn(move || watch.spin(processor)).ok().map(|thread| thread.thread().clone())
        };
        self.threads.get_or_init(|| self.watch.processors.iter().filter_map(spin).collect())
    }

    /// Notes that a request has come.
    pub(crate) fn note_request(&self) {
        let watch = &self.watch;
        let now = watch.now();
        let apart = now.saturating_sub(watch.last.swap(now, Ordering::Relaxed));
        if apart > APART {
            watch.streak.store(0, Ordering::Relaxed);
        } else if watch.streak.fetch_add(1, Ordering::Relaxed) >= RUSH
            && now >= watch.rest.load(Ordering::Relaxed)
            && !watch.awake.load(Ordering::Relaxed)
        {
            self.wake(now);
        }
    }

    fn wake(&self, now: u64) {
        if wanting_to_run() > ALONE {
            self.watch.rest.store(now + REST, Ordering::Relaxed);
        } else if !self.watch.awake.swap(true, Ordering::Release) {
            self.threads().iter().for_each(Thread::unpark);
        }
    }
}

impl Watch {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether it goes on; from time to time a look whether we are in the way of others by now.
    fn is_rush(&self) -> bool {
        let now = self.now();
        if now >= self.look.load(Ordering::Relaxed) {
            self.look.store(now + LOOK, Ordering::Relaxed);
            if wanting_to_run() > ALONE + self.processors.len() {
                self.rest.store(now + REST, Ordering::Relaxed);
                return false;
            }
        }
        now.saturating_sub(self.last.load(Ordering::Relaxed)) <= APART
    }

    /// Spins on `processor` whenever requests come close together; never returns.
    fn spin(&self, processor: usize) {
        let mut only = CpuSet::new();
        let placed = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
        if placed.and_then(|()| schedule::enter_idle_class()).is_err() {
            // Not at the cost of others.
            return;
        }
        loop {
            while !self.awake.load(Ordering::Acquire) {
                thread::park();
            }
            while self.is_rush() {
                (0..TURNS).for_each(|_| hint::spin_loop());
            }
            self.streak.store(0, Ordering::Relaxed);
            self.awake.store(false, Ordering::Release);
        }
    }
}

/// How many threads of the whole machine run or could run now, spinning ones among them (proc(5),
/// `/proc/loadavg`); very many where that cannot be seen.
fn wanting_to_run() -> usize {
    schedule::loadavg().as_deref().and_then(running).unwrap_or(usize::MAX)
}

/// The first number of the fourth field.
fn running(loadavg: &str) -> Option<usize> {
    loadavg.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

/// The processors that this process may run on.
fn processors() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap_or(false)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How long after the last request all threads should sleep again.
    const PATIENCE: Duration = Duration::from_micros(APART * 20);

    #[test]
    fn the_fourth_field_says_who_wants_to_run() {
        for (text, expected) in
            [("0.1 0.2 0.3 2/345 678\n", Some(2)), ("0.1 0.2 0.3", None), ("", None)]
        {
            assert_eq!(running(text), expected, "{text:?}");
        }
        assert!(wanting_to_run() >= 1, "this thread runs");
    }

    #[test]
    fn only_a_rush_keeps_processors_awake() {
        let awake = Awake::new();
        for _ in 0..RUSH / 2 {
            awake.note_request();
        }
        assert!(!awake.watch.awake.load(Ordering::Acquire), "a few requests are no rush");
        assert!(awake.threads.get().is_none(), "nor worth a thread");
        for _ in 0..4 * RUSH {
            awake.note_request();
        }
        let deadline = Instant::now() + 1000 * PATIENCE;
        while awake.watch.awake.load(Ordering::Acquire) && !awake.threads().is_empty() {
            assert!(Instant::now() < deadline, "they sleep when nothing comes");
            thread::sleep(PATIENCE);
        }
    }
}
