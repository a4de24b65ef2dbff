"""Directories of a run below target/machines, and the things that end with the run."""

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
import time

from .commands import remove_tree

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


class Workspace:
    """Directories of one run.

    `cache` is shared by all runs. `work` holds disks and belongs to this run, so two runs never
    use one file. `log` has a directory for each step and is kept.
    """

    def __init__(self, form, base=None):
        self.base = os.path.abspath(base or os.path.join(TOP, "target", "machines"))
        name = f"{form}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.cache = os.path.join(self.base, "cache")
        self.work = os.path.join(self.base, "work", name)
        self.log = os.path.join(self.base, "log", name)
        for directory in (self.cache, self.work, self.log):
            os.makedirs(directory, exist_ok=True)
        os.chmod(self.base, 0o700)

        # Names of sockets are limited to 107 bytes, and the checkout may be deep.
        self.sockets = tempfile.mkdtemp(prefix="si-machines-", dir="/tmp")
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Ends processes and mounts in reverse order, then removes disks."""
        self.stack.close()
        shutil.rmtree(self.sockets, ignore_errors=True)
        remove_tree(self.work)

    def path(self, *names):
        """Returns a path in the directory of this run."""
        return os.path.join(self.work, *names)

    def cached(self, name, key, make):
        """Returns the directory of an entry of the cache; `make` fills it if it does not exist.

        Entries of the same name with another key are removed, unless another run uses them.
        """
        entry = f"{name}-{key}"
        top = os.path.join(self.cache, entry)
        with open(os.path.join(self.cache, f"{name}.lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(top):
                self.remove_unused(name)
                make(top + ".part")
                os.rename(top + ".part", top)
            self.use(entry)
        return top

    def use(self, entry):
        """Keeps an entry from being removed until this run ends."""
        file = open(os.path.join(self.cache, f"{entry}.used"), "w", encoding="ascii")
        self.stack.enter_context(file)
        fcntl.flock(file, fcntl.LOCK_SH)

    def remove_unused(self, name):
        """Removes the entries of a name that no run uses."""
        for entry in os.listdir(self.cache):
            path = os.path.join(self.cache, entry)
            if not entry.startswith(f"{name}-") or not os.path.isdir(path):
                continue
            with open(f"{path}.used", "w", encoding="ascii") as file:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(path)
                    os.unlink(f"{path}.used")


def free_port():
    """Returns a port of the loopback interface that no process uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
