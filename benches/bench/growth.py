"""The programs alone, on trees of growing size: costs of build and update per changed file."""

import os
import shutil
import time

from .course import say
from .judge import judge
from .measure import Failed, cold, timed
from .peers.ours import SETTLED, efforts
from .peers.peer import reset
from .plot import curves
from .report import machine_lines, number, table
from .results import cpu
from .synthetic import Synthetic

MIB = 1024 * 1024


def measure(results, options):
    """Measures each size and share into RESULTS."""
    for entries in options.sizes:
        work = f"{options.dir}/work/growth"
        shutil.rmtree(work, ignore_errors=True)
        try:
            one_size(Course(work, entries, options), results, options)
        except Failed as why:
            results["failed"][f"{entries:,} entries"] = str(why)
            say(f"{entries:,} entries FAILED: {why}")
        finally:
            shutil.rmtree(work, ignore_errors=True)


class Course:
    """One tree with its repository and its node."""

    def __init__(self, work, entries, options):
        self.work, self.entries, self.options = work, entries, options
        self.image, self.repo, self.node = f"{work}/images/node", f"{work}/repo", f"{work}/node"
        os.makedirs(work)
        os.makedirs(f"{work}/images")
        self.tree = Synthetic(self.image, entries, options.mean)

    def publish(self):
        """Publishes from a cold cache; returns the cost."""
        si_tardiff = f"{self.options.bin}/si_tardiff"
        effort = efforts(si_tardiff).get(self.options.effort)
        if effort is None:
            raise Failed(f"this si_tardiff has no effort {self.options.effort}")
        time.sleep(SETTLED)
        cold()
        command = [si_tardiff, "publish", "--image", "node", "--images-dir", f"{self.work}/images", "--repo", self.repo]
        return timed([*command, "--diffs", "1", *effort], sync=self.work)

    def follow(self, *more):
        """Updates the node with warm caches; returns the cost."""
        command = [f"{self.options.bin}/si_updateclient", "--diff", "--yes", "--server", "localhost"]
        command += ["--repo", f"file://{self.repo}/", "--image", "node", "--root", self.node]
        os.sync()
        return timed([*command, "--exclude-file", "/dev/null", "--no-fallback", *more], sync=self.node)

    def newest_diff(self):
        """The bytes of the diff that was written last."""
        with os.scandir(f"{self.repo}/node/diffs") as diffs:
            return max((entry.stat() for entry in diffs), key=lambda seen: seen.st_mtime_ns).st_size


def one_size(course, results, options):
    say(f"{course.entries:,} entries: making the tree")
    os.makedirs(course.repo)
    course.tree.make()
    first = course.publish()
    say(f"published whole in {first['wall']:.1f} s")
    # the node is a copy, and adopts its generation
    reset(course.image, course.node)
    course.follow()
    # fixed costs without a change: the scan of the image, the walk over the node
    idle = {"build": course.publish(), "update": course.follow("--check=stat")}
    results["steps"].append({"entries": course.entries, "share": 0, "whole": first, "idle": idle})
    for share in options.shares:
        for _ in range(options.turns):
            files, size = course.tree.change(share)
            build = course.publish()
            update = course.follow()
            step = {"entries": course.entries, "share": share, "files": files, "bytes": size}
            results["steps"].append({**step, "diff": course.newest_diff(), "build": build, "update": update})
            results.save()
            say(f"{share} %: {files:,} files, built in {build['wall']:.2f} s, updated in {update['wall']:.2f} s")
    differs = judge(course.image, course.node)
    if differs:
        raise Failed(f"after the last update the node is not the image: {differs}")


def changed(results):
    return [step for step in results["steps"] if step["share"]]


def per_file(results, step, job):
    """Microseconds of CPU for each changed file, minus the cost of the unchanged tree."""
    idle = next(
        known["idle"][job] for known in results["steps"] if known["entries"] == step["entries"] and "idle" in known
    )
    return max(0.0, cpu(step[job]) - cpu(idle)) * 1e6 / step["files"]


def per_byte(results, step, job):
    """Nanoseconds of CPU for each byte of changed files, counted alike."""
    return per_file(results, step, job) * 1e3 * step["files"] / max(step["bytes"], 1)


def table_of(results):
    """The Markdown."""
    return "\n\n".join([
        "# Growth",
        machine_lines(results),
        "MB are 10^6 bytes; memory is the largest process, in MiB; times are with the final sync. Builds begin with a "
        "cold page cache. The cost of a file and of a byte is CPU time minus that of the same tree without a "
        "change, see the second table.",
        changes_table(results),
        "With nothing changed: the tree published for the first time, published again, and walked on the node.",
        idle_table(results),
        *(f"Failed, {size}: {why}" for size, why in results["failed"].items()),
    ]) + "\n"  # fmt: skip


def changes_table(results):
    heads = ["entries", "changed", "files", "new MB", "diff MB", "diff bytes a file"]
    for job in ("build", "node"):
        heads += [f"{job} s", "CPU s", "µs a file", "ns a byte", "MiB"]
    rows = []
    for step in changed(results):
        files = step["files"]
        row = [
            f"{step['entries']:,}",
            f"{step['share']:g} %",
            f"{files:,}",
            number(step["bytes"], 1e6),
            number(step["diff"], 1e6),
        ]
        row.append(number(step["diff"] / files))
        for job in ("build", "update"):
            cost = step[job]
            row += [number(cost["wall"]), number(cpu(cost)), number(per_file(results, step, job))]
            row += [number(per_byte(results, step, job)), number(cost["memory"], MIB)]
        rows.append(row)
    return table(heads, rows)


def idle_table(results):
    heads = ["entries"] + [f"{target} {unit}" for target in ("first", "again", "walk") for unit in ("s", "CPU s", "MiB")]
    rows = []
    for step in results["steps"]:
        if "idle" in step:
            costs = (step["whole"], step["idle"]["build"], step["idle"]["update"])
            figures = [number(value) for cost in costs for value in (cost["wall"], cpu(cost), cost["memory"] / MIB)]
            rows.append([f"{step['entries']:,}", *figures])
    return table(heads, rows)


def plot_of(results):
    """The SVG: cost of a changed file over the number of changed files, one curve a tree size."""
    panels = {
        "diff, bytes a changed file": lambda step: step["diff"] / step["files"],
        "build, µs of CPU a changed file": lambda step: per_file(results, step, "build"),
        "node, µs of CPU a changed file": lambda step: per_file(results, step, "update"),
        "build, peak memory in MiB": lambda step: step["build"]["memory"] / MIB,
        "node, peak memory in MiB": lambda step: step["update"]["memory"] / MIB,
    }
    sizes = sorted({step["entries"] for step in changed(results)})
    lines = {
        title: {
            f"{size:,} entries": [(s["files"], value(s)) for s in changed(results) if s["entries"] == size]
            for size in sizes
        }
        for title, value in panels.items()
    }
    return curves(lines, "files changed", results["machine"])
