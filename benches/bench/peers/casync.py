"""casync: content-defined chunks, of which the node has most in its own tree."""

from ..measure import run
from .peer import Peer


class Casync(Peer):
    """The index is fetched, then each chunk that the node's tree, the seed, does not hold."""

    name = "casync"
    title = "`casync make`, `casync extract --seed` of the node's tree, beside it"
    tools = ("casync",)
    leaves_out = "hardlinks"
    in_place = False

    def prepare(self):
        super().prepare()
        run("casync", "make", f"--store={self.store}/base.castr", f"{self.store}/old.caidx", self.pair.old)

    def before_build(self):
        run("rm", "-rf", f"{self.store}/chunks.castr", f"{self.store}/new.caidx")
        run("cp", "-a", f"{self.store}/base.castr", f"{self.store}/chunks.castr")

    def build(self):
        return {
            "build": ["casync", "make", f"--store={self.store}/chunks.castr", f"{self.store}/new.caidx", self.pair.new]
        }

    def update(self):
        sources = [f"--store={self.url}/chunks.castr", f"--seed={self.pair.node}"]
        return ["casync", "extract", *sources, f"{self.url}/new.caidx", self.result()]

    def result(self):
        return f"{self.beside}/new"
