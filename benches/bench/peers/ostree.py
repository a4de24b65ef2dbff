"""OSTree: commits, and a static delta from one to the other."""

import os

from ..measure import run, shell
from .peer import Peer, reset

BRANCH = "image"


class OSTree(Peer):
    """The node has a repository of its own and a checkout of hardlinks into it; it pulls, then checks out again."""

    name = "ostree"
    title = "`ostree static-delta generate`, `pull`, `checkout` of hardlinks beside the tree"
    tools = ("ostree",)
    leaves_out = "times, hardlinks, devices and the directories that hold them"
    patient = True
    in_place = False

    def __init__(self, pair, options):
        super().__init__(pair, options)
        self.remote, self.base = f"{self.store}/repo", f"{self.store}/base"
        self.local, self.local_base = f"{self.beside}/repo", f"{pair.kept}/ostree"

    def prepare(self):
        super().prepare()
        # a commit fails at a device before it reads the skip list, so directories with devices are skipped
        self.skip = f"{self.store}/skip"
        with open(self.skip, "wb") as skip:
            for tree in (self.pair.old, self.pair.new):
                special = run(
                    "find", tree, "!", "-type", "f", "!", "-type", "d", "!", "-type", "l", "-printf", "/%P\\n"
                )
                skip.writelines({os.path.dirname(path) + b"\n" for path in special.splitlines()})
        run("ostree", f"--repo={self.base}", "init", "--mode=archive")
        run(*self.commit(self.base, self.pair.old))
        run("ostree", f"--repo={self.local_base}", "init", "--mode=bare")
        run("ostree", f"--repo={self.local_base}", "remote", "add", "--no-gpg-verify", "origin", f"{self.url}/repo")
        run("ostree", f"--repo={self.local_base}", "pull-local", "--remote=origin", self.base, BRANCH)

    def commit(self, repo, tree):
        return [
            "ostree",
            f"--repo={repo}",
            "commit",
            f"--branch={BRANCH}",
            f"--tree=dir={tree}",
            f"--skip-list={self.skip}",
        ]

    def before_build(self):
        run("rm", "-rf", self.remote)
        run("cp", "-a", self.base, self.remote)

    def build(self):
        delta = 'ostree --repo="$1" static-delta generate "$2" && ostree --repo="$1" summary -u'
        return {"commit": self.commit(self.remote, self.pair.new), "delta": shell(delta, self.remote, BRANCH)}

    def before_update(self):
        self.pair.disk.format()
        os.makedirs(self.beside)
        reset(self.local_base, self.local)

    def update(self):
        pull = (
            'ostree --repo="$1" pull --require-static-deltas origin "$2"; '
            'ostree --repo="$1" checkout -H "origin:$2" "$3"'
        )
        return shell(pull, self.local, BRANCH, self.result())

    def result(self):
        return f"{self.beside}/new"
