"""This project's programs: published at each effort, followed with each kind of check."""

import json
import os
import re
import shutil
import subprocess
import time

from ..daemons import HTTP
from ..measure import run
from ..network import SERVER
from .peer import Peer, reset

# A scan caches only files whose last change is some seconds old.
SETTLED = 3

# The arguments of `publish` and `build` for each effort.
EFFORTS = {"fast": ["--effort", "fast"], "normal": ["--effort", "normal"], "best": ["--effort", "best"]}


def knows(si_tardiff, command, option):
    """Whether COMMAND of this build of si_tardiff has OPTION."""
    help_text = subprocess.run([si_tardiff, command, "--help"], capture_output=True, text=True, check=True).stdout
    return re.search(rf"{option}\b", help_text) is not None


def efforts(si_tardiff, command="publish"):
    """The EFFORTS that this build of si_tardiff knows; only normal if it has no such option."""
    return EFFORTS if knows(si_tardiff, command, "--effort") else {"normal": []}


class Ours(Peer):
    """`si_tardiff publish` into a repository that knows OLD; `si_updateclient --diff` on a node that recorded OLD."""

    effort = ""
    more = ()
    everywhere = True

    def __init__(self, pair, options):
        super().__init__(pair, options)
        self.si_tardiff, self.si_updateclient = (f"{options.bin}/{name}" for name in ("si_tardiff", "si_updateclient"))
        self.tools = (self.si_tardiff, self.si_updateclient)
        # all efforts share an image that is edited in place, its scan, and a node that follows it
        self.images, self.published = f"{pair.work}/images", f"{pair.work}/published"
        self.agent = f"{pair.beside}/si_updateclient"
        self.repo = f"{pair.server}/{self.built_by()}"

    def built_by(self):
        return f"ours-{self.effort}"

    def missing(self):
        if self.effort not in efforts(self.si_tardiff):
            return [f"--effort {self.effort} of si_tardiff"]
        return super().missing()

    def prepare(self):
        if os.path.isdir(self.published):
            return
        image = f"{self.images}/node"
        reset(self.pair.old, image)
        time.sleep(SETTLED)
        self.publish_to(self.published)
        # by content, since an image tool would not touch unchanged files
        run(
            "rsync",
            "-aHAX",
            "--numeric-ids",
            "--delete",
            "--modify-window=-1",
            "--checksum",
            f"{self.pair.new}/",
            f"{image}/",
        )

    def publish_to(self, repo):
        os.makedirs(repo, exist_ok=True)
        run(*self.publish(repo))

    def publish(self, repo):
        command = [self.si_tardiff, "publish", "--image", "node", "--images-dir", self.images, "--repo", repo]
        return [*command, *efforts(self.si_tardiff)[self.effort]]

    def before_build(self):
        reset(self.published, self.repo)

    def build(self):
        return {"build": self.publish(self.repo)}

    def before_update(self):
        super().before_update()
        # an agent is on the disk of its node, and the node has recorded its generation
        shutil.copy(self.si_updateclient, self.agent)
        run(*self.follow(f"file://{self.published}/"))

    def follow(self, repo):
        command = [
            self.agent,
            "--diff",
            "--yes",
            "--json",
            "--server",
            SERVER,
            "--repo",
            repo,
            "--image",
            "node",
        ]
        return [*command, "--root", self.pair.node, "--exclude-file", "/dev/null", "--no-fallback"]

    def update(self):
        # As many files are rebuilt at a time as there are processors; the default leaves most to jobs.
        jobs = ["--rebuild-jobs", str(len(os.sched_getaffinity(0)))]
        return [*self.follow(f"http://{SERVER}:{HTTP}/{self.built_by()}/"), *jobs, *self.more]

    def switched(self, output, since):
        with open(output, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith('{"event":"done"'):
                    return json.loads(line)["mixed_ms"] or 0
        return None


class Fast(Ours):
    name, effort = "ours-fast", "fast"
    title = "`si_tardiff publish --effort fast`, `si_updateclient --diff`"


class Normal(Ours):
    name, effort = "ours-normal", "normal"
    title = "as `ours-fast`, at `normal`"


class Best(Ours):
    name, effort = "ours-best", "best"
    title = "as `ours-fast`, at `best`"
    patient = True


class Followed(Ours):
    """The build of another way, named in `needs`, followed with other options."""

    needs = ""

    def before_build(self):
        pass

    def build(self):
        return {}


class Touched(Followed):
    """The build of `normal`, followed without comparing unchanged paths."""

    name, effort = "ours-touched", "normal"
    title = "as `ours-normal`, `--check=touched` on the node"
    more = ("--check=touched",)
    needs = "ours-normal"


class OneProcessor(Followed):
    """The same update with all threads on one processor, so that its CPU time does not depend on their number."""

    everywhere = False

    def __init__(self, pair, options):
        super().__init__(pair, options)
        self.tools += ("taskset",)

    def update(self):
        first = min(os.sched_getaffinity(0))
        return ["taskset", "--cpu-list", first, *super().update()]


class NormalOneProcessor(OneProcessor):
    name, effort = "ours-normal-1cpu", "normal"
    title = "as `ours-normal`, on one processor of the node (`taskset`)"
    needs = "ours-normal"


class BestOneProcessor(OneProcessor):
    name, effort = "ours-best-1cpu", "best"
    title = "as `ours-best`, on one processor of the node (`taskset`)"
    needs = "ours-best"
    patient = True


class Switch(Touched):
    """The build of `normal`, downloaded before; only the switch is measured."""

    name = "ours-switch"
    title = "as `ours-normal`, after `--download-only`: `--from-downloaded` alone"
    more = ("--from-downloaded",)

    def before_update(self):
        super().before_update()
        run(*self.follow(f"file://{self.repo}/"), "--download-only")
