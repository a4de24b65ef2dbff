"""The tables, in Markdown."""

from . import verification
from .images import SUITES
from .network import DIRECT, LINKS
from .peers import PEERS
from .results import build_total, median, update_middle
from .targets import PATCH_DAY, TARGETS, TINY

MIB = 1024 * 1024
CHANGES = {PATCH_DAY: "patch day", TINY: "tiny change"}


def report(results):
    """The whole report as one text."""
    parts = ["# Benchmark", conditions(results)]
    for suite, pairs in results["suites"].items():
        parts += [f"## {SUITES.get(suite, suite)}", "### Targets", targets(suite, pairs)]
        for name, pair in pairs.items():
            parts += [f"### {titled(name)}", *sections(results, pair)]
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(results, pair):
    """The tables of one pair, below its title."""
    parts = [sizes(pair), "#### Updates", updates(pair), legend(pair)]
    for link in pair["updates"]:
        if link != DIRECT.name:
            parts += [f"#### Updates, {LINKS[link].title}", link_lines(results, link), slow_updates(pair, link)]
    parts += ["#### Builds, from a cold page cache", builds(pair)]
    if pair.get("modules"):
        parts += ["#### The kernel's modules alone, `best`, direct", modules(pair)]
    if pair["proposal"]:
        parts += ["#### The original proposal's table", proposal(pair)]
    if pair.get("verification"):
        parts += ["#### Reading a whole node, from a warm page cache", verifications(pair)]
    if pair["failed"]:
        parts += ["#### Failed", failures(pair)]
    return parts


def titled(name):
    old, new = name.split("-")
    return f"{old} to {new}" + (f": {CHANGES[name]}" if name in CHANGES else "")


def table(heads, rows):
    """A Markdown table. Columns after the first are right-aligned, except those whose head begins with an apostrophe."""
    lines = ["| " + " | ".join(head.lstrip("'") for head in heads) + " |"]
    lines.append(
        "|" + "|".join("---" if place == 0 or head[:1] == "'" else "--:" for place, head in enumerate(heads)) + "|"
    )
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value, scale=1.0):
    """About three digits; a dash if not measured."""
    if value is None:
        return "–"
    value /= scale
    return (
        f"{value:,.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 0.095
        else f"{value:.3f}"
    )


def against(value, base):
    return "–" if value is None or not base else f"{value / base:.3f}"


def machine_lines(results):
    """The environment of a run, as a list."""
    machine, versions = results["machine"], results["versions"]
    facts = [("processor", "memory", "filesystem"), ("kernel", "system"), ("date", "load")]
    lines = [", ".join(f"{name} {machine[name]}" for name in line) for line in facts]
    lines.append("versions: " + ", ".join(f"{tool} {version}" for tool, version in versions.items()))
    return "\n".join(f"- {line}" for line in lines)


def conditions(results):
    options = results["options"]
    caches = "cold" if options["drop_caches"] else "warm"
    turns = (
        "one turn" if options["turns"] == 1 else f"medians of {options['turns']} turns (builds that take minutes: one)"
    )
    return (
        f"{machine_lines(results)}\n- {turns}; page cache of updates {caches}, of builds cold\n"
        "- MB are 10^6 bytes; memory is the largest process, in MiB; times are with the final sync"
    )


def sizes(pair):
    old, new = pair["old"], pair["new"]
    return (
        f"{old['entries']:,} entries and {old['bytes'] / 1e6:,.0f} MB become "
        f"{new['entries']:,} entries and {new['bytes'] / 1e6:,.0f} MB."
    )


def targets(suite, pairs):
    columns = [(suite, name) for name in (PATCH_DAY, TINY) if name in pairs]
    rows = [target for target in TARGETS if any(column in target.limits for column in columns)]
    # a suite may have limits for one of both pairs only
    columns = [column for column in columns if any(column in target.limits for target in rows)]
    if not columns:
        return f"None: they are for the pairs {PATCH_DAY} and {TINY} of {' and '.join(SUITES)}."
    heads = ["'target"] + [f"'{part}" for _, name in columns for part in (CHANGES[name], "measured", "")]
    lines = [
        [target.title, *(cell for column in columns for cell in target.cells(column, pairs[column[1]]))]
        for target in rows
    ]
    return table(heads, lines)


def peers_of(pair, link):
    """The ways with results or failures, in the order of the tables."""
    known = {*pair["updates"].get(link, ()), *pair["failed"]}
    return [name for name in PEERS if name in known]


