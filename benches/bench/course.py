"""The sequence of a run: all peers build, then all peers update, by turns."""

import contextlib
import os
import shutil
import sys
import time

from . import modules, proposal, verification
from .daemons import Peak, rsync_daemon, web_server
from .disk import Disk
from .judge import judge
from .measure import Failed, cold, run, timed
from .network import DIRECT, LINKS, Network
from .peers import PEERS
from .peers.peer import Pair
from .targets import PATCH_DAY


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def measure_pair(results, suite, name, options):
    """Measures one pair of generations of SUITE into RESULTS."""
    old, new = (f"{options.images[suite]}/{generation}" for generation in name.split("-"))
    work = f"{options.dir}/work/{suite}-{name}"
    processors = len(os.sched_getaffinity(0))
    known = results.pair(suite, name, old=size_of(old), new=size_of(new), processors=processors)
    pair = None
    Disk(work).close()
    shutil.rmtree(work, ignore_errors=True)
    try:
        pair = Pair(f"{suite} {name}", old, new, work)
        peers = [PEERS[peer](pair, options) for peer in options.peers]
        if options.proposal:
            proposal.measure(pair, options, known, say)
            results.save()
        build(peers, options, known, results)
        for link in options.links:
            try:
                update(peers, LINKS[link], options, known, results)
            except Failed as why:
                known["failed"][f"the {link} link"] = str(why)
                say(f"{pair.name} the {link} link FAILED: {why}")
        if name == PATCH_DAY and "ours-best" in options.peers:
            modules.measure(pair, options, known, say)
            results.save()
        if options.verification:
            verification.measure(pair, options, known, say)
            results.save()
    finally:
        if pair:
            pair.disk.close()
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


def size_of(tree):
    sizes = run("find", tree, "-printf", "%y %s %i\\n").split(b"\n")[:-1]
    files = {line.split()[2]: int(line.split()[1]) for line in sizes if line.startswith(b"f")}
    return {"entries": len(sizes), "bytes": sum(files.values())}


def able(peers, known):
    return [peer for peer in peers if peer.name not in known["failed"]]


def attempt(peer, known, target, step):
    """Runs STEP; false if it failed, which excludes the peer and records the reason."""
    try:
        step()
        return True
    except (Failed, OSError, ValueError) as why:
        known["failed"][peer.name] = f"{target}: {why}"
        say(f"{peer.name} FAILED, {target}: {why}")
        return False


def build(peers, options, known, results):
    for peer in peers:
        missing = peer.missing()
        if missing:
            known["failed"][peer.name] = "not there: " + ", ".join(map(os.path.basename, missing))
        else:
            say(f"{known_as(peer)} prepares")
            attempt(peer, known, "before", peer.prepare)
    for turn in range(options.turns):
        for peer in able(peers, known):
            if turn == 0 or not peer.patient:
                attempt(peer, known, "build", lambda peer=peer: build_once(peer, known))
            results.save()


def build_once(peer, known):
    peer.before_build()
    steps = peer.build()
    if not steps:
        return
    cold()
    costs = {name: timed(command, sync=peer.store) for name, command in steps.items()}
    known["builds"].setdefault(peer.name, []).append(costs)
    say(f"{known_as(peer)} built in {sum(cost['wall'] for cost in costs.values()):.2f} s")


def known_as(peer):
    return f"{peer.pair.name} {peer.name}"


def update(peers, link, options, known, results):
    """All turns over one kind of link."""
    peers = [peer for peer in peers if link is DIRECT or peer.everywhere]
    if not able(peers, known):
        return
    pair = peers[0].pair
    # The servers' mount namespaces are copies of this one, and would keep the previous link's disk mounted.
    pair.disk.close()
    with contextlib.ExitStack() as entered:
        network = entered.enter_context(Network(link))
        servers = {
            "http": web_server(network, pair.server, pair.work),
            "rsync": rsync_daemon(network, pair.new, pair.work),
        }
        for server in servers.values():
            entered.enter_context(server)
        results["links"][link.name] = {"made_of": network.made_of, "round_trip": network.round_trip()}
        for turn in range(options.turns):
            for peer in able(peers, known):

                def once(peer=peer):
                    update_once(peer, network, servers[peer.origin], options, known)

                if attempt(peer, known, f"update over the {link.name} link", once) and turn == 0 and link is DIRECT:
                    known["judged"][peer.name] = judge(pair.new, peer.result())
                results.save()


def update_once(peer, network, daemon, options, known):
    peer.before_update()
    os.sync()
    if options.drop_caches:
        cold()
    output = f"{peer.pair.work}/output"
    since, server, wire = time.time_ns(), daemon.seconds(), network.bytes()
    with Peak(daemon) as peak:
        cost = timed(peer.update(), network.on_node(), peer.pair.node, output)
    cost["server"] = daemon.seconds() - server
    cost["server_memory"] = peak.bytes
    cost["wire"] = network.bytes() - wire
    cost["mixed"] = peer.switched(output, since)  # the key is that of older results
    known["updates"].setdefault(network.link.name, {}).setdefault(peer.name, []).append(cost)
    say(f"{known_as(peer)} updated over {network.link.name} in {cost['wall']:.2f} s, {cost['wire'] / 1e6:.2f} MB")
