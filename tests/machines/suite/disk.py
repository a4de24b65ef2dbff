"""A disk image with a partition table, and its filesystems mounted on this machine."""

import contextlib
import json
import os
import uuid
from typing import NamedTuple

from .commands import Failed, outcome, run

SECTOR = 512
MIB = 1 << 20
LABELS = {
    "bios": "21686148-6449-6E6F-744E-656564454649",
    "esp": "U",
}  # fmt: skip


class Part(NamedTuple):
    """One partition: name, size, filesystem and mount point below the root of the node.

    A btrfs may have several mount points: `subvolumes` has their places and names.
    """

    name: str
    mib: int
    filesystem: str = "ext4"
    place: str = "/"
    subvolumes: tuple = ()

    def mounts(self):
        """Returns mount points and options, for fstab and for mount(8)."""
        if self.subvolumes:
            return [(place, f"subvol={name}") for place, name in self.subvolumes]
        return [(self.place, "umask=0077" if self.filesystem == "vfat" else "defaults")]


class Layout(NamedTuple):
    """Partitions of a node's disk, without the one of grub's BIOS core."""

    name: str
    parts: tuple

    def has_esp(self):
        """Checks if the node has a filesystem of the firmware."""
        return any(part.filesystem == "vfat" for part in self.parts)


ONE_FILESYSTEM = Layout("one", (Part("root", 2048),))
VAR_APART = Layout("var-apart", (Part("root", 1792), Part("var", 1024, "xfs", "/var")))
FIRMWARE = Layout("firmware", (*VAR_APART.parts, Part("esp", 64, "vfat", "/boot/efi")))
XFS = Layout("xfs", (Part("root", 2048, "xfs"),))
BTRFS = Layout("btrfs", (
    Part("root", 2048, "btrfs", subvolumes=(("/", "@"), ("/var", "@var"))),
))  # fmt: skip


class Disk:
    """A sparse file with a partition table."""

    def __init__(self, path, layout):
        self.path, self.layout = path, layout
        self.extents = {}
        self.identities = {}

    def create(self):
        """Writes the partition table and the filesystems."""
        self.partition()
        for part in self.layout.parts:
            self.make_filesystem(part)
        return self

    def partition(self):
        """Writes the partition table; the partitions are in the order of the layout, from 2 on."""
        size = sum(part.mib for part in self.layout.parts) + 4
        with open(self.path, "wb") as file:
            file.truncate(size * MIB)
        lines = ["label: gpt", f"size=1M, type={LABELS['bios']}, name=bios"]
        for part in self.layout.parts:
            kind = LABELS.get(part.name, "L")
            lines.append(f"size={part.mib}M, type={kind}, name={part.name}")
        run("sfdisk", "-q", self.path, input="\n".join(lines).encode())

        # Begin and size of each partition, in bytes.
        table = json.loads(run("sfdisk", "--json", self.path))["partitiontable"]
        self.extents = {entry["name"]: (entry["start"] * SECTOR, entry["size"] * SECTOR)
                        for entry in table["partitions"]}

    def make_filesystem(self, part):
        """Makes the filesystem of a partition, with an identity that is chosen here."""
        identity = str(uuid.uuid4())
        begin, size = self.extents[part.name]
        if part.filesystem == "vfat":
            identity = identity[:8].upper()
            self.write_fat(begin, size, identity)
            identity = f"{identity[:4]}-{identity[4:]}"
        else:
            with self.loop(part.name) as device:
                run(*maker(part.filesystem, identity), device)
                if part.subvolumes:
                    make_subvolumes(device, part.subvolumes, self.path + ".mnt")
        self.identities[part.name] = identity

    def write_fat(self, begin, size, identity):
        """Makes a vfat in a file of its own, and copies it into the partition.

        With an offset, mkfs.vfat derives the size of clusters from the size of the whole disk.
        """
        path = self.path + ".vfat"
        with open(path, "wb") as file:
            file.truncate(size)
        run("mkfs.vfat", "-F", "32", "-i", identity, "-n", "ESP", path)
        with open(path, "rb") as source, open(self.path, "r+b") as target:
            for position in range(0, size, MIB):
                chunk = source.read(MIB)
                if chunk.strip(b"\0"):
                    target.seek(begin + position)
                    target.write(chunk)
        os.unlink(path)

    @contextlib.contextmanager
    def loop(self, name):
        """A loop device of one partition, by its offset."""
        begin, size = self.extents[name]
        device = run("losetup", "--find", "--show", "--offset", begin, "--sizelimit", size,
                     self.path).strip()
        try:
            yield device
        finally:
            outcome("losetup", "--detach", device)

    @contextlib.contextmanager
    def mounted(self, top):
        """Mounts all filesystems except vfat, which the kernel of this machine may not have.

        Yields the device of the root.
        """
        with contextlib.ExitStack() as stack:
            devices, places = {}, []
            for part in self.layout.parts:
                if part.filesystem != "vfat":
                    devices[part.name] = stack.enter_context(self.loop(part.name))
                    places += [(place, options, part) for place, options in part.mounts()]
            for place, options, part in sorted(places):
                directory = top + place.rstrip("/")
                os.makedirs(directory, exist_ok=True)
                run("mount", "-t", part.filesystem, "-o", options, devices[part.name], directory)
                stack.callback(unmount, directory)
            yield devices["root"]

    def esp(self, program, *arguments, check=True):
        """Runs one of the mtools on the ESP, which need no mount, and returns its output."""
        address = f"{self.path}@@{self.extents['esp'][0]}"
        return run(program, "-i", address, *arguments, check=check,
                   env={**os.environ, "MTOOLS_SKIP_CHECK": "1"})

    def copy_to(self, path):
        """Copies the disk with its holes."""
        run("cp", "--sparse=always", "--reflink=auto", self.path, path)
        copy = Disk(path, self.layout)
        copy.extents, copy.identities = self.extents, self.identities
        return copy


def maker(filesystem, identity):
    """Returns the command that makes a filesystem; the device follows."""
    if filesystem == "ext4":
        # Without the features of newer tools that grub 2.06 cannot read.
        return ("mkfs.ext4", "-q", "-F", "-U", identity, "-O", "^metadata_csum_seed,^orphan_file")
    if filesystem == "xfs":
        return ("mkfs.xfs", "-q", "-f", "-m", f"uuid={identity}")
    if filesystem == "btrfs":
        return ("mkfs.btrfs", "-q", "-f", "-U", identity)
    raise Failed(f"no filesystem is called {filesystem}")


def make_subvolumes(device, subvolumes, top):
    """Makes subvolumes in the top of a new btrfs."""
    os.makedirs(top)
    run("mount", "-t", "btrfs", device, top)
    for _, name in subvolumes:
        run("btrfs", "subvolume", "create", f"{top}/{name}")
    unmount(top)
    os.rmdir(top)


def unmount(directory):
    """Unmounts a directory; a process of this machine may keep it busy for a moment."""
    status, _ = outcome("umount", directory)
    if status != 0:
        run("umount", "-l", directory)
