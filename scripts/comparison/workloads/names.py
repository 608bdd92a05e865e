"""Making, changing and removing names."""

import os

from .stage import quiet, share, write_file

FILES = 20_000
DIRECTORIES = 20
PAGE = b"p" * 4096


def make_layers(base):
    """A tree of 20,000 files, to be removed."""
    for number in range(200):
        parent = os.path.join(base, "lower", "tree", f"d{number // 20}", str(number))
        os.makedirs(parent)
        for file in range(FILES // 200):
            write_file(os.path.join(parent, f"file{file}"), b"x" * 100)
    return ["lower"]


def run(stage):
    """One process, then four at once."""
    for workers in (1, 4):
        yield from files(stage, workers)
    many = [stage.path("many", str(number)) for number in range(FILES // 4)]
    os.mkdir(stage.path("many"))
    yield "mkdir"
    for path in many:
        os.mkdir(path)
    yield "rmdir"
    for path in many:
        os.rmdir(path)
    yield "rm -rf of a lower tree of 20,000 files"
    quiet(["rm", "-rf", stage.path("tree")])


def files(stage, workers):
    """The life of 20,000 files."""
    who = "1 process" if workers == 1 else f"{workers} processes"
    for kind in ("empty", "full"):
        for number in range(DIRECTORIES):
            os.makedirs(stage.path(f"{kind}{workers}", str(number)))

    def paths(kind):
        place = stage.path(f"{kind}{workers}")
        return [f"{place}/{n % DIRECTORIES}/{n}" for n in range(FILES)]

    yield f"create, {who}"
    share(workers, paths("empty"), lambda path: write_file(path, b""))
    yield f"create, write 4 KiB, close, {who}"
    share(workers, paths("full"), lambda path: write_file(path, PAGE))
    yield f"stat of what was made, {who}"
    share(workers, paths("full"), os.stat)
    yield f"rename, {who}"
    share(workers, paths("full"), lambda path: os.rename(path, path + ".new"))
    yield f"unlink, {who}"
    share(workers, paths("full"), lambda path: os.unlink(path + ".new"))
    yield None
