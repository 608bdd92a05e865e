"""Where it happens: a fresh file system, a mount namespace of its own."""

import os
import subprocess

IMAGE_BYTES = 8 << 30


def hide_cgroup2():
    """In this mount namespace: a hybrid machine becomes one with cgroup v1 alone."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split(" - ") for line in file]
    trees = [(left.split()[4], right.split()[0]) for left, right in mounts]
    if any(kind == "cgroup" for _, kind in trees):
        for target in [target for target, kind in trees if kind == "cgroup2"]:
            subprocess.run(["umount", target], check=True)
            print(f"{target} (cgroup2 beside cgroup v1) is hidden from all candidates")


def make_disk(work):
    """A fresh journalled ext4 in memory, or what the directory lies on."""
    image = os.path.join(work, "image")
    disk = os.path.join(work, "disk")
    os.mkdir(disk)
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    make = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image]
    mount = ["mount", "-o", "loop", image, disk]
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for command in (make, mount):
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": path})
        if done.returncode != 0:
            os.unlink(image)
            print(f"files lie on the file system of {work}: no ext4 image: {done.stderr.strip()}")
            return disk
    print("files lie on a fresh journalled ext4 in memory")
    return disk
