"""The interface of all ways to update a node from OLD to NEW."""

import os
import shutil

from ..daemons import HTTP
from ..disk import Disk
from ..measure import run
from ..network import SERVER
from ..span import span


class Pair:
    """Two generations, and the working directories.

    image       NEW, on the server
    server      the web server's directory, with a subdirectory for each peer
    disk        the node's filesystem
    node        the node's tree; its other files are in `beside`, on the same filesystem
    kept        initial files of the peers' nodes, with a subdirectory for each
    """

    def __init__(self, name, old, new, work):
        self.name, self.old, self.new, self.work = name, old, new, work
        self.server, self.kept = f"{work}/server", f"{work}/kept"
        for directory in (self.server, self.kept):
            os.makedirs(directory, exist_ok=True)
        self.disk = Disk(work)
        self.node, self.beside = f"{self.disk.top}/node", f"{self.disk.top}/beside"


class Peer:
    """One way. A subclass gives the commands of its server and of its node.

    name, title    for the table
    tools          programs that it needs
    origin         the server of the node: "http" (a static web server) or "rsync" (its daemon)
    patient        whether a build takes minutes, and so is done once, not in turns
    everywhere     whether its update is measured on every kind of link, not only on the direct one
    in_place       whether the node's tree itself is changed; else a new tree is made beside it
    leaves_out     attributes omitted by design: compared and reported, but no failure
    """

    name = title = leaves_out = ""
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
        """Prepares server and node before NEW exists. Not measured; once."""
        os.makedirs(self.store, exist_ok=True)

    def before_build(self):
        """Resets the server before each build. Not measured."""

    def build(self):
        """The measured steps of the server, in order, by name; empty if it prepares nothing."""
        return {}

    def before_update(self):
        """Resets the node before each update. Not measured."""
        self.pair.disk.format()
        os.makedirs(self.beside)
        reset(self.pair.old, self.pair.node)

    def update(self):
        """The measured command of the node."""
        raise NotImplementedError

    def result(self):
        """The tree that must equal NEW after an update."""
        return self.pair.node

    def switched(self, output, since):
        """Milliseconds in which the tree was neither OLD nor NEW, from the output SAID or from ctimes; None if unknown."""
        return span(self.pair.node, since) if self.in_place else None

    def clean(self):
        """Frees the disk after the last measurement."""
        shutil.rmtree(self.store, ignore_errors=True)


def reset(source, target):
    """Makes TARGET a copy of SOURCE. Keeps the directory itself and all unchanged files.

    A change that preserves size, time and name would survive this; the comparison would find it.
    """
    os.makedirs(target, exist_ok=True)
    run("rsync", "-aHAX", "--numeric-ids", "--delete", "--modify-window=-1", "--whole-file", f"{source}/", f"{target}/")
