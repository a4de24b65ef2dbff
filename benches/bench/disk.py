"""The node's disk: a filesystem of its own, made before each update."""

import os
import subprocess
import time

from .measure import Failed, run

SIZE = 10 << 30
INODES = 400_000
PATIENCE = 20


class Disk:
    """ext4 in a file, mounted at `top` until it is closed.

    Resetting the tree would distort the next update: for minutes ext4 does not reuse inodes that were just
    freed and searches for others, which takes longer than writing the files. No real node starts its update
    in that state.
    """

    def __init__(self, work):
        self.file, self.top = f"{work}/disk.ext4", f"{work}/disk"
        os.makedirs(self.top, exist_ok=True)
        self.close()

    def format(self):
        """Makes and mounts an empty filesystem without deferred initialisation."""
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
        """Waits until no namespace holds the old filesystem, which a mount would find in use."""
        begin = time.monotonic()
        while run("losetup", "--associated", self.file):
            if time.monotonic() - begin > PATIENCE:
                raise Failed(f"{self.file} is still in use")
            time.sleep(0.1)

    def close(self):
        """Unmounts it, also one that an earlier run left."""
        if os.path.ismount(self.top):
            subprocess.run(["umount", "-l", self.top], check=False)
