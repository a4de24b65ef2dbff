"""The target ratios, each computed from one run."""

import typing

from . import verification
from .network import DIRECT, SLOW
from .peers import OURS
from .results import build_total, median, update_middle

PATCH_DAY, TINY = "g1-g2", "g2-g3"
MIB = 1024 * 1024


class Target(typing.NamedTuple):
    """One line: its value for a pair (None if a part was not measured), and the limit by pair."""

    title: str
    measure: typing.Callable
    limits: dict
    unit: str = "ratio"

    def reached(self, pair_name, value):
        limit = self.limits[pair_name]
        return value >= limit if self.unit == "times" else value <= limit

    def show(self, value):
        return {
            "ratio": f"{value:.3f}",
            "times": f"{value:.1f} times",
            "bytes": f"{value / MIB:.0f} MiB",
            "seconds": f"{value:.2f} s",
            "milliseconds": f"{value:.0f} ms",
        }[self.unit]

    def show_limit(self, pair_name):
        limit = self.limits[pair_name]
        return {
            "ratio": f"at most {limit}",
            "times": f"at least {limit} times",
            "bytes": f"at most {limit // MIB} MiB",
            "seconds": f"at most {limit} s",
            "milliseconds": f"at most {limit} ms",
        }[self.unit]


def quotient(above, below):
    return None if above is None or not below else above / below


def update_ratio(field, ours, peer, link=DIRECT.name):
    return lambda pair: quotient(update_middle(pair, link, ours, field), update_middle(pair, link, peer, field))


def against_best_peer(pair):
    """Bytes at `best` against the fewest of any other tool whose update succeeded."""
    others = [
        update_middle(pair, DIRECT.name, peer, "wire")
        for peer in pair["updates"].get(DIRECT.name, ())
        if peer not in OURS
    ]
    return quotient(update_middle(pair, DIRECT.name, "ours-best", "wire"), min(others, default=None))


def faster_than_full_tar(effort):
    def times(pair):
        full = median(pair["proposal"].get("full tar, gzip"), "wall")
        return quotient(full, build_total(pair["builds"].get(f"ours-{effort}"), "wall"))

    return times


def faster_than_ostree(pair):
    """Only the making of the delta counts for OSTree, not the commit before it."""
    delta = build_total(pair["builds"].get("ostree"), "wall", "delta")
    return quotient(delta, build_total(pair["builds"].get("ours-best"), "wall"))


def verification_ratio(pair):
    rows = pair.get("verification", {})
    return quotient(median(rows.get(verification.OURS), "wall"), median(rows.get(verification.SUMS), "wall"))


def node_memory(*peers):
    def most(pair):
        values = [update_middle(pair, DIRECT.name, peer, "memory") for peer in peers]
        return max((value for value in values if value is not None), default=None)

    return most


def update_value(field, peer):
    return lambda pair: update_middle(pair, DIRECT.name, peer, field)


def builder_memory(peer):
    return lambda pair: build_total(pair["builds"].get(peer), "memory")


TARGETS = (
    Target(
        "bytes on the wire, `best` to `rsync -z`",
        update_ratio("wire", "ours-best", "rsync-z"),
        {PATCH_DAY: 0.22, TINY: 0.06},
    ),
    Target("the same, `normal`", update_ratio("wire", "ours-normal", "rsync-z"), {PATCH_DAY: 0.48, TINY: 0.07}),
    Target("the same, `fast`", update_ratio("wire", "ours-fast", "rsync-z"), {PATCH_DAY: 0.58, TINY: 0.07}),
    Target("bytes on the wire, `best` to the best peer", against_best_peer, {PATCH_DAY: 0.5, TINY: 0.3}),
    Target(
        "build, full tar and gzip to `fast`, cold", faster_than_full_tar("fast"), {PATCH_DAY: 25, TINY: 150}, "times"
    ),
    Target(
        "build, full tar and gzip to `normal`, cold",
        faster_than_full_tar("normal"),
        {PATCH_DAY: 10, TINY: 100},
        "times",
    ),
    Target("build, OSTree's static delta to `best`", faster_than_ostree, {PATCH_DAY: 3}, "times"),
    Target(
        "node's time, `normal` to rsync, direct",
        update_ratio("wall", "ours-normal", "rsync"),
        {PATCH_DAY: 0.7, TINY: 0.35},
    ),
    Target("the same with `--check=touched`", update_ratio("wall", "ours-touched", "rsync"), {TINY: 0.1}),
    Target(
        "node's time, `normal` to rsync, 1 Gbit/s and 1 ms",
        update_ratio("wall", "ours-normal", "rsync", SLOW.name),
        {PATCH_DAY: 0.4, TINY: 0.35},
    ),
    Target("the same with `--check=touched`", update_ratio("wall", "ours-touched", "rsync", SLOW.name), {TINY: 0.1}),
    Target("`--verify` to `sha256sum` on all processors, warm", verification_ratio, {PATCH_DAY: 1.1, TINY: 1.1}),
    Target("switch of a downloaded update", update_value("wall", "ours-switch"), {PATCH_DAY: 2}, "seconds"),
    Target("the same, mixed tree", update_value("mixed", "ours-switch"), {PATCH_DAY: 100}, "milliseconds"),
    Target(
        "server's CPU a node, web server to rsync daemon",
        update_ratio("server", "ours-normal", "rsync"),
        {PATCH_DAY: 0.03, TINY: 0.03},
    ),
    Target(
        "node's peak memory, `fast` and `normal`",
        node_memory("ours-fast", "ours-normal"),
        {PATCH_DAY: 64 * MIB, TINY: 48 * MIB},
        "bytes",
    ),
    Target("node's peak memory, `best`", node_memory("ours-best"), {PATCH_DAY: 160 * MIB, TINY: 48 * MIB}, "bytes"),
    Target("builder's peak memory, `fast`", builder_memory("ours-fast"), {PATCH_DAY: 200 * MIB}, "bytes"),
    Target("builder's peak memory, `best`", builder_memory("ours-best"), {PATCH_DAY: 500 * MIB}, "bytes"),
)
