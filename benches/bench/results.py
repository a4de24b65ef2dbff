"""The measurements: plain dictionaries, saved as JSON, so that tables can be made without a new run.

  machine, versions, options     the environment and the options of the run
  links    {link: {made_of, round_trip}}
  suites   {suite: {pair: a dictionary of the following}}
    processors  number of processors that this run may use
    old, new    {entries, bytes}
    builds      {peer: [{step: cost, ...} of each turn]}
    updates     {link: {peer: [cost of each turn]}}
    judged      {peer: the differences after its update, or ""}
    failed      {peer: why}
    proposal    {row: [cost of each turn, with the `size` of the pack]}
    verification    {row: [cost of each turn]}
    modules     cost of the update of the kernel's modules alone, with the time of its `build`

A cost has wall, sync, user, system (seconds) and memory (bytes); an update's also wire (bytes), server
(seconds), server_memory (bytes) and mixed (milliseconds, or None). Older files have `pairs`, all of bookworm, in
place of `suites`.
"""

import json
import os
import statistics

from .images import DEFAULT_SUITE


class Results(dict):
    """The dictionaries and their file."""

    def __init__(self, path, **known):
        super().__init__(known)
        self.path = path
        self.setdefault("links", {})
        self.setdefault("suites", {})
        of_older_file = self.pop("pairs", None)
        if of_older_file:
            self["suites"][DEFAULT_SUITE] = of_older_file

    def save(self):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump(self, file, indent=1)
        os.replace(self.path + ".new", self.path)

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as file:
            return cls(path, **json.load(file))

    def pair(self, suite, name, **known):
        empty = {"builds": {}, "updates": {}, "judged": {}, "failed": {}, "proposal": {}, "verification": {}}
        return self["suites"].setdefault(suite, {}).setdefault(name, {**known, **empty})


def median(turns, field):
    """The median of FIELD over the turns; None if not measured."""
    values = [turn[field] for turn in turns or () if turn.get(field) is not None]
    return statistics.median(values) if values else None


def cpu(cost):
    return cost["user"] + cost["system"]


def build_total(turns, field, step=None):
    """The median over the turns of a build's FIELD: its steps' sum, the largest for memory; or of one step."""

    def of(steps):
        chosen = [cost for name, cost in steps.items() if step in (None, name)]
        values = [cpu(cost) if field == "cpu" else cost[field] for cost in chosen]
        return (max if field == "memory" else sum)(values) if values else None

    values = [value for value in map(of, turns or ()) if value is not None]
    return statistics.median(values) if values else None


def update_middle(pair, link, peer, field):
    """The median of an update's FIELD ("cpu" is user and system), or None."""
    turns = pair["updates"].get(link, {}).get(peer, ())
    if field == "cpu":
        return statistics.median(map(cpu, turns)) if turns else None
    return median(turns, field)
