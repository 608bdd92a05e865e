//! Somebody who exchanges two names all the time, while the runtime works with them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Exchanges two names in a thread of its own, until it is dropped.
pub(crate) struct Exchange {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Exchange {
    pub(crate) fn of(one: &Path, other: &Path) -> Self {
        let (one, other) = (one.to_owned(), other.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut times = 0;
            while !stopped.load(Ordering::Relaxed) {
                // What is a mount point at this moment cannot be exchanged.
                let flags = RenameFlags::RENAME_EXCHANGE;
                times += u64::from(renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).is_ok());
            }
            times
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it; how often the names were exchanged.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _times = thread.join();
        }
    }
}
