"""The questions about file systems."""

import os
import shutil
import subprocess
import time

from .running import WAIT_SECONDS, Failed, mount_command, reap, timed, which, words
from .tables import Table
from .workloads import GROUPS, Figure, Stage

FILE_SYSTEMS = ("rrun", "overlayfs", "fuse-overlayfs")
# Whoever is pinned runs here, and with it everything it starts: also the file system's server.
PINNED_TO = 0
# What a workload that has ended yields.
END = object()


class Overlay:
    """All of them. Runs where it may mount."""

    def __init__(self, arguments, work, who):
        self.arguments = arguments
        self.work = os.path.join(work, f"overlay-{who}")
        self.who = f"{who}, pinned" if arguments.pinned else who
        os.makedirs(self.work, exist_ok=True)
        names = [*FILE_SYSTEMS, *arguments.peers]
        self.kinds = [name for name in names if name == "overlayfs" or which(name, arguments)]

    def measure(self):
        """Group by group: every candidate on a fresh mount in every round."""
        if self.arguments.pinned:
            os.sched_setaffinity(0, {PINNED_TO})
        for group in self.arguments.only:
            base = os.path.join(self.work, group)
            os.makedirs(base)
            self.measure_group(group, base)
            shutil.rmtree(base)

    def measure_group(self, group, base):
        """The tables of one group."""
        make_layers, run = GROUPS[group]
        layers = make_layers(base)
        os.sync()
        tables, out = {}, {}
        for turn in range(-1, max(3, self.arguments.rounds // 4)):  # the first one is to warm up
            first = turn % len(self.kinds)
            for kind in self.kinds[first:] + self.kinds[:first]:
                if kind in out:
                    continue
                try:
                    figures = self.once(kind, base, layers, run)
                except Failed as why:
                    out[kind] = why
                    continue
                for figure in figures if turn >= 0 else ():
                    title = f"{figure.title}, {self.who}"
                    table = tables.setdefault(title, Table(title, "overlayfs", figure.unit))
                    table.add(kind, figure.value)
        for table in tables.values():
            table.show_all(self.kinds, out)

    def once(self, kind, base, layers, run):
        """One workload on one fresh mount; returns its figures."""
        target, figure = self.mount(kind, base, layers)
        figures, title = [figure], figure.title
        try:
            steps = run(Stage(target, base, server(kind)))
            title = next(steps, END)
            while title is not END:
                start = time.perf_counter()
                following = next(steps, END)
                taken = (time.perf_counter() - start) * 1000
                if isinstance(title, Figure):
                    figures.append(title)
                elif title is not None:
                    figures.append(Figure(title, taken, "ms"))
                title = following
        except (OSError, subprocess.CalledProcessError) as why:
            raise Failed(f"{title}: {why}") from why
        finally:
            self.unmount(kind, base, target)
        return figures

    def mount(self, kind, base, layers):
        """Mounts a candidate with a fresh upper directory. Returns where, and how long it took."""
        place = os.path.join(base, kind)
        upper, work, target = (os.path.join(place, part) for part in ("upper", "work", "merged"))
        for directory in (upper, work, target):
            os.makedirs(directory)
        # Relative, since many paths must fit into one page.
        options = f"lowerdir={':'.join(layers)},upperdir={upper},workdir={work}"
        command = mount_command(kind, options, target, self.arguments)
        outside = os.stat(target).st_dev
        os.chdir(base)
        start = time.perf_counter()
        timed(command, self.work)
        while os.stat(target).st_dev == outside:
            if time.perf_counter() - start > WAIT_SECONDS:
                raise Failed(f"no mount after {WAIT_SECONDS} s: {words(self.work)}")
            time.sleep(0.0001)
        taken = (time.perf_counter() - start) * 1000
        return target, Figure("mount to first stat", taken, "ms")

    @staticmethod
    def unmount(kind, base, target):
        """Unmounts, waits for the server, and removes what was written."""
        os.chdir("/")
        subprocess.run(["umount", target], check=True)
        reap()
        shutil.rmtree(os.path.join(base, kind))


def server(kind):
    """The process that serves the mount. It has gone to the background, and so come to us."""
    if kind == "overlayfs":
        return None
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    return int(children[-1]) if children else None
