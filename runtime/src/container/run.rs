//! Run and exec in the foreground: a program from its start to its exit code.

use nix::sys::prctl;

use crate::console::{self, Foreground};
use crate::container::create::{Created, Request};
use crate::container::{ContainerId, Runtime, exec};
use crate::store::containers::Record;

/// What `run` does besides creating and starting.
#[derive(Debug, Clone, Copy)]
pub struct After {
    /// End as soon as the program runs.
    pub detach: bool,
    /// Leave the stopped container.
    pub keep: bool,
    /// Adopt processes of the container that lose their parent.
    pub subreaper: bool,
}

impl Runtime {
    /// Creates and starts a container; in the foreground, waits for its program, deletes the
    /// container and returns the exit code: that of the program, or 128 and the signal's number.
    ///
    /// # Errors
    ///
    /// What failed; nothing is left of the container then.
    pub fn run(&self, request: &Request, after: After) -> anyhow::Result<u8> {
        if after.detach {
            self.create_and_start(request)?;
            return Ok(0);
        }
        prctl::set_child_subreaper(after.subreaper)?;
        // From here on signals wait, until there is a program to pass them on to.
        let foreground = Foreground::begin()?;
        let mut created = self.create_and_start(request)?;
        let console = created.made.console.take();
        drop(created.entry);
        let code = foreground.wait(&created.made.init, console);
        if !after.keep {
            self.delete_after_run(&created.record)?;
        }
        code
    }

    fn create_and_start(&self, request: &Request) -> anyhow::Result<Created> {
        let mut created = self.prepare(request, false)?;
        if let Some(master) = &created.made.console {
            console::suit_caller(master)?;
        }
        let started = created.made.start();
        let started = started.and_then(|()| self.poststart(&created.record, &created.hooks));
        match started {
            Ok(()) => Ok(created),
            Err(error) => self.undo(created).and(Err(error)),
        }
    }

    /// Deletes what has stopped, unless somebody else did so meanwhile.
    pub(super) fn delete_after_run(&self, record: &Record) -> anyhow::Result<()> {
        let Ok(entry) = self.containers.lock(&record.id) else { return Ok(()) };
        match entry.read()? {
            Some(now) if now.init == record.init => {
                self.end(record)?;
                self.clean(entry, record)
            }
            _ => Ok(()),
        }
    }

    /// Runs a program in `id`; in the foreground, waits for it and returns its exit code.
    ///
    /// # Errors
    ///
    /// If the container does not run, or the program cannot.
    pub fn exec_and_wait(&self, id: &ContainerId, request: &exec::Request) -> anyhow::Result<u8> {
        if request.detach {
            let _runs_on = self.exec(id, request)?;
            return Ok(0);
        }
        let foreground = Foreground::begin()?;
        let mut made = self.exec(id, request)?;
        let console = made.console.take();
        foreground.wait(&made.child, console)
    }
}
