#!/usr/bin/env python3
"""timed.py RESULT SYNC COMMAND...: runs COMMAND, then syncs the filesystem of SYNC, and writes the cost of both.

RESULT gets one JSON object: status, wall (seconds with the sync), sync (seconds of the sync alone), user
and system (CPU seconds of COMMAND and its children), memory (the largest resident size of one process, in
bytes). SYNC may be "-": no sync. This is a small process of its own, since the kernel counts the memory of the
parent at fork as the child's: no result is below this script's own 9 MB.
"""

import os
import sys
import time


def main(result, sync, *command):
    begun = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    ended = time.monotonic()
    if sync != "-":
        syncer = os.posix_spawnp("sync", ["sync", "-f", sync], os.environ)
        os.waitpid(syncer, 0)
    synced = time.monotonic()
    numbers = {
        "status": os.waitstatus_to_exitcode(status),
        "wall": synced - begun,
        "sync": synced - ended,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
    }
    with open(result, "w", encoding="ascii") as file:
        file.write("{" + ", ".join(f'"{name}": {value}' for name, value in numbers.items()) + "}\n")


main(*sys.argv[1:])
