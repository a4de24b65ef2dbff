"""Full syncs: of an empty disk, and of a tree of which a part of the files is damaged."""

import contextlib
import glob
import hashlib
import os
import shutil
import statistics
import tomllib

from .course import say
from .daemons import HTTP, RSYNC, rsync_daemon, web_server
from .disk import Disk
from .judge import judge
from .measure import Failed, cold, run, timed
from .network import LINKS, SERVER, Network
from .peers.peer import reset

SITUATIONS = {"empty": "full sync of an empty disk", "damaged": "{share:g} % of the files damaged"}
WAYS = {
    "ours": "`si_updateclient --diff` over HTTP",
    "rsync": "`rsync -a --delete` from its daemon",
    # the only one of the two that finds damage which left size and time of a file as they were
    "checksum": "`rsync -a --delete --checksum` from its daemon",
}
FRAME = 1 << 20


class Site:
    """The published image, the node's disk, and the commands of the ways."""

    def __init__(self, options):
        self.options = options
        self.work = f"{options.dir}/work/heal"
        shutil.rmtree(self.work, ignore_errors=True)
        self.server, self.images = f"{self.work}/server", options.images
        os.makedirs(self.server)
        self.image = f"{options.images}/{options.generation}"
        self.disk = Disk(self.work)
        self.node, self.agent = f"{self.disk.top}/node", f"{self.disk.top}/si_updateclient"
        self.published = f"{self.server}/{options.generation}"

    def publish(self):
        command = [f"{self.options.bin}/si_tardiff", "publish", "--image", self.options.generation, "--quiet"]
        run(*command, "--images-dir", self.images, "--repo", self.server)

    def reset(self, situation):
        """Makes the node's disk anew."""
        self.disk.format()
        os.makedirs(self.node)
        if situation == "damaged":
            reset(self.image, self.node)
            for number, path in enumerate(chosen(self.image, self.options.share)):
                damage(os.path.join(self.node, path), number)
        shutil.copy(f"{self.options.bin}/si_updateclient", self.agent)
        cold()

    def command(self, way):
        if way in ("rsync", "checksum"):
            options = ["-a", "--delete", "--numeric-ids", *(["--checksum"] if way == "checksum" else [])]
            return ["rsync", *options, f"rsync://{SERVER}:{RSYNC}/node/", f"{self.node}/"]
        command = [self.agent, "--diff", "--yes", "--json", "--image", self.options.generation, "--root", self.node]
        excludes = ["--exclude-file", "/dev/null", "--max-delete", "100%"]
        return [*command, "--repo", f"http://{SERVER}:{HTTP}/", *excludes]


def chosen(tree, share):
    """Paths of the files of which a digest of the name is below SHARE percent."""
    listed = run("find", ".", "-xdev", "-type", "f", "-size", "+0", "-printf", "%P\\0", cwd=tree).split(b"\0")
    names = sorted(os.fsdecode(name) for name in listed if name)
    return [name for name in names if number_of(name) < share / 100]


