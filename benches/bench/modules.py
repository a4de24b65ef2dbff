"""The modules of the kernel alone, as an image of their own: the cost of a new kernel at `best`."""

import os
import shutil
import time

from .daemons import HTTP, web_server
from .judge import judge
from .measure import Failed, cold, run, timed
from .network import DIRECT, SERVER, Network
from .peers.ours import EFFORTS, SETTLED
from .peers.peer import reset

MODULES = "usr/lib/modules"


class Site:
    """An image with the modules of OLD, its repository, and a node that records it."""

    def __init__(self, pair, options):
        self.pair, self.bin = pair, options.bin
        self.work = f"{pair.work}/modules"
        self.image, self.node = f"{self.work}/images/node", f"{self.work}/node"
        self.server = f"{self.work}/server"
        for tree in (self.image, self.node):
            reset(f"{pair.old}/{MODULES}", f"{tree}/{MODULES}")
        os.makedirs(self.server)

    def publish(self, effort):
        command = [f"{self.bin}/si_tardiff", "publish", "--quiet", "--image", "node", *EFFORTS[effort]]
        return [*command, "--images-dir", f"{self.work}/images", "--repo", self.server]

    def follow(self, repo):
        command = [f"{self.bin}/si_updateclient", "--diff", "--yes", "--server", SERVER, "--repo", repo]
        # a new kernel replaces every path
        limits = ["--no-fallback", "--max-delete", "100%", "--exclude-file", "/dev/null"]
        return [*command, "--image", "node", "--root", self.node, *limits]


def measure(pair, options, known, say):
    """Measures build and update once into KNOWN; a failure is recorded."""
    if not all(os.path.isdir(f"{tree}/{MODULES}") for tree in (pair.old, pair.new)):
        return
    try:
        site = Site(pair, options)
        time.sleep(SETTLED)
        run(*site.publish("fast"))
        run(*site.follow(f"file://{site.server}/"))
        reset(f"{pair.new}/{MODULES}", f"{site.image}/{MODULES}")
        cold()
        build = timed(site.publish("best"), sync=site.work)
        known["modules"] = update(site) | {"build": build["wall"]}
        say(f"{pair.name} modules alone: {known['modules']['wire'] / 1e6:.2f} MB")
    except (Failed, OSError) as why:
        known["failed"]["modules alone"] = str(why)
        say(f"{pair.name} modules alone FAILED: {why}")
    finally:
        shutil.rmtree(f"{pair.work}/modules", ignore_errors=True)


def update(site):
    """The cost of the node's update over the direct link, with the bytes on the wire."""
    with Network(DIRECT) as network, web_server(network, site.server, site.work):
        before = network.bytes()
        cost = timed(site.follow(f"http://{SERVER}:{HTTP}/"), network.on_node(), site.node)
        cost["wire"] = network.bytes() - before
    differences = judge(site.image, site.node)
    if differences:
        raise Failed(f"the node differs afterwards: {differences}")
    return cost
