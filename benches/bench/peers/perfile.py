"""Deltas file by file: xdelta3 and bsdiff for files at the same path, everything else whole and compressed."""

import os
import sys

from ..measure import shell
from .peer import Peer

PERFILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "perfile.py")


class PerFile(Peer):
    """A delta for each path that both trees have, the rest in a tar."""

    tool = ""
    patient = True

    def before_build(self):
        self.clean()
        self.prepare()

    def build(self):
        return {"build": [sys.executable, PERFILE, self.tool, "build", self.pair.old, self.pair.new, self.store]}

    def before_update(self):
        super().before_update()
        os.makedirs(f"{self.beside}/deltas")

    def update(self):
        fetch = (
            'cd "$2"; curl -sSf --remote-name-all "$1/deleted" "$1/deltas.tar" "$1/whole.tar.zst"; '
            '"$3" "$4" "$5" apply "$6" "$2" "$2/deltas"; rm -r "$2"/*'
        )
        return shell(fetch, self.url, self.beside, sys.executable, PERFILE, self.tool, self.pair.node)


class Xdelta(PerFile):
    name = tool = "xdelta3"
    title = "`xdelta3 -9 -D` for each path of both, the rest `tar` and `zstd -19`"
    tools = ("xdelta3", "zstd", "tar", "curl")


class Bsdiff(PerFile):
    name = tool = "bsdiff"
    title = "as `xdelta3`, by `bsdiff`"
    tools = ("bsdiff", "bspatch", "zstd", "tar", "curl")
