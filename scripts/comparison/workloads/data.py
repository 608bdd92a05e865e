"""Reading and writing."""

import os
import random

from .stage import read_file, share, write_file

GIB = 1 << 30
PIECE = 1 << 17
SMALL_FILES = 20_000
APPENDS = 100_000
RANDOM_BYTES = 256 << 20
RANDOM_ACCESSES = 65_536


def make_layers(base):
    """Two files of 1 GiB, one of 256 MiB, 20,000 of 2 KiB."""
    lower = os.path.join(base, "lower")
    os.mkdir(lower)
    block = random.Random(1).randbytes(1 << 20)
    for name, length in (("big", GIB), ("huge", GIB), ("random", RANDOM_BYTES)):
        with open(os.path.join(lower, name), "wb") as file:
            for _ in range(length // len(block)):
                file.write(block)
    for number in range(SMALL_FILES):
        path = os.path.join(lower, "small", str(number % 100))
        os.makedirs(path, exist_ok=True)
        write_file(os.path.join(path, str(number)), block[:2048])
    return ["lower"]


def run(stage):
    """Reading first: what is written later is not read."""
    yield from reading(stage)
    yield from writing(stage)
    yield "first byte written into a lower file of 1 GiB"
    descriptor = os.open(stage.path("huge"), os.O_RDWR)
    os.pwrite(descriptor, b"!", GIB // 2)
    os.close(descriptor)


def reading(stage):
    """Whole files, places in a file, many small files."""
    for when in ("first", "again"):
        yield f"read 1 GiB, {when}"
        read_file(stage.path("big"), PIECE)
    for when in ("first", "again"):
        order = random.Random(2)
        yield f"random reads of 4 KiB, {when}"
        descriptor = os.open(stage.path("random"), os.O_RDONLY)
        for _ in range(RANDOM_ACCESSES // 2):
            os.pread(descriptor, 4096, order.randrange(RANDOM_BYTES >> 12) << 12)
        os.close(descriptor)
    small = [stage.path("small", str(n % 100), str(n)) for n in range(SMALL_FILES)]
    yield None
    share(1, small, read_file)
    for workers in (1, 8):
        yield f"open and read 20,000 small files, again, {workers} at once"
        share(workers, small, read_file)


def writing(stage):
    """Streams, pieces, appends."""
    yield "100,000 appends of 1 KiB"
    write_stream(stage.path("appended"), b"a" * 1024, APPENDS, os.O_APPEND)
    yield "write 256 MiB in 4 KiB"
    write_stream(stage.path("pieces"), b"b" * 4096, RANDOM_BYTES // 4096)
    for name, flush in (("stream", False), ("synced", True)):
        yield f"write 1 GiB{' and fsync' if flush else ''}"
        write_stream(stage.path(name), b"c" * PIECE, GIB // PIECE, flush=flush)
        yield None
        os.unlink(stage.path(name))
    order = random.Random(3)
    yield "random writes of 4 KiB"
    descriptor = os.open(stage.path("pieces"), os.O_WRONLY)
    for _ in range(RANDOM_ACCESSES):
        os.pwrite(descriptor, b"d" * 4096, order.randrange(RANDOM_BYTES >> 12) << 12)
    os.close(descriptor)
    yield None
    os.unlink(stage.path("pieces"))


def write_stream(path, piece, count, flags=0, flush=False):
    """A new file of so many equal pieces."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    for _ in range(count):
        os.write(descriptor, piece)
    if flush:
        os.fsync(descriptor)
    os.close(descriptor)
