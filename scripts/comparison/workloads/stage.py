"""Where a workload runs, and the things that several of them do."""

import os
import subprocess
import sys
import typing


class Figure(typing.NamedTuple):
    """What a workload yields instead of a title when it is not time that it measured."""

    title: str
    value: float
    unit: str


class Stage:
    """A mounted file system, and a directory beside it that all candidates share for reading."""

    def __init__(self, root, inputs, server):
        self.root, self.inputs = root, inputs
        #: The process that serves it; None where the kernel does.
        self.server = server

    def path(self, *names):
        """A path in the mounted file system."""
        return os.path.join(self.root, *names)

    def input(self, *names):
        """A path in what was made once, before anything was mounted."""
        return os.path.join(self.inputs, *names)


def quiet(command, **how):
    """Runs a command whose output counts for nothing. (GNU tar would skip a null device.)"""
    with subprocess.Popen(command, stdout=subprocess.PIPE, **how) as child:
        while os.read(child.stdout.fileno(), 1 << 20):
            pass
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command)


def share(workers, items, work):
    """Lets so many processes do `work` for their share of the items, and waits for all."""
    if workers == 1:
        for item in items:
            work(item)
        return
    children = []
    for worker in range(workers):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for item in items[worker::workers]:
                    work(item)
                code = 0
            except OSError as why:
                print(f"a worker: {why}", file=sys.stderr)
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        raise OSError(f"{sum(code != 0 for code in codes)} of {workers} workers failed")


def write_file(path, contents):
    """A new file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    if contents:
        os.write(descriptor, contents)
    os.close(descriptor)


def read_file(path, piece=1 << 17):
    """Reads a file whole and throws it away."""
    descriptor = os.open(path, os.O_RDONLY)
    while os.read(descriptor, piece):
        pass
    os.close(descriptor)
