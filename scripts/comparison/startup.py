"""The questions about containers."""

import json
import os
import shutil
import subprocess
import sys
import time

from .running import RUNTIMES, Failed, mount_command, reap, spawn, timed, which, words
from .tables import Table, alternate

AT_ONCE = 100


def make_root(directory):
    """A root file system of busybox alone."""
    busybox = shutil.which("busybox")
    if not busybox:
        sys.exit("compare: busybox is missing: apt-get install busybox-static")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    shutil.copy(busybox, os.path.join(directory, "bin/busybox"))
    for applet in ("sh", "true", "sleep", "cat"):
        os.symlink("busybox", os.path.join(directory, "bin", applet))


def make_bundle(directory, runtime, arguments, rootless):
    """A bundle whose config is what `spec` writes, but for its program."""
    make_root(os.path.join(directory, "rootfs"))
    command = [runtime, "spec"] + (["--rootless"] if rootless else [])
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["ociVersion"] = "1.0.2"  # older peers refuse newer ones
    config["process"].update(terminal=False, args=arguments)
    with open(path, "w") as file:
        json.dump(config, file)


class Startup:
    """All of them."""

    def __init__(self, arguments, work):
        self.arguments = arguments
        self.rootless = os.geteuid() != 0
        self.who = "rootless" if self.rootless else "root"
        self.work = os.path.join(work, f"startup-{self.who}")
        self.state = os.path.join(self.work, "state")
        self.number = 0
        os.makedirs(self.state)
        os.environ["RRUN_DATA"] = os.path.join(self.work, "data")
        self.runtimes = {
            name: path for name in RUNTIMES if (path := which(name, arguments)) is not None
        }
        for program, line in (("true", ["/bin/true"]), ("sleep", ["/bin/sleep", "1000"])):
            bundle = os.path.join(self.work, program)
            os.makedirs(bundle)
            make_bundle(bundle, next(iter(self.runtimes.values())), line, self.rootless)

    def command(self, name, *rest):
        """A runtime with a state directory of its own."""
        return [self.runtimes[name], "--root", os.path.join(self.state, name), *rest]

    def identity(self):
        """A new name for a container."""
        self.number += 1
        return f"compare-{os.getpid()}-{self.number}"

    def run(self, name, *options):
        """`run` of /bin/true."""
        bundle = os.path.join(self.work, "true")
        return self.command(name, "run", *options, "--bundle", bundle, self.identity())

    def bubblewrap(self):
        """The same namespaces and mounts, without cgroups, masked paths and capabilities."""
        root = os.path.join(self.work, "true/rootfs")
        user = ["--unshare-user", "--uid", "0", "--gid", "0"] if self.rootless else []
        net = [] if self.rootless else ["--unshare-net"]
        return [
            which("bwrap", self.arguments), *user, *net, "--unshare-pid", "--unshare-ipc",
            "--unshare-uts", "--unshare-cgroup", "--hostname", "bwrap", "--ro-bind", root, "/",
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--mqueue", "/dev/mqueue",
            "--ro-bind", "/sys", "/sys", "/bin/true",
        ]

    def layers(self, name):
        """Lower layers, and an upper and work directory that nobody else uses."""
        base = os.path.join(self.work, "layered", name)
        upper, work, extra = (os.path.join(base, part) for part in ("upper", "work", "extra"))
        for directory in (upper, work, extra):
            os.makedirs(directory, exist_ok=True)
        lower = f"{extra}:{os.path.join(self.work, 'true/rootfs')}"
        return lower, upper, work

    def plain(self):
        """The question that the others build on."""
        table = Table(f"run /bin/true, plain root, {self.who}", "crun")
        candidates = {
            name: lambda name=name: timed(self.run(name), self.work) for name in self.runtimes
        }
        if which("bwrap", self.arguments):
            candidates["bubblewrap"] = lambda: timed(self.bubblewrap(), self.work)
        alternate(table, candidates, self.arguments.rounds)

    def layered(self):
        """What a copy-on-write root adds; peers get theirs mounted and unmounted around them."""
        table = Table(f"run /bin/true, layered root, {self.who}", "crun, plain")
        candidates = {}
        if "rrun" in self.runtimes:
            lower, upper, work = self.layers("rrun")
            options = ("--lowerdir", lower, "--upperdir", upper, "--workdir", work)
            candidates["rrun, plain"] = lambda: timed(self.run("rrun"), self.work)
            candidates["rrun, layered"] = lambda: timed(self.run("rrun", *options), self.work)
        if "crun" in self.runtimes:
            candidates["crun, plain"] = lambda: timed(self.run("crun"), self.work)
            # An unprivileged user would mount in a user namespace around crun: another question.
            if not self.rootless:
                candidates["crun, overlayfs"] = lambda: self.mounted("overlayfs")
                if which("fuse-overlayfs", self.arguments):
                    candidates["crun, fuse-overlayfs"] = lambda: self.mounted("fuse-overlayfs")
        alternate(table, candidates, self.arguments.rounds)

    def mounted(self, kind):
        """crun on a root that is mounted before and unmounted after it."""
        bundle = os.path.join(self.work, f"crun-{kind}")
        target = os.path.join(bundle, "rootfs")
        os.makedirs(target, exist_ok=True)
        shutil.copy(os.path.join(self.work, "true/config.json"), bundle)
        lower, upper, work = self.layers(kind)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mount = mount_command(kind, options, target, self.arguments)
        run = self.command("crun", "run", "--bundle", bundle, self.identity())
        line = 'n=$1; shift; "${@:1:n}" && "${@:n+1}"; code=$?; umount "$TARGET"; exit $code'
        os.environ["TARGET"] = target
        return timed(["/bin/bash", "-c", line, "sh", str(len(mount)), *mount, *run], self.work)

    def at_once(self):
        """Many containers at the same time."""
        table = Table(f"{AT_ONCE} times run /bin/true at once, {self.who}", "crun", "s")

        def burst(name):
            start = time.perf_counter()
            children = [spawn(self.run(name), self.work) for _ in range(AT_ONCE)]
            bad = sum(os.waitpid(child, 0)[1] != 0 for child in children)
            wall = time.perf_counter() - start
            if bad:
                raise Failed(f"{bad} of {AT_ONCE} failed: {words(self.work)}")
            return wall, None

        candidates = {name: lambda name=name: burst(name) for name in self.runtimes}
        alternate(table, candidates, max(3, self.arguments.rounds // 6))

    def phases(self):
        """The life of one container, step by step."""
        steps = ("create", "start", "state", "exec", "kill", "delete")
        tables = {step: Table(f"{step}, {self.who}", "crun") for step in steps}
        out = {}
        for turn in range(-1, self.arguments.rounds):
            for name in self.runtimes:
                if name in out:
                    continue
                try:
                    life = self.life(name)
                except Failed as why:
                    out[name] = why
                    continue
                for step, sample in life.items():
                    if turn >= 0:
                        tables[step].add(name, *sample)
        for table in tables.values():
            table.show_all(self.runtimes, out)

    def life(self, name):
        """One container from create to delete; returns what each step took."""
        identity = self.identity()
        pid_file = os.path.join(self.work, "pid")
        bundle = os.path.join(self.work, "sleep")
        lines = {
            "create": ("create", "--bundle", bundle, "--pid-file", pid_file, identity),
            "start": ("start", identity),
            "state": ("state", identity),
            "exec": ("exec", identity, "/bin/true"),
            "kill": ("kill", identity, "KILL"),
            "delete": ("delete", identity),
        }
        taken = {}
        try:
            for step, line in lines.items():
                taken[step] = timed(self.command(name, *line), self.work)
                if step == "kill":
                    with open(pid_file) as file:
                        reap(int(file.read()))
        except Failed as why:
            step = next(step for step in lines if step not in taken)
            force = self.command(name, "delete", "--force", identity)
            os.waitpid(spawn(force, os.path.join(self.work, "state")), 0)
            raise Failed(f"{step}: {why}") from why
        return taken

    def measure(self):
        """All questions."""
        self.plain()
        self.layered()
        self.at_once()
        self.phases()
