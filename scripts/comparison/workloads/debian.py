"""A Debian system: programs of every day, with the mounted file system as their root."""

import os
import shutil
import subprocess
import sys

from .stage import quiet, write_file

# The environment variable that says where the archive of the Debian system is.
ARCHIVE = "RRUN_COMPARE_DEBIAN"
PACKAGES = "python3,gcc,libc6-dev,make,git,tar"
IMPORTS = (
    "argparse asyncio base64 collections csv ctypes datetime decimal difflib email hashlib http.client json "
    "logging pathlib pickle random re socket sqlite3 ssl subprocess unittest xml.dom.minidom"
).replace(" ", ",")
REPOSITORY_FILES = 5_000
PACKED_FILES = 5_000


def make_layers(base):
    """A minbase Debian with Python, a compiler and git; sources, a repository; a package."""
    lower = os.path.join(base, "lower")
    os.mkdir(lower)
    # Nobody but the machine's root may make devices.
    quiet(["tar", "-xf", os.environ[ARCHIVE], "-C", lower, "--exclude=./dev/*"])
    make_sources(os.path.join(lower, "root/sources"))
    make_repository(os.path.join(lower, "root/repository"))
    make_package(base)
    quiet(["tar", "-cf", os.path.join(base, "usr.tar"), "-C", lower, "usr/lib/python3.11", "usr/include", "usr/share"])
    return ["lower"]


def make_archive(archive):
    """The Debian system. Whoever starts makes it once: mmdebstrap wants to be nobody's child."""
    if not shutil.which("mmdebstrap"):
        sys.exit("compare: mmdebstrap is missing: apt-get install mmdebstrap")
    line = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", archive]
    print(f"making a Debian system: {' '.join(line)}", flush=True)
    quiet(line, stderr=subprocess.DEVNULL)


def make_sources(sources):
    """25 C files and a Makefile."""
    os.makedirs(sources)
    headers = "".join(f"#include <{name}.h>\n" for name in ("stdio", "stdlib", "string", "unistd", "math"))
    for number in range(25):
        lines = "".join(f"int f{number}_{n}(int x) {{ return x * {n} + {number}; }}\n" for n in range(60))
        write_file(os.path.join(sources, f"part{number}.c"), (headers + lines).encode())
    objects = " ".join(f"part{number}.o" for number in range(25))
    write_file(os.path.join(sources, "Makefile"), f"all: {objects}\n".encode())


def make_repository(repository):
    """5,000 files, committed."""
    for number in range(REPOSITORY_FILES):
        parent = os.path.join(repository, f"d{number % 50}", f"e{number % 7}")
        os.makedirs(parent, exist_ok=True)
        write_file(os.path.join(parent, f"file{number}"), f"contents of file {number}\n".encode() * 20)
    git = ["git", "-C", repository, "-c", "user.name=compare", "-c", "user.email=compare@localhost"]
    for line in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        quiet([*git, *line])


def make_package(base):
    """A package of 5,000 files."""
    tree = os.path.join(base, "package")
    os.makedirs(os.path.join(tree, "DEBIAN"))
    control = "Package: compared\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: files\n"
    write_file(os.path.join(tree, "DEBIAN/control"), control.encode())
    for number in range(PACKED_FILES):
        parent = os.path.join(tree, "opt/compared", str(number % 50))
        os.makedirs(parent, exist_ok=True)
        write_file(os.path.join(parent, f"file{number}"), b"x" * (number % 8192))
    package = os.path.join(base, "lower/root/compared.deb")
    quiet(["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, package])


def run(stage):
    """Reading, running, then writing."""
    find = ["find", stage.root, "-xdev", "-printf", "%s %T@\n"]
    yield "find and stat of a Debian root, first"
    quiet(find)
    yield "find and stat of a Debian root, again"
    quiet(find)
    yield "listing of a Debian root, again"
    quiet(["ls", "-fR", stage.root])
    yield None
    quiet(["mount", "--rbind", "/dev", stage.path("dev")])
    try:
        yield from programs(stage)
        yield from trees(stage)
    finally:
        quiet(["umount", "--lazy", stage.path("dev")])


def inside(stage, line):
    """Runs a line of shell with the mounted file system as its root."""
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "LC_ALL": "C"}
    quiet(["chroot", stage.root, "/bin/sh", "-ec", line], env=environment, stderr=subprocess.STDOUT)


def programs(stage):
    """What starts often and reads much."""
    python = f"python3 -c 'import {IMPORTS}'"
    yield "Python with 24 imports, first"
    inside(stage, python)
    yield "Python with 24 imports, 20 times"
    inside(stage, f"for n in $(seq 20); do {python}; done")
    yield "/bin/true, 500 times"
    inside(stage, "for n in $(seq 500); do /bin/true; done")
    yield "C compile, make -j2"
    inside(stage, "make -s -j2 -C /root/sources")
    status = "git config --global --add safe.directory '*'; git -C /root/repository status >/dev/null"
    yield "git status, first"
    inside(stage, status)
    yield "git status, again"
    inside(stage, status)


def trees(stage):
    """Many files at once."""
    yield "git clone"
    inside(stage, "git clone -q --no-local /root/repository /root/clone")
    yield "dpkg unpack"
    inside(stage, "dpkg --force-unsafe-io --unpack /root/compared.deb")
    yield "cp -a of a Debian tree"
    inside(stage, "mkdir /root/copy; cp -a /usr/lib/python3.11 /usr/include /usr/share /root/copy")
    yield "tar extract of a Debian tree"
    os.mkdir(stage.path("root/extracted"))
    quiet(["tar", "-xf", stage.input("usr.tar"), "-C", stage.path("root/extracted")])
    yield "rm -rf of it"
    quiet(["rm", "-rf", stage.path("root/extracted")])
