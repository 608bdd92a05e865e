"""What the server keeps in memory."""

import os

from .stage import Figure, quiet, write_file

FILES = 200_000
DIRECTORIES = 400


def make_layers(base):
    """200,000 empty files."""
    for number in range(DIRECTORIES):
        parent = os.path.join(base, "lower", str(number))
        os.makedirs(parent)
        for file in range(FILES // DIRECTORIES):
            write_file(os.path.join(parent, f"file{file}"), b"")
    return ["lower"]


def run(stage):
    """Idle; when the kernel knows all files; when it has forgotten them."""
    if stage.server is None:
        return
    idle = resident(stage.server)
    yield Figure("server's memory, idle", idle, "KiB")
    yield None
    quiet(["find", stage.root, "-printf", "%s\n"])
    full = resident(stage.server)
    yield Figure("server's memory for each of 200,000 files", (full - idle) * 1024 / FILES, "bytes")
    if os.access("/proc/sys/vm/drop_caches", os.W_OK):
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("2")
        # The kernel's FORGETs come in batches; any request is answered after them.
        os.stat(stage.root)
        left = (resident(stage.server) - idle) * 1024 / FILES
        yield Figure("the same when the kernel has forgotten them", left, "bytes")


def resident(server):
    """KiB."""
    with open(f"/proc/{server}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
