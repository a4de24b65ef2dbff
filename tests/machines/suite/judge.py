"""The verdict of rsync about a node's disk, mounted while no machine uses it."""

import os

from .commands import Failed, last_lines, outcome
from .workspace import TOP

JUDGE = os.path.join(TOP, "scripts", "judge")
EXCLUDES = os.path.join(TOP, "etc", "updateclient.local.exclude")

# Paths that belong to the node, beyond the default excludes: those that the suite or an installer
# writes, and those that services of a running system create.
OWN = (
    "/boot/grub/", "/root/.ssh/", "/etc/systemimager/updateclient.toml", "/var/lib/private/",
    "/var/lib/systemd/", "/home/", "lost+found/",
)  # fmt: skip
# Directories whose times change with them.
TOUCHED = ("./", "boot/", "boot/efi/", "etc/", "etc/ssh/", "etc/systemimager/", "root/", "tmp/",
           "var/", "var/cache/", "var/lib/", "var/log/", "var/spool/", "var/tmp/")  # fmt: skip


def differences(image, node, layout, kept=()):
    """Returns the differences of a mounted node from an image, in rsync's itemised form."""
    # mtools compare the ESP, since this machine may be unable to mount it.
    esp = ("/boot/efi/*",) if layout.has_esp() else ()
    rules = [f"--exclude={path}" for path in (*OWN, *esp, *kept)]
    status, output = outcome(JUDGE, image, node, *rules, f"--exclude-from={EXCLUDES}")
    if status not in (0, 1):
        raise Failed(f"the judge failed:\n{last_lines(output)}")
    touched = {f".d..t...... {directory}" for directory in TOUCHED}
    return [line for line in output.splitlines() if line and line not in touched]


def expect_same(image, node, layout, kept=()):
    """Fails unless the mounted node equals the image, except for paths of the node's own."""
    found = differences(image, node, layout, kept)
    if found:
        raise Failed(f"the node differs from {image} in {len(found)} paths:\n"
                     + "\n".join(f"    {line}" for line in found[:25]))


def expect_generation(images, node, layout, serial):
    """Fails unless the mounted node equals the generation that it reports itself.

    The second generation may still have the kernel that ran during the update.
    """
    if serial not in (1, 2):
        raise Failed(f"the node reports serial {serial}")
    old = images.kernels.first
    kept = (f"/boot/*-{old}", f"/usr/lib/modules/{old}") if serial == 2 else ()
    image = (images.first, images.second)[serial - 1]
    expect_same(f"{image}/node", node, layout, kept)
