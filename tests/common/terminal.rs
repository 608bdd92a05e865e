//! Terminals: one of our own to run a command in, and one received over a console socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};

use super::{descriptor, eventually};

/// The master's side of a terminal, with all that it has shown.
pub(crate) struct Screen {
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    /// Shows what the terminal behind `master` writes, until it hangs up.
    pub(crate) fn new(master: OwnedFd) -> Self {
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, copy) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A master whose last slave was closed reads EIO.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                copy.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { master, shown }
    }

    /// Types `text`.
    pub(crate) fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until the screen shows `text`.
    pub(crate) fn shows(&self, text: &str) {
        eventually(&format!("{text:?} on the screen, which shows {:?}", self.text()), || {
            self.text().contains(text)
        });
    }
}

/// A terminal of 24 rows and 80 columns.
pub(crate) struct Terminal {
    pub(crate) screen: Screen,
    slave: OwnedFd,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        Self { screen: Screen::new(pair.master), slave: pair.slave }
    }

    /// Starts `command` in a session of its own whose controlling terminal this is.
    pub(crate) fn spawn(&self, command: &Command) -> Child {
        let mut inside = Command::new("setsid");
        inside.arg("--ctty").arg(command.get_program()).args(command.get_args());
        let environment = command.get_envs().filter_map(|(key, value)| Some((key, value?)));
        inside.envs(environment).stdin(self.slave()).stdout(self.slave()).stderr(self.slave());
        inside.spawn().unwrap()
    }

    /// What `stty` says of this terminal, or does to it.
    pub(crate) fn stty(&self, args: &[&str]) -> String {
        let output = Command::new("stty").args(args).stdin(self.slave()).output().unwrap();
        assert!(output.status.success(), "stty {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn slave(&self) -> OwnedFd {
        self.slave.try_clone().unwrap()
    }
}

/// Where a runtime sends the master of a container's terminal.
pub(crate) struct ConsoleSocket(UnixListener);

impl ConsoleSocket {
    pub(crate) fn bind(path: &Path) -> Self {
        Self(UnixListener::bind(path).unwrap())
    }

    /// The terminal that was sent.
    pub(crate) fn receive(&self) -> Screen {
        let (stream, _address) = self.0.accept().unwrap();
        Screen::new(descriptor::receive(&stream).1)
    }
}
