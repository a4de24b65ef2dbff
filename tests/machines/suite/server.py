"""The image server: a repository over HTTP and the image by rsync, on the loopback interface."""

import os
import socket
import subprocess
import time

from .commands import LOG, Failed, run, write_file
from .product import PUBLISHER
from .workspace import free_port

IMAGE = "node"
# The host's loopback interface as QEMU's guests see it.
GUEST_ADDRESS = "10.0.2.2"
START_SECONDS = 30


class Server:
    """Repository and daemons of one run. `serve` of the product delivers the repository."""

    def __init__(self, workspace, name="node"):
        self.workspace, self.name = workspace, name
        self.repository = workspace.path(f"repository-{name}")
        self.daemons, self.modules = {}, {}
        self.http_port, self.rsync_port = free_port(), free_port()
        os.makedirs(self.repository)
        workspace.stack.callback(self.stop)

    def publish(self, images_directory):
        """Publishes the image of a directory, then serves it by rsync as well."""
        text = run(PUBLISHER, "publish", "--image", IMAGE, "--images-dir", images_directory,
                   "--repo", self.repository)
        self.add_module(IMAGE, os.path.join(images_directory, IMAGE))
        if "http" not in self.daemons:
            self.start("http", self.http_port, PUBLISHER, "serve", "--repo", self.repository,
                       "--listen", f"127.0.0.1:{self.http_port}")
        return next(line for line in text.splitlines() if line.startswith("published"))

    def add_module(self, name, directory):
        """Serves a directory by rsync, in place of an earlier one of this name."""
        self.stop("rsync")
        self.modules[name] = directory
        config = self.workspace.path(f"rsyncd-{self.name}.conf")
        modules = "".join(f"[{name}]\npath = {path}\n" for name, path in self.modules.items())
        write_file(config, "use chroot = no\nuid = root\ngid = root\nnumeric ids = yes\n"
                           "read only = yes\n" + modules)
        self.start("rsync", self.rsync_port, "rsync", "--daemon", "--no-detach",
                   "--address=127.0.0.1", f"--port={self.rsync_port}", f"--config={config}")

    def start(self, name, port, *command):
        """Starts a daemon and waits until it accepts connections."""
        LOG.write("$ " + " ".join(map(str, command)) + " &")
        log = os.path.join(self.workspace.log, f"{name}-{self.name}.log")
        with open(log, "ab") as output:
            process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=output, start_new_session=True)
        self.daemons[name] = process
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise Failed(f"the {name} server did not start; see {log}")

    def stop(self, name=None):
        """Ends one daemon, or all."""
        for name in [name] if name else list(self.daemons):
            process = self.daemons.pop(name, None)
            if process is not None:
                process.terminate()
                process.wait()

    def settings(self, address=GUEST_ADDRESS):
        """Returns the agent's configuration file for a node.

        grub's tool may take minutes in an emulator on a busy host, and is killed by default.
        """
        return (f'server = "{address}"\nimage = "{IMAGE}"\nprogram_timeout = 3600\n'
                f'repo = "http://{address}:{self.http_port}/"\nrsync_port = {self.rsync_port}\n')

    def options(self, address="127.0.0.1"):
        """Returns the same as arguments."""
        return ["--server", address, "--image", IMAGE, "--rsync-port", str(self.rsync_port),
                "--repo", f"http://{address}:{self.http_port}/"]
