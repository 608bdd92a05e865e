"""The few questions of every day: minutes, not hours."""

import os

from .stage import quiet, write_file

CREATED = 20_000


def make_layers(base):
    """20,000 small files in 200 directories, and two layers that change a tenth of them."""
    text = b"The quick brown fox jumps over the lazy dog.\n" * 80
    for directory in range(200):
        for layer in (0, 1, 2):
            if layer and directory % 10 != layer:
                continue
            path = os.path.join(base, f"lower{layer}", f"d{directory // 20}", str(directory))
            os.makedirs(path)
            for number in range(100):
                length = 64 + (directory * 100 + number) % 3500
                write_file(os.path.join(path, f"file{number:03}"), text[:length])
    quiet(["tar", "-cf", os.path.join(base, "tree.tar"), "-C", os.path.join(base, "lower0"), "."])
    return ["lower2", "lower1", "lower0"]


def run(stage):
    """In order: what comes later finds what came before."""
    find = ["find", stage.root, "-printf", "%s %T@\n"]
    yield "find, first"
    quiet(find)
    yield "find, again"
    quiet(find)
    yield "read all files"
    quiet(["tar", "-cf", "-", "-C", stage.root, "."])
    yield "tar extract"
    os.mkdir(stage.path("extracted"))
    quiet(["tar", "-xf", stage.input("tree.tar"), "-C", stage.path("extracted")])
    yield f"create {CREATED} files"
    os.mkdir(stage.path("created"))
    parents = [stage.path("created", str(part)) for part in range(20)]
    files = [[f"{parent}/{n}" for n in range(CREATED // 20)] for parent in parents]
    for parent, inside in zip(parents, files):
        os.mkdir(parent)
        for file in inside:
            write_file(file, b"")
    yield f"unlink {CREATED} files"
    for parent, inside in zip(parents, files):
        for file in inside:
            os.unlink(file)
        os.rmdir(parent)
    os.rmdir(stage.path("created"))
    yield "rm -r of what was extracted"
    quiet(["rm", "-r", stage.path("extracted")])