def number_of(name):
    """A number from 0 to 1 that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4]) / (1 << 32)


def damage(path, number):
    """Overwrites a part of a file, cuts it off, or removes it."""
    size = os.path.getsize(path)
    if number % 3 == 0:
        with open(path, "r+b") as file:
            file.seek(size // 2)
            file.write(hashlib.sha256(os.fsencode(path)).digest()[: size - size // 2])
    elif number % 3 == 1:
        os.truncate(path, size // 2)
    else:
        os.remove(path)


def stored_sizes(published):
    """The size of the full archive with the index, and the compressed size of each content in it, by digest."""
    with open(f"{published}/head.toml", "rb") as file:
        head = tomllib.load(file)
    with open(f"{published}/catalogs/{head['catalog']}.toml", "rb") as file:
        catalog = tomllib.load(file)
    full = next(archive for archive in catalog["archive"] if archive["kind"] == "full")
    with open(f"{published}/{full['file']}", "rb") as file:
        table = file.read(full["first_frame"]["length"])[16:]
    frames = [int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table) // 36 * 36, 36)]

    lines = run("zstd", "-dcq", f"{published}/{catalog['content']['file']}").decode().splitlines()
    archives = [line.split()[1] for line in lines if line.startswith("archive ")]
    number = str(archives.index(full["file"]))
    records = [line.split() for line in lines if len(line.split()) == 5]
    places = {row[0]: tuple(map(int, (row[1], row[3], row[4]))) for row in records if row[2] == number}
    raw = [0] * (len(frames) + 1)
    for size, frame, _ in places.values():
        raw[frame] += 512 + (size + 511) // 512 * 512
    stored = {}
    for digest, (size, frame, offset) in places.items():
        count = max(1, (offset + size + FRAME - 1) // FRAME)
        whole = sum(frames[frame : frame + count])
        stored[digest] = whole * size / max(size, raw[frame] if count == 1 else size + offset)
    return full["size"] + catalog["content"]["size"], stored


def lost_bytes(site, stored):
    """Compressed bytes of the damaged contents, each counted once."""
    lost = {}
    for path in chosen(site.image, site.options.share):
        with open(os.path.join(site.image, path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lost[digest] = stored.get(digest, 0)
    return sum(lost.values())


def measure(results, options):
    """Measures each situation, way and link."""
    site = Site(options)
    try:
        say("publish")
        site.publish()
        archive, stored = stored_sizes(site.published)
        results["sizes"] = {"empty": archive, "damaged": lost_bytes(site, stored), "share": options.share}
        for link in options.links:
            measure_link(results, site, LINKS[link])
    finally:
        site.disk.close()
        if not options.keep:
            shutil.rmtree(site.work, ignore_errors=True)


def measure_link(results, site, link):
    site.disk.close()
    with contextlib.ExitStack() as entered:
        network = entered.enter_context(Network(link))
        entered.enter_context(web_server(network, site.server, site.work))
        entered.enter_context(rsync_daemon(network, site.image, site.work))
        for turn in range(site.options.turns):
            for situation in SITUATIONS:
                for way in WAYS if situation == "damaged" else ("ours", "rsync"):
                    measure_once(results, site, network, (situation, way, turn))
                    results.save()


def measure_once(results, site, network, key):
    situation, way, turn = key
    site.reset(situation)
    before = network.bytes()
    try:
        cost = timed(site.command(way), network.on_node(), site.disk.top, f"{site.work}/output")
    except Failed as why:
        results["failed"][f"{situation} {way} {network.link.name}"] = str(why)
        say(f"{situation} by {way} FAILED: {why}")
        return
    cost |= {"wire": network.bytes() - before, "situation": situation, "way": way, "link": network.link.name}
    if turn == 0:
        # of the attributes that `rsync -a` leaves out, nothing is a failure of it
        cost["differences"] = judge(site.image, site.node)
    results["runs"].append(cost)
    say(f"{situation} by {way} over {network.link.name}: {cost['wall']:.2f} s, {cost['wire'] / 1e6:.1f} MB")


def table_of(results):
    """The tables as Markdown."""
    lines = ["# Full syncs", "", "`wire` is all that the interface counted, also requests and the manifest.", ""]
    lines += ["| situation | way | link | seconds | of rsync | processor s | MB on the wire | of needed | differs |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    groups = {}
    for cost in results["runs"]:
        groups.setdefault((cost["link"], cost["situation"], cost["way"]), []).append(cost)
    for (link, situation, way), costs in groups.items():
        wall, wire = (statistics.median(cost[key] for cost in costs) for key in ("wall", "wire"))
        cpu = statistics.median(cost["user"] + cost["system"] for cost in costs)
        rsync = groups.get((link, situation, "rsync"), [])
        of_rsync = f"{wall / statistics.median(cost['wall'] for cost in rsync):.2f}" if rsync else "-"
        title = SITUATIONS[situation].format(share=results["sizes"]["share"])
        needed = results["sizes"][situation]
        row = [title, WAYS[way], link, f"{wall:.2f}", of_rsync, f"{cpu:.2f}", f"{wire / 1e6:.1f}"]
        row += [f"{wire / needed:.2f}", costs[0].get("differences") or "-"]
        lines.append("| " + " | ".join(row) + " |")
    archive, lost = (results["sizes"].get(name, 0) / 1e6 for name in SITUATIONS)
    lines += ["", f"Needed: full archive and index {archive:.1f} MB; damaged contents in it {lost:.1f} MB.", ""]
    lines += [f"Failed: {name}: {why}" for name, why in results["failed"].items()]
    return "\n".join(lines) + "\n"