def updates(pair):
    link = DIRECT.name
    base_wire, base_wall = (update_middle(pair, link, "rsync", field) for field in ("wire", "wall"))
    heads = ["'way", "wire MB", "to rsync", "wall s", "to rsync", "sync s", "node CPU s", "node MiB"]
    heads += ["server CPU s", "server MiB", "switched ms", "'the node afterwards"]
    rows = []
    for name in peers_of(pair, link):
        if name not in pair["updates"].get(link, {}):
            rows.append([name] + ["–"] * 10 + [f"failed, {pair['failed'][name]}"])
            continue
        wire, wall, sync, cpu, memory, server, most, switched = (
            update_middle(pair, link, name, field)
            for field in ("wire", "wall", "sync", "cpu", "memory", "server", "server_memory", "mixed")
        )
        row = [name, number(wire, 1e6), against(wire, base_wire), number(wall), against(wall, base_wall), number(sync)]
        row += [number(cpu), number(memory, MIB), number(server), number(most, MIB)]
        row += ["–" if switched is None else f"{switched:,.0f}", afterwards(pair, name)]
        rows.append(row)
    return table(heads, rows)


def afterwards(pair, name):
    failed = f"; then failed, {pair['failed'][name]}" if name in pair["failed"] else ""
    differs = pair["judged"].get(name)
    if differs is None:
        return "not judged" + failed
    if not differs:
        return "equal" + failed
    by_design = PEERS[name].leaves_out
    return f"differs: {differs}" + (f" (it does not carry {by_design})" if by_design else "") + failed


def legend(pair):
    lines = [f"- {name}: {PEERS[name].title}" for name in peers_of(pair, DIRECT.name)]
    lines.append(
        "- switched: time during which the tree is neither the old nor the new one; a dash if the new tree is made beside "
        "it, or if the time is unknown"
    )
    return "\n".join(lines)


def link_lines(results, link):
    known = results["links"][link]
    return f"Made of: {known['made_of']}. A round trip takes {known['round_trip'] * 1000:.2f} ms."


def slow_updates(pair, link):
    base = update_middle(pair, link, "rsync", "wall")
    rows = []
    for name in pair["updates"][link]:
        wall, wire = (update_middle(pair, link, name, field) for field in ("wall", "wire"))
        walls = [turn["wall"] for turn in pair["updates"][link][name]]
        rows.append(
            [
                name,
                number(wall),
                against(wall, base),
                f"{number(min(walls))} to {number(max(walls))}",
                number(wire, 1e6),
            ]
        )
    return table(["'way", "wall s", "to rsync", "from to", "wire MB"], rows)


def builds(pair):
    full = median(pair["proposal"].get("full tar, gzip"), "wall")
    rows = []
    for name in PEERS:
        turns = pair["builds"].get(name)
        if not turns:
            continue
        wall, cpu, memory = (build_total(turns, field) for field in ("wall", "cpu", "memory"))
        steps = (
            [f"{step} {number(build_total(turns, 'wall', step))} s" for step in turns[0]] if len(turns[0]) > 1 else []
        )
        faster = "–" if full is None else f"{full / wall:.1f}"
        rows.append([name, number(wall), faster, number(cpu), number(memory, MIB), ", ".join(steps)])
    return table(["'way", "wall s", "times faster than full tar and gzip", "CPU s", "MiB", "'steps"], rows)


def proposal(pair):
    full = median(pair["proposal"].get("full tar, gzip"), "wall")
    rows = []
    for row, turns in pair["proposal"].items():
        wall = median(turns, "wall")
        faster = "–" if not full else f"{full / wall:.1f}"
        rows.append(
            [row, number(wall), faster, number(median(turns, "size"), 1e6), number(median(turns, "memory"), MIB)]
        )
    for name in ("ours-fast", "ours-normal", "ours-best"):
        wall = build_total(pair["builds"].get(name), "wall")
        if wall is not None:
            wire = update_middle(pair, DIRECT.name, name, "wire")
            faster = "–" if not full else f"{full / wall:.1f}"
            memory = build_total(pair["builds"][name], "memory")
            rows.append(
                [
                    f"{name}, `publish` after an earlier one",
                    number(wall),
                    faster,
                    f"{number(wire, 1e6)} on the wire",
                    number(memory, MIB),
                ]
            )
    return table(["'pack", "wall s", "times faster", "MB", "MiB"], rows)


def modules(pair):
    cost = pair["modules"]
    spent = cost["user"] + cost["system"]
    row = [number(cost["wire"], 1e6), number(cost["wall"]), number(spent), number(cost["memory"], MIB)]
    return table(["wire MB", "wall s", "node CPU s", "node MiB", "build s"], [[*row, number(cost["build"])]])


def verifications(pair):
    base = median(pair["verification"].get(verification.SUMS), "wall")
    rows = []
    for row, turns in pair["verification"].items():
        wall, memory = median(turns, "wall"), median(turns, "memory")
        rows.append([row, number(wall), against(wall, base), number(memory, MIB)])
    return table(["'command", "wall s", "to sha256sum", "MiB"], rows)


def failures(pair):
    return "\n".join(f"- {name}: {why}" for name, why in pair["failed"].items())
