#!/usr/bin/env python3
"""relay.py SECONDS ONE OTHER: two network interfaces; each packet sent by one arrives at the other SECONDS later.

For kernels without netem. The interfaces are TAP devices, made here; the caller moves them into their
namespaces. Packets keep their order and their size: the kernel does the segmentation, so a full gigabit is a
few thousand packets a second. The rate is limited elsewhere, by the kernel's token bucket. Prints "ready" when
both exist, and runs until it is terminated.
"""

import collections
import contextlib
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CHECKSUMS_AND_TSO = 0x01 | 0x02 | 0x04
LARGEST = 65536 + 64


def tap(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, CHECKSUMS_AND_TSO)
    return descriptor


def take(descriptor, into, due):
    """Reads the pending packets of one end; each is due at the other end at DUE."""
    for _ in range(64):
        try:
            into.append((due, os.read(descriptor, LARGEST)))
        except BlockingIOError:
            return


def give(descriptor, waiting, now):
    """Delivers the due packets; one for an interface that is down or full is lost, as on any wire."""
    while waiting and waiting[0][0] <= now:
        _, packet = waiting.popleft()
        with contextlib.suppress(OSError):
            os.write(descriptor, packet)


def main(delay, one, other):
    ends = [tap(one), tap(other)]
    # packets in flight to each end
    ways = {ends[0]: collections.deque(), ends[1]: collections.deque()}
    far = {ends[0]: ends[1], ends[1]: ends[0]}
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        for end, waiting in ways.items():
            give(end, waiting, now)
        next_due = min((waiting[0][0] for waiting in ways.values() if waiting), default=None)
        timeout = None if next_due is None else max(0.0, next_due - time.monotonic())
        readable, _, _ = select.select(ends, [], [], timeout)
        due = time.monotonic() + delay
        for end in readable:
            take(end, ways[far[end]], due)


main(float(sys.argv[1]), *sys.argv[2:])
