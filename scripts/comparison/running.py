"""Starting commands, waiting for them, and taking their time."""

import os
import shutil
import time

RUNTIMES = ("rrun", "crun", "runc")
WAIT_SECONDS = 60


class Failed(Exception):
    """A candidate cannot do what is measured; the text is its last words."""


def which(name, arguments):
    """Where a command is; rrun is the one that was built."""
    if name == "rrun":
        return arguments.rrun
    if name in arguments.peers:
        return arguments.peers[name]
    sbin = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))
    return shutil.which(name) or shutil.which(name, path=sbin)


def open_output(work):
    """Standard input from nowhere, output to nowhere, errors to a file that `words` reads."""
    log = os.path.join(work, "stderr")
    null = os.devnull
    return [
        (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]


def words(work):
    """The last line that a command said."""
    with open(os.path.join(work, "stderr"), errors="replace") as log:
        lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else "no word"


def spawn(command, work):
    """Start a command; cheaper and steadier than subprocess."""
    return os.posix_spawn(command[0], command, os.environ, file_actions=open_output(work))


def timed(command, work):
    """Run a command to its end. Returns wall and CPU milliseconds."""
    start = time.perf_counter()
    _, status, usage = os.wait4(spawn(command, work), 0)
    wall = time.perf_counter() - start
    if status != 0:
        raise Failed(words(work))
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def reap(pid=-1):
    """Wait for one orphan (a container's first process, a FUSE server), or for all of them."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if done == pid:
            return
        if done == 0:
            time.sleep(0.001)
    raise Failed(f"process {pid} did not end in {WAIT_SECONDS} s")


def mount_command(kind, options, target, arguments):
    """How each candidate is mounted."""
    if kind == "overlayfs":
        mount = shutil.which("mount") or "/bin/mount"
        return [mount, "-t", "overlay", "overlay", "-o", options + ",userxattr", target]
    if kind == "rrun":
        return [which("rrun", arguments), "overlay", "-o", options, target]
    return [which(kind, arguments), "-o", options, target]
