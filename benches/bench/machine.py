"""The environment of a run: machine, versions, date."""

import os
import platform
import re
import shutil
import subprocess
import time

ASKED = {
    "rsync": "--version", "tar": "--version", "gzip": "--version", "zstd": "--version", "curl": "--version",
    "nginx": "-v", "ostree": "--version", "casync": "--version", "xdelta3": "-V", "ip": "-V", "python3": "--version",
}  # fmt: skip


def machine(directory):
    """Facts about this machine, and of the filesystem of DIRECTORY."""
    cores, models = os.cpu_count(), re.findall(r"^model name\s*: (.*)", read("/proc/cpuinfo"), re.M)
    memory = int(re.search(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"), re.M).group(1)) * 1024
    filesystem = subprocess.run(["stat", "-fc", "%T", directory], capture_output=True, text=True, check=False)
    return {
        "processor": f"{models[0] if models else platform.machine()}, {cores} cores",
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "filesystem": filesystem.stdout.strip().replace("ext2/ext3", "ext4"),
        "system": re.search(r'^PRETTY_NAME="?([^"\n]*)', read("/etc/os-release"), re.M).group(1),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load": f"{os.getloadavg()[0]:.1f} at the start",
    }


def versions(programs):
    """{program: version} of the installed programs. PROGRAMS is the directory of ours."""
    found = {}
    for tool, question in {f"{programs}/si_tardiff": "--version", **ASKED}.items():
        if shutil.which(tool):
            output = subprocess.run([tool, question], capture_output=True, text=True, check=False)
            words = output.stdout + output.stderr
            number = re.search(r"\d+(\.\d+)+", words) or re.search(r"\b\d+\b", words)
            found[os.path.basename(tool)] = number.group(0) if number else "?"
    if shutil.which("bsdiff") and shutil.which("dpkg-query"):
        output = subprocess.run(
            ["dpkg-query", "-Wf", "${Version}", "bsdiff"], capture_output=True, text=True, check=False
        )
        found["bsdiff"] = output.stdout.strip() or "?"
    return found


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
