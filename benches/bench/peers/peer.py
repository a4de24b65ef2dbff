"""What every way to bring a node from OLD to NEW has in common."""

import os
import shutil

from ..daemons import HTTP
from ..disk import Disk
from ..measure import run
from ..network import SERVER
from ..span import span


class Pair:
    """Two generations, and where the work on them is done.

    image       NEW, on the server
    server      below it each peer has a directory of its own, which the web server offers
    disk        the node's filesystem
    node        the node's tree; everything else of the node's lies in `beside`, on the same filesystem
    kept        what a peer's node has from the beginning, below it a directory for each
    """

    def __init__(self, name, old, new, work):
        self.name, self.old, self.new, self.work = name, old, new, work
        self.server, self.kept = f"{work}/server", f"{work}/kept"
        for directory in (self.server, self.kept):
            os.makedirs(directory, exist_ok=True)
        self.disk = Disk(work)
        self.node, self.beside = f"{self.disk.top}/node", f"{self.disk.top}/beside"


class Peer:
    """One way. A subclass says how its server prepares and how its node updates; all of it as commands.

    name, says     for the table
    tools          programs that it needs
    origin         who serves the node: "http" (a static web server) or "rsync" (its daemon)
    patient        whether a build takes minutes, and so is done once, not in turns
    everywhere     whether its update is measured on every kind of link, not only on the direct one
    in_place       whether the node's tree itself is changed; else a new tree is made beside it
    leaves_out     what it does not carry by design: judged, and told, but no failure
    """

    name = says = leaves_out = ""
    tools = ()
    origin = "http"
    patient = everywhere = False
    in_place = True

    def __init__(self, pair, options):
        self.pair, self.options = pair, options
        self.store = f"{pair.server}/{self.name}"
        self.beside = f"{pair.beside}/{self.name}"
        self.url = f"http://{SERVER}:{HTTP}/{self.name}"

    def missing(self):
        """The tools that are not installed."""
        return [tool for tool in self.tools if not shutil.which(tool)]

    def prepare(self):
        """What is there before NEW exists, on server and node. Not measured; once."""
        os.makedirs(self.store, exist_ok=True)

    def before_build(self):
        """Makes the server's side what it was before a build. Not measured; before each build."""

    def build(self):
        """The measured steps of the server, in order, by name; none where nothing has to be prepared."""
        return {}

    def before_update(self):
        """Makes the node what it was before an update. Not measured; before each update."""
        self.pair.disk.make_anew()
        os.makedirs(self.beside)
        reset(self.pair.old, self.pair.node)

    def update(self):
        """The measured command of the node."""
        raise NotImplementedError

    def result(self):
        """The tree that is to be NEW after an update."""
        return self.pair.node

    def mixed(self, said, since):
        """Milliseconds in which the tree was neither, from what the update SAID or left; None if unknown."""
        return span(self.pair.node, since) if self.in_place else None

    def clean(self):
        """Frees the disk once all is measured."""
        shutil.rmtree(self.store, ignore_errors=True)


def reset(source, target):
    """Makes TARGET a copy of SOURCE. The directory itself stays; what is right already stays, too.

    What a peer changed without changing size, time or name would survive this; the judge would find it.
    """
    os.makedirs(target, exist_ok=True)
    run("rsync", "-aHAX", "--numeric-ids", "--delete", "--modify-window=-1", "--whole-file", f"{source}/", f"{target}/")
