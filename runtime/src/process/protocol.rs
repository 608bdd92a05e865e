//! Who says what to whom while a container is made.
//!
//! ```text
//! init                           parent (create or run)
//!                      <-----    Go                    its IDs are mapped, it is in its cgroup
//! RunHooks             ----->    prestart and createRuntime hooks   (only if there are any)
//!                      <-----    HooksDone
//! Console + descriptor ----->    hands the terminal on              (only with a terminal)
//! Warning { .. }       ----->    logs it                            (any number, at any time)
//! SeccompListener { .. } --->    passes the descriptor on to the agent   (only if there is one)
//!                      <-----    ListenerSent
//! Ready                ----->    stores the container as created
//!                      <-----    Start, or Await: `start` comes over the socket instead
//! (closed by exec)               the program runs
//! Failed { chain }     ----->    undoes everything, prints the chain; ends the conversation
//!
//! init                           start, or create that tries it
//!                      <-----    Start, or Await: only asks whether init waits
//! Ready                ----->    it does
//! (closed by exec)               the program runs
//! Failed { chain }     ----->    prints the chain
//!
//! process of exec                exec
//! Console, Warning, Ready as init's
//!                      <-----    Start                 (unless it may go on at once)
//! SeccompListener { .. } --->    passes the descriptor on to the agent   (only if there is one)
//!                      <-----    ListenerSent
//! (closed by exec)               the program runs
//! Failed { chain }     ----->    prints the chain
//!
//! overlay server                 init
//! Device + descriptor  ----->    mounts it in its own mount namespace
//!                      <-----    Mounted               now requests can be answered
//! Failed { chain }     ----->    passes it on to the parent
//! ```

use serde::{Deserialize, Serialize};

/// The longest error that is told to another process, in bytes: it must fit into one message, however
/// it is written there.
const LONGEST_CHAIN: usize = 8 * 1024;

/// What failed, from the operation down to the cause, as it is told to another process.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = format!("{error:#}");
    text.truncate(text.floor_char_boundary(LONGEST_CHAIN));
    text
}

/// From init, and from a process that `exec` made.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToParent {
    /// The namespaces are there, the root is not yet entered.
    RunHooks,
    /// Comes with the master side of the terminal.
    Console,
    /// Something that does not stop us but should be known.
    Warning {
        /// One sentence.
        text: String,
    },
    /// The filter of system calls is in force; an agent is to get the descriptor with this number.
    SeccompListener {
        /// Its number in the process.
        fd: i32,
    },
    /// All is done but the last step.
    Ready,
    /// Nothing came of it.
    Failed {
        /// What failed, from the operation down to the cause.
        chain: String,
    },
    /// A hook failed that runs when the container is started: the container is not to remain.
    HookFailed {
        /// Which hook, and how.
        chain: String,
    },
}

/// To init, and to a process that `exec` made.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum ToInit {
    /// The parent has done its part.
    Go,
    /// The hooks have run.
    HooksDone,
    /// The agent has the descriptor.
    ListenerSent,
    /// Become the program.
    Start,
    /// Wait on the socket for somebody who says [`ToInit::Start`].
    Await,
}

/// From the overlay's server to init.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromServer {
    /// Comes with `/dev/fuse`, opened in the container's user namespace.
    Device,
    /// The layers cannot be served.
    Failed {
        /// What failed, from the operation down to the cause.
        chain: String,
    },
}

/// From init to the overlay's server.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToServer {
    /// The device is mounted.
    Mounted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::channel::pair;

    #[test]
    fn the_longest_error_arrives() {
        let (here, there) = pair::<ToParent, ToInit>().unwrap();
        let error = anyhow::anyhow!("\u{1}\u{e9}".repeat(100_000)).context("operation");
        here.send(&ToParent::Failed { chain: chain(&error) }).unwrap();
        let ToParent::Failed { chain } = there.receive().unwrap() else {
            panic!("another message")
        };
        assert!(chain.starts_with("operation: ") && chain.len() > 8000, "{}", chain.len());
    }
}
