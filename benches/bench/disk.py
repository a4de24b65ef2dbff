"""The node's disk: a filesystem of its own, made anew before each update."""

import os
import subprocess
import time

from .measure import Failed, run

SIZE = 10 << 30
INODES = 400_000
PATIENCE = 20


class Disk:
    """ext4 in a file, mounted at `top` until it is closed.

    A tree that was only reset holds the traces of the update before: for minutes ext4 does not give out inodes
    again that were just freed, and looks for others, which takes a tool that makes many files longer than the
    files themselves. No node has that behind it when its update begins.
    """

    def __init__(self, work):
        self.file, self.top = f"{work}/disk.ext4", f"{work}/disk"
        os.makedirs(self.top, exist_ok=True)
        self.close()

    def make_anew(self):
        """An empty filesystem, with nothing that is still to be done to it in the background."""
        if os.path.ismount(self.top):
            run("umount", self.top)
        if not os.path.exists(self.file):
            with open(self.file, "wb") as file:
                file.truncate(SIZE)
        self.wait_until_free()
        options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-N", INODES, "-E", options, self.file)
        run("mount", "-o", "loop,noatime", self.file, self.top)

    def wait_until_free(self):
        """While another namespace still has the filesystem, it would come back as it was."""
        begin = time.monotonic()
        while run("losetup", "--associated", self.file):
            if time.monotonic() - begin > PATIENCE:
                raise Failed(f"{self.file} is still in use")
            time.sleep(0.1)

    def close(self):
        """Takes it away, also where an earlier run left it."""
        if os.path.ismount(self.top):
            subprocess.run(["umount", "-l", self.top], check=False)
