"""Reading a whole node: `si_updateclient --verify`, beside sha256sum of the same files on all processors."""

import os
import shutil

from .measure import Failed, run, shell, timed
from .peers.peer import reset

OURS, SUMS = "`si_updateclient --verify`", "`sha256sum` of all files, on all processors"


def rows(options, tree):
    """{row: command that reads every file of TREE}."""
    agent = f"{options.bin}/si_updateclient"
    return {
        OURS: [agent, "--verify", "--quiet", "--root", tree, "--exclude-file", "/dev/null"],
        SUMS: shell('find "$1" -type f -print0 | xargs -0 -P"$(nproc)" -n 64 sha256sum', tree),
    }


def make_node(pair, options, work):
    """A copy of NEW that is a node with a record."""
    tree = f"{work}/images/node"
    reset(pair.new, tree)
    repo = f"{work}/repo"
    os.makedirs(repo)
    tardiff, agent = f"{options.bin}/si_tardiff", f"{options.bin}/si_updateclient"
    run(tardiff, "publish", "--quiet", "--effort", "fast", "--image", "node", "--images-dir", f"{work}/images", "--repo", repo)
    adopt = [agent, "--adopt", "--yes", "--image", "node", "--repo", f"file://{repo}/", "--root", tree]
    run(*adopt, "--exclude-file", "/dev/null")
    return tree


def measure(pair, options, known, say):
    """Measures both from a warm cache, by turns, into KNOWN; a failure is recorded."""
    work = f"{pair.work}/verification"
    try:
        tree = make_node(pair, options, work)
        commands = rows(options, tree)
        run(*commands[SUMS])
        for _ in range(options.turns):
            for row, command in commands.items():
                cost = timed(command)
                known["verification"].setdefault(row, []).append(cost)
                say(f"{pair.name} {row}: {cost['wall']:.2f} s")
    except Failed as why:
        known["failed"]["verification"] = str(why)
        say(f"{pair.name} verification FAILED: {why}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
