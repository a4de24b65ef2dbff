"""A node: its installation on a disk, and its own statements about its state."""

import contextlib
import os
import re

from . import grub
from .commands import Failed, read_file, run, write_file
from .disk import unmount
from .product import AGENT
from .ssh import make_key


def install(disk, server, workspace):
    """Installs a node offline: the agent's first run, then the steps of an installer."""
    top = workspace.path("mnt-" + os.path.basename(disk.path))
    os.makedirs(top)
    with disk.mounted(top) as device:
        first_run(top, server)
        personalize(top, disk, server, workspace)
        with running_chroot(top, device, disk):
            grub.make_bootable(disk, top)
            run("chroot", top, "update-grub")
        if "esp" in disk.extents:
            grub.move_to_esp(disk, f"{top}/boot/efi")
    os.rmdir(top)


def first_run(top, server):
    """Runs the agent on an empty root. The grub files are missing still, so it runs no tool."""
    run(AGENT, "--diff", "--yes", "--no-bootloader", "--root", top, *server.options())


def personalize(top, disk, server, workspace):
    """Writes the files that differ on each node."""
    lines = []
    for part in disk.layout.parts:
        for place, options in part.mounts():
            check = {"/": 1}.get(place, 2) if part.filesystem in ("ext4", "vfat") else 0
            lines.append(f"UUID={disk.identities[part.name]} {place} {part.filesystem} "
                         f"{options} 0 {check}\n")
            os.makedirs(top + place, exist_ok=True)
    write_file(f"{top}/etc/fstab", "".join(lines))
    write_file(f"{top}/etc/systemimager/updateclient.toml", server.settings())
    give_identity(top, "node7", workspace)


def give_identity(top, name, workspace):
    """Writes host name, keys and machine id, and admits the suite."""
    write_file(f"{top}/etc/hostname", name + "\n")
    write_file(f"{top}/root/.ssh/authorized_keys", read_file(make_key(workspace)), 0o600)
    os.chmod(f"{top}/root/.ssh", 0o700)
    run("chroot", top, "ssh-keygen", "-A")
    run("chroot", top, "systemd-machine-id-setup")


@contextlib.contextmanager
def running_chroot(top, device, disk):
    """Mounts /proc, /sys and a /dev with the node's disk below the root."""
    with contextlib.ExitStack() as stack:
        for kind, place in (("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "dev")):
            os.makedirs(f"{top}/{place}", exist_ok=True)
            run("mount", "-t", kind, kind, f"{top}/{place}")
            stack.callback(unmount, f"{top}/{place}")
        for name in ("null", "zero", "full", "random", "urandom", "tty"):
            copy_device(f"/dev/{name}", f"{top}/dev/{name}")

        # Under another name, since grub-mkconfig makes no entries for a root on a loop device. It
        # names a root by its UUID only if the link exists.
        copy_device(device, f"{top}/dev/node-root")
        os.symlink("node-root", top + device)
        os.makedirs(f"{top}/dev/disk/by-uuid")
        os.symlink("../../node-root", f"{top}/dev/disk/by-uuid/{disk.identities['root']}")
        yield


def copy_device(source, target):
    """Makes a device node like another one."""
    facts = os.stat(source)
    os.mknod(target, facts.st_mode, facts.st_rdev)


class Report:
    """Statements of a booted node about itself."""

    def __init__(self, machine):
        self.ssh = machine.ssh

    def kernel(self):
        """Returns the release of the running kernel."""
        return self.ssh.output("uname -r").strip()

    def serial(self):
        """Returns the serial of the recorded generation."""
        return serial_of(self.ssh.output("si_updateclient --status"))

    def failed_units(self):
        """Returns the failed units."""
        return self.ssh.output("systemctl --failed --no-legend --plain").split("\n")[:-1]

    def kernels(self):
        """Returns the releases in /boot and in /lib/modules."""
        boot = self.ssh.output("cd /boot && ls -d vmlinuz-*").split()
        modules = self.ssh.output("ls /lib/modules").split()
        return {"/boot": sorted(name.removeprefix("vmlinuz-") for name in boot),
                "/lib/modules": sorted(modules)}


def expect_running(machine, kernel, serial):
    """Fails unless the node runs this kernel and generation, and no unit has failed."""
    report = Report(machine)
    running, failed, recorded = report.kernel(), report.failed_units(), report.serial()
    if running != kernel:
        raise Failed(f"the node runs {running}, not {kernel}")
    if failed:
        raise Failed("failed units: " + ", ".join(failed))
    if recorded != serial:
        raise Failed(f"the node reports serial {recorded}, not {serial}")


def serial_of(status):
    """Returns the serial in the output of si_updateclient --status, or nothing."""
    found = re.search(r"^serial: +(\d+)", status, re.M)
    return int(found.group(1)) if found else None
