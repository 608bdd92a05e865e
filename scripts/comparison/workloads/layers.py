"""The same files, spread over many layers."""

import os
import random

from .stage import quiet, write_file

FILES = 12_800
DIRECTORIES = 100
STATS = 50_000


def make_layers(base, count):
    """Every directory is in every layer, every file in one. Names are short: all of them must fit
    into one page of mount options."""
    for layer in range(count):
        for directory in range(DIRECTORIES):
            os.makedirs(os.path.join(base, str(layer), str(directory)))
    for number in range(FILES):
        parent = os.path.join(base, str(number % count), str(number % DIRECTORIES))
        write_file(os.path.join(parent, f"file{number}"), b"x" * 100)
    return [str(layer) for layer in range(count)]


def run(stage, count):
    """A walk, then single files."""
    yield f"find, first, {count} layers"
    quiet(["find", stage.root, "-printf", "%s %T@\n"])
    order = random.Random(4)
    paths = [stage.path(str(n % DIRECTORIES), f"file{n}") for n in range(FILES)]
    # Half of the names exist.
    paths += [f"{path}.missing" for path in paths]
    wanted = order.choices(paths, k=STATS)
    yield f"50,000 stats, half of them of nothing, {count} layers"
    for path in wanted:
        try:
            os.stat(path)
        except FileNotFoundError:
            pass
