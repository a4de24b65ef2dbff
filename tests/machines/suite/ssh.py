"""Commands on a node through ssh, all over one connection for each boot."""

import os
import shlex
import socket
import subprocess

from .commands import LOG, Failed, last_lines, outcome, run, wait_until

COMMAND_SECONDS = 1800
LOGIN_SECONDS = 120


def make_key(workspace):
    """Makes the key of this run and returns the path of its public part."""
    path = workspace.path("key")
    if not os.path.exists(path):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "suite", "-f", path)
    return path + ".pub"


class Ssh:
    """The ssh server of one boot, behind a port of the loopback interface."""

    def __init__(self, workspace, port):
        self.port = port
        self.control = os.path.join(workspace.sockets, str(port))
        self.master = None
        self.options = [
            "-F", "none", "-q", "-i", workspace.path("key"), "-p", str(port),
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "ServerAliveInterval=20",
            "-o", "ServerAliveCountMax=9", "-o", f"ControlPath={self.control}", "root@127.0.0.1",
        ]  # fmt: skip

    def answers(self):
        """Opens the connection if sshd of the guest answers; QEMU itself accepts any connection."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                if not connection.recv(4).startswith(b"SSH"):
                    return False
        except OSError:
            return False

        # The key exchange takes seconds in an emulator, so all commands share one connection.
        self.close()
        self.master = subprocess.Popen(["ssh", "-M", "-N", *self.options],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)
        wait_until(lambda: os.path.exists(self.control) or self.master.poll() is not None,
                   LOGIN_SECONDS)
        return os.path.exists(self.control)

    def outcome(self, script, limit=COMMAND_SECONDS):
        """Runs a shell script on the node and returns exit code and output."""
        return outcome("ssh", *self.options, script, limit=limit)

    def output(self, script, check=True, limit=COMMAND_SECONDS):
        """Runs a shell script on the node and returns its output."""
        status, text = self.outcome(script, limit)
        if check and status != 0:
            raise Failed(f"on the node, {script!r} ended with {status}:\n{last_lines(text)}")
        return text

    def start(self, script, log):
        """Starts a shell script and does not wait; its output is appended to a file."""
        LOG.write(f"$ ssh {shlex.quote(script)} >>{log} &")
        with open(log, "ab") as file:
            return subprocess.Popen(["ssh", *self.options, script], stdin=subprocess.DEVNULL,
                                    stdout=file, stderr=file, start_new_session=True)

    def close(self):
        """Ends the connection that the commands share."""
        if self.master is not None:
            self.master.terminate()
            self.master.wait()
            self.master = None
