"""An installer for --autoinstall: a kernel with an initial ramdisk that reports and powers off."""

import gzip
import os
import re
import shutil

from .commands import run, write_file

STARTED = "the installer runs with:"
INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
echo "{STARTED} $(/bin/busybox cat /proc/cmdline)" >/dev/console
/bin/busybox poweroff -f
"""


def write_boot_files(workspace, images):
    """Writes the flavor `standard` as SystemImager's server has it; returns the directory."""
    top = workspace.path("boot")
    flavor = f"{top}/x86_64/standard"
    os.makedirs(flavor)
    shutil.copyfile(f"{images.first}/node/boot/vmlinuz-{images.kernels.first}", f"{flavor}/kernel")

    tree = workspace.path("installer")
    write_file(f"{tree}/init", INIT, 0o755)
    for name in ("bin", "dev"):
        os.makedirs(f"{tree}/{name}")
    busybox = shutil.which("busybox")
    shutil.copy(busybox, f"{tree}/bin/busybox")
    copy_libraries(busybox, tree)
    run("mknod", f"{tree}/dev/console", "c", "5", "1")

    names = run("find", ".", "-mindepth", "1", cwd=tree)
    archive = workspace.path("installer.cpio")
    run("cpio", "--quiet", "-o", "-H", "newc", "-F", archive, cwd=tree, input=names.encode())
    with open(archive, "rb") as plain, gzip.open(f"{flavor}/initrd.img", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    return top


def copy_libraries(program, tree):
    """Copies the libraries of a program; one that is linked statically has none."""
    for path in re.findall(r"(/\S+) \(0x", run("ldd", program, check=False)):
        os.makedirs(tree + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, tree + path)
