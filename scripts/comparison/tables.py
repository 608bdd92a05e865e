"""Samples, and how they are shown."""

import statistics
import sys

from .running import Failed


class Table:
    """One question, and what each candidate took."""

    def __init__(self, title, reference, unit="ms"):
        self.title, self.reference, self.unit = title, reference, unit
        self.samples = {}
        self.refusals = {}

    def add(self, name, wall, cpu=None):
        """One sample of one candidate."""
        self.samples.setdefault(name, []).append((wall, cpu))

    def refuse(self, name, why):
        """A candidate cannot take part."""
        self.refusals[name] = why

    def summary(self, name):
        """Minimum and median wall time, median CPU time."""
        walls, cpus = zip(*self.samples[name])
        cpu = None if None in cpus else statistics.median(cpus)
        return min(walls), statistics.median(walls), cpu

    def show_all(self, names, refused):
        """Print the table in the order of `names`, without those that could not take part."""
        for name, why in refused.items():
            self.samples.pop(name, None)
            self.refuse(name, why)
        # In the order of the caller, not of whoever began.
        self.samples = {name: self.samples[name] for name in names if name in self.samples}
        self.show()

    def show(self):
        """Print the table."""
        summaries = {name: self.summary(name) for name in self.samples}
        with_cpu = any(cpu is not None for _, _, cpu in summaries.values())
        base = summaries.get(self.reference)
        heads = ["min", "median", *(["CPU"] if with_cpu else [])]
        heads += [f"min / {self.reference}", "median /"] if base else []
        print(f"\n{self.title} ({self.unit})")
        self.line("", heads, heads)
        for name, (least, median, cpu) in summaries.items():
            cells = [least, median, *([cpu] if with_cpu else [])]
            cells += [least / base[0], median / base[1]] if base else []
            self.line(name, [f"{cell:.2f}" for cell in cells], heads)
        for name, why in self.refusals.items():
            print(f"  {name:22} cannot: {why}")
        sys.stdout.flush()

    @staticmethod
    def line(name, cells, heads):
        """One line, in columns as wide as their heads."""
        columns = (f"{cell:>{max(9, len(head) + 2)}}" for cell, head in zip(cells, heads))
        print(f"  {name:22}", *columns)


def alternate(table, candidates, rounds):
    """Let every candidate run once a round; who fails is out.

    A candidate is a function that returns wall and CPU milliseconds.
    """
    names = list(candidates)
    for turn in range(-1, rounds):  # the first one is to warm up
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if name in table.refusals:
                continue
            try:
                sample = candidates[name]()
            except Failed as why:
                table.samples.pop(name, None)
                table.refuse(name, why)
                continue
            if turn >= 0:
                table.add(name, *sample)
    table.show_all(names, {})
