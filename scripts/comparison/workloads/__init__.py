"""What is done on a mounted file system.

A workload is a generator. It yields the title of what it does next, which is timed until the next
yield; what follows a None is not timed. It gets a Stage, and every candidate gets a fresh mount for
every round, over the same lower layers and a new upper directory.
"""

from . import basic, data, debian, layers, memory, names
from .stage import Figure, Stage

# By the names that --only takes: what makes the lower layers (topmost first), and the workload.
GROUPS = {
    "basic": (basic.make_layers, basic.run),
    "names": (names.make_layers, names.run),
    "data": (data.make_layers, data.run),
    "memory": (memory.make_layers, memory.run),
    "debian": (debian.make_layers, debian.run),
    **{
        f"layers-{count}": (
            lambda base, count=count: layers.make_layers(base, count),
            lambda stage, count=count: layers.run(stage, count),
        )
        for count in (8, 32, 128)
    },
}

__all__ = ["GROUPS", "Figure", "Stage"]
