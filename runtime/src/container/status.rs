//! Where a container is in its life, and what may happen next.
//!
//! ```text
//!            create              start              its program ends
//! (nothing) ────────► created ─────────► running ────────────────────► stopped ──► (nothing)
//!                        │                  │ ▲                           ▲    delete
//!                        │            pause ▼ │ resume                    │
//!                        │                 paused                         │
//!                        └──────────────────┴──────── kill ───────────────┘
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status of runtime-spec, "State".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made; seen by hooks only.
    Creating,
    /// Everything is there, the program waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// The program has ended.
    Stopped,
}

/// What a caller may want to do with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let the program run.
    Start,
    /// Run another program inside.
    Exec,
    /// Send a signal to the program.
    Kill,
    /// Freeze its processes.
    Pause,
    /// Let them go on.
    Resume,
    /// Save its processes to files.
    Checkpoint,
    /// Forget the container.
    Delete,
}

impl Status {
    /// Whether a container in this state accepts `action` (runtime-spec, "Operations").
    ///
    /// As with runc, `exec` may enter a created container.
    #[must_use]
    pub fn accepts(self, action: Action) -> bool {
        match action {
            Action::Start => self == Self::Created,
            Action::Exec => matches!(self, Self::Created | Self::Running),
            Action::Kill => matches!(self, Self::Created | Self::Running | Self::Paused),
            Action::Checkpoint => matches!(self, Self::Running | Self::Paused),
            Action::Pause => self == Self::Running,
            Action::Resume => self == Self::Paused,
            Action::Delete => self == Self::Stopped,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifecycle_of_the_specification() {
        use Action::{Checkpoint, Delete, Exec, Kill, Pause, Resume, Start};
        for (status, allowed) in [
            (Status::Creating, &[][..]),
            (Status::Created, &[Start, Exec, Kill]),
            (Status::Running, &[Exec, Kill, Pause, Checkpoint]),
            (Status::Paused, &[Kill, Resume, Checkpoint]),
            (Status::Stopped, &[Delete]),
        ] {
            for action in [Start, Exec, Kill, Pause, Resume, Checkpoint, Delete] {
                assert_eq!(
                    status.accepts(action),
                    allowed.contains(&action),
                    "{status} {action:?}"
                );
            }
        }
    }
}
