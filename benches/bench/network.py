"""Two network namespaces, a server's and a node's, and the wire between them."""

import json
import os
import subprocess
import sys
import typing

from .measure import Failed, run

SERVER, NODE = "10.213.0.1", "10.213.0.2"
RELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.py")


class Link(typing.NamedTuple):
    """A kind of wire."""

    name: str
    title: str
    rate: str = ""
    delay: float = 0.0


DIRECT = Link("direct", "veth pair, as fast as the kernel")
GIGABIT = Link("gigabit", "1 Gbit/s, 1 ms of delay in each direction", "1gbit", 0.001)
MEGABIT_100 = Link("100mbit", "100 Mbit/s, 1 ms of delay in each direction", "100mbit", 0.001)
LINKS = {link.name: link for link in (DIRECT, GIGABIT, MEGABIT_100)}


class Network:
    """Both namespaces, inside a `with` block. `made_of` names the devices of the link."""

    def __init__(self, link):
        self.link, self.made_of = link, "veth"
        self.server, self.node = f"si{os.getpid()}s", f"si{os.getpid()}n"
        self.relay = None

    def __enter__(self):
        try:
            for space in (self.server, self.node):
                run("ip", "netns", "add", space)
                run("ip", "-n", space, "link", "set", "lo", "up")
            self.connect_directly()
            if self.link.delay and not self.slow_down(
                "netem", "delay", f"{self.link.delay * 1000:g}ms", "rate", self.link.rate
            ):
                run("ip", "-n", self.server, "link", "del", "wire")
                self.connect_by_relay()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.relay:
            self.relay.terminate()
            self.relay.wait()
        for space in (self.server, self.node):
            subprocess.run(["ip", "netns", "del", space], check=False, stderr=subprocess.DEVNULL)

    def connect_directly(self):
        run("ip", "-n", self.node, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", self.server)
        self.address()

    def connect_by_relay(self):
        """Without netem: the kernel's token bucket for the rate, a relay of TAP devices for the delay."""
        names = {self.server: f"{self.server}w", self.node: f"{self.node}w"}
        command = [sys.executable, "-I", "-S", RELAY, str(self.link.delay), *names.values()]
        self.relay = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        if self.relay.stdout.readline() != b"ready\n":
            raise Failed("this kernel has neither netem nor TAP devices: no delay can be made")
        for space, name in names.items():
            run("ip", "link", "set", name, "netns", space)
            run("ip", "-n", space, "link", "set", name, "name", "wire")
        self.address()
        if not self.slow_down("tbf", "rate", self.link.rate, "burst", "256kb", "latency", "50ms"):
            raise Failed("this kernel has neither netem nor tbf: no rate can be set")

    def address(self):
        for space, address in ((self.server, SERVER), (self.node, NODE)):
            run("ip", "-n", space, "addr", "add", address + "/24", "dev", "wire")
            run("ip", "-n", space, "link", "set", "wire", "up")

    def slow_down(self, kind, *how):
        """Adds this kind of queue at both ends; false if the kernel lacks it."""
        for space in (self.server, self.node):
            command = ["tc", "-n", space, "qdisc", "replace", "dev", "wire", "root", kind, *how]
            if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0:
                return False
        self.made_of = (
            "veth and netem" if kind == "netem" else "TAP devices, tbf for the rate, a relay process for the delay"
        )
        return True

    def on_server(self):
        """The prefix of a command in the server's namespace. It execs the command, which keeps the pid."""
        return ["ip", "netns", "exec", self.server]

    def on_node(self):
        return ["ip", "netns", "exec", self.node]

    def bytes(self):
        """Bytes received and sent by the node's interface so far."""
        listed = run("ip", "-n", self.node, "-s", "-j", "link", "show", "dev", "wire")
        counters = json.loads(listed)[0]["stats64"]
        return counters["rx"]["bytes"] + counters["tx"]["bytes"]

    def round_trip(self):
        """The smallest of some round trips, in seconds, as TCP sees it: the time of a handshake that is refused."""
        probe = (
            "import socket, time\n"
            "best = 9.0\n"
            "for _ in range(20):\n"
            "    begun = time.monotonic()\n"
            f"    socket.socket().connect_ex(('{SERVER}', 9))\n"
            "    best = min(best, time.monotonic() - begun)\n"
            "print(best)\n"
        )
        return float(run(*self.on_node(), sys.executable, "-I", "-S", "-c", probe))
