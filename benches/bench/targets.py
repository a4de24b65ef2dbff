"""The target ratios, each computed from one run."""

import typing

from . import verification
from .network import DIRECT, GIGABIT, MEGABIT_100
from .peers import OURS
from .results import build_total, median, update_middle

PATCH_DAY, TINY = "g1-g2", "g2-g3"
# suite and pair of the columns that have limits
DEBIAN_12, DEBIAN_12_TINY = ("bookworm", PATCH_DAY), ("bookworm", TINY)
DEBIAN_13 = ("trixie", PATCH_DAY)
MIB, MB = 1024 * 1024, 1_000_000
# in place of a limit: the value is in the table without a verdict
NONE = None


class Target(typing.NamedTuple):
    """One line: its value for a pair (None if a part was not measured), and the limit by suite and pair."""

    title: str
    measure: typing.Callable
    limits: dict
    unit: str = "ratio"

    def cells(self, column, pair):
        """Limit, value and verdict in the table's COLUMN, which is a suite and a pair's name."""
        if column not in self.limits:
            return ["", "", ""]
        limit, value = self.limits[column], self.measure(pair)
        shown = "–" if limit is None else f"{self.bound()} {self.show_limit(limit)}"
        if value is None:
            return [shown, "–", "not measured"]
        verdict = "" if limit is None else "reached" if self.reached(limit, value) else "**missed**"
        return [shown, self.show(value), verdict]

    def bound(self):
        return "at least" if self.unit == "times" else "at most"

    def reached(self, limit, value):
        return value >= limit if self.unit == "times" else value <= limit

    def show(self, value):
        return {
            "ratio": f"{value:.3f}",
            "times": f"{value:.1f} times",
            "mebibytes": f"{value / MIB:.0f} MiB",
            "megabytes": f"{value / MB:.2f} MB",
            "seconds": f"{value:.2f} s",
            "milliseconds": f"{value:.0f} ms",
        }[self.unit]

    def show_limit(self, limit):
        return {
            "ratio": f"{limit:.2f}",
            "times": f"{limit} times",
            "mebibytes": f"{limit // MIB} MiB",
            "megabytes": f"{limit // MB} MB",
            "seconds": f"{limit} s",
            "milliseconds": f"{limit} ms",
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


def update_value(field, peer):
    return lambda pair: update_middle(pair, DIRECT.name, peer, field)


def builder_memory(peer):
    return lambda pair: build_total(pair["builds"].get(peer), "memory")


def on_two_processors(peer):
    """The wall time of an update over the direct link, if the run had two processors."""
    return lambda pair: update_middle(pair, DIRECT.name, peer, "wall") if pair.get("processors") == 2 else None


def modules_alone(pair):
    return pair.get("modules", {}).get("wire")


TARGETS = (
    Target(
        "bytes on the wire, `best` to `rsync -az`",
        update_ratio("wire", "ours-best", "rsync-z"),
        {DEBIAN_12: 0.18, DEBIAN_12_TINY: 0.06, DEBIAN_13: 0.16},
    ),
    Target(
        "the same, `normal`",
        update_ratio("wire", "ours-normal", "rsync-z"),
        {DEBIAN_12: 0.50, DEBIAN_12_TINY: 0.07, DEBIAN_13: 0.25},
    ),
    Target(
        "the same, `fast`",
        update_ratio("wire", "ours-fast", "rsync-z"),
        {DEBIAN_12: 0.60, DEBIAN_12_TINY: 0.07, DEBIAN_13: 0.78},
    ),
    Target(
        "bytes on the wire, `best` to the best peer",
        against_best_peer,
        {DEBIAN_12: 0.35, DEBIAN_12_TINY: 0.3, DEBIAN_13: 0.25},
    ),
    Target(
        "bytes on the wire, `best`, the kernel's modules alone",
        modules_alone,
        {DEBIAN_12: NONE, DEBIAN_13: 10 * MB},
        "megabytes",
    ),
    Target(
        "node's CPU time, `best`, one processor",
        update_value("cpu", "ours-best-1cpu"),
        {DEBIAN_12: 10, DEBIAN_13: 40},
        "seconds",
    ),
    Target(
        "node's time, `best`, two processors, direct",
        on_two_processors("ours-best"),
        {DEBIAN_12: NONE, DEBIAN_13: 22},
        "seconds",
    ),
    Target(
        "node's CPU time, `normal`, one processor",
        update_value("cpu", "ours-normal-1cpu"),
        {DEBIAN_12: NONE, DEBIAN_13: 30},
        "seconds",
    ),
    Target(
        "node's time, `normal`, two processors, direct",
        on_two_processors("ours-normal"),
        {DEBIAN_12: NONE, DEBIAN_13: 16},
        "seconds",
    ),
    Target(
        "node's peak memory, `fast`",
        update_value("memory", "ours-fast"),
        {DEBIAN_12: 64 * MIB, DEBIAN_12_TINY: 48 * MIB, DEBIAN_13: NONE},
        "mebibytes",
    ),
    Target(
        "node's peak memory, `normal`",
        update_value("memory", "ours-normal"),
        {DEBIAN_12: 64 * MIB, DEBIAN_12_TINY: 48 * MIB, DEBIAN_13: 64 * MIB},
        "mebibytes",
    ),
    Target(
        "node's peak memory, `best`",
        update_value("memory", "ours-best"),
        {DEBIAN_12: 160 * MIB, DEBIAN_12_TINY: 48 * MIB, DEBIAN_13: 160 * MIB},
        "mebibytes",
    ),
    Target(
        "build, OSTree's static delta to `best`",
        faster_than_ostree,
        {DEBIAN_12: 3, DEBIAN_13: 2},
        "times",
    ),
    Target(
        "build, full tar and gzip to `fast`, cold",
        faster_than_full_tar("fast"),
        {DEBIAN_12: 25, DEBIAN_12_TINY: 150},
        "times",
    ),
    Target(
        "build, full tar and gzip to `normal`, cold",
        faster_than_full_tar("normal"),
        {DEBIAN_12: 10, DEBIAN_12_TINY: 100},
        "times",
    ),
    Target(
        "node's time, `fast` to rsync, direct",
        update_ratio("wall", "ours-fast", "rsync"),
        {DEBIAN_12: 0.6, DEBIAN_13: 0.6},
    ),
    Target(
        "node's time, `normal` to rsync, direct",
        update_ratio("wall", "ours-normal", "rsync"),
        {DEBIAN_12: 0.7, DEBIAN_12_TINY: 0.35, DEBIAN_13: NONE},
    ),
    Target(
        "the same with `--check=touched`",
        update_ratio("wall", "ours-touched", "rsync"),
        {DEBIAN_12_TINY: 0.1},
    ),
    Target(
        "node's time, `normal` to rsync, 1 Gbit/s and 1 ms",
        update_ratio("wall", "ours-normal", "rsync", GIGABIT.name),
        {DEBIAN_12: 0.4, DEBIAN_12_TINY: 0.35},
    ),
    Target(
        "the same with `--check=touched`",
        update_ratio("wall", "ours-touched", "rsync", GIGABIT.name),
        {DEBIAN_12_TINY: 0.1},
    ),
    Target(
        "node's time, `normal` to `rsync -az`, 100 Mbit/s and 1 ms",
        update_ratio("wall", "ours-normal", "rsync-z", MEGABIT_100.name),
        {DEBIAN_12: 0.6, DEBIAN_13: 1.0},
    ),
    Target(
        "`--verify` to `sha256sum` on all processors, warm",
        verification_ratio,
        {DEBIAN_12: 1.1, DEBIAN_12_TINY: 1.1},
    ),
    Target("switch of a downloaded update", update_value("wall", "ours-switch"), {DEBIAN_12: 2}, "seconds"),
    Target("the same, mixed tree", update_value("mixed", "ours-switch"), {DEBIAN_12: 100}, "milliseconds"),
    Target(
        "server's CPU a node, web server to rsync daemon",
        update_ratio("server", "ours-normal", "rsync"),
        {DEBIAN_12: 0.03, DEBIAN_12_TINY: 0.03},
    ),
    Target("builder's peak memory, `fast`", builder_memory("ours-fast"), {DEBIAN_12: 200 * MIB}, "mebibytes"),
    Target("builder's peak memory, `best`", builder_memory("ours-best"), {DEBIAN_12: 500 * MIB}, "mebibytes"),
)
