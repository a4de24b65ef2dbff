"""Servers in the server's namespace, and their costs."""

import os
import signal
import subprocess
import threading
import time

from .measure import Failed
from .network import SERVER

TICK = os.sysconf("SC_CLK_TCK")
HTTP, RSYNC = 8750, 8730


class Daemon:
    """A server that runs inside a `with` block. Its children are counted with it."""

    def __init__(self, network, port, command, log):
        self.network, self.port, self.log = network, port, log
        self.command = [*network.on_server(), *map(str, command)]

    def __enter__(self):
        with open(self.log, "ab") as output:
            files = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            self.process = subprocess.Popen(self.command, start_new_session=True, **files)
        try:
            self.wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def wait_until_it_answers(self):
        probe = [*self.network.on_node(), "bash", "-c", f"exec 3<>/dev/tcp/{SERVER}/{self.port}"]
        for _ in range(100):
            if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise Failed(f"the server at port {self.port} did not start, see {self.log}")

    def seconds(self):
        """CPU seconds so far, read when they no longer grow."""
        before = -1.0
        for _ in range(100):
            now = sum(spent(pid) for pid in family(self.process.pid))
            if abs(now - before) < 1e-6:
                break
            before = now
            time.sleep(0.05)
        return before


def family(pid):
    """PID and its living descendants."""
    found = [pid]
    for member in found:
        try:
            with open(f"/proc/{member}/task/{member}/children", encoding="ascii") as children:
                found.extend(int(child) for child in children.read().split())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def spent(pid):
    """CPU seconds of one process: its own to the nanosecond, those of children that have ended in ticks."""
    try:
        own = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as schedstat:
                own += int(schedstat.read().split()[0])
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return own / 1e9 + sum(int(field) for field in fields[13:15]) / TICK
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


class Peak:
    """Samples a daemon's processes fifty times a second in a `with` block; `bytes` is the largest peak."""

    def __init__(self, daemon):
        self.daemon, self.bytes = daemon, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def watch(self):
        while not self.over.wait(0.02):
            for pid in family(self.daemon.process.pid)[1:]:
                self.bytes = max(self.bytes, peak_of(pid))


def peak_of(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            sizes = (line.split()[1] for line in status if line.startswith("VmHWM:"))
            return int(next(sizes, 0)) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0


def web_server(network, directory, work):
    """nginx with one worker, for the files below DIRECTORY."""
    config = f"{work}/nginx.conf"
    with open(config, "w", encoding="utf-8") as file:
        file.write(
            f"user root;\ndaemon off;\nworker_processes 1;\npid {work}/nginx.pid;\nerror_log {work}/nginx.log;\n"
            "events { worker_connections 64; }\n"
            "http {\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000;\n"
            f"  client_body_temp_path {work}/nginx.body;\n  proxy_temp_path {work}/nginx.proxy;\n"
            f"  fastcgi_temp_path {work}/nginx.fastcgi;\n  uwsgi_temp_path {work}/nginx.uwsgi;\n"
            f"  scgi_temp_path {work}/nginx.scgi;\n"
            f"  server {{ listen {SERVER}:{HTTP}; root {directory}; }}\n}}\n"
        )
    return Daemon(network, HTTP, ["nginx", "-e", f"{work}/nginx.log", "-c", config], f"{work}/nginx.log")


def rsync_daemon(network, image, work):
    """The image server's rsync daemon as SystemImager set it up, with IMAGE as its module `node`."""
    config = f"{work}/rsyncd.conf"
    with open(config, "w", encoding="utf-8") as file:
        file.write(
            f"use chroot = no\nuid = root\ngid = root\nnumeric ids = yes\nread only = yes\n[node]\npath = {image}\n"
        )
    command = ["rsync", "--daemon", "--no-detach", f"--port={RSYNC}", f"--config={config}"]
    return Daemon(network, RSYNC, command, f"{work}/rsyncd.log")
