"""Makes a disk image bootable by grub, for BIOS and for UEFI.

grub-install needs partitions that the kernel of the host knows, and a mount of the ESP. Neither
exists here: disks are files, and the host may have no vfat. So the core image is made by
grub-mkimage of the image itself, and written to its place as grub-bios-setup would do it.
"""

import os
import shutil
import struct

from .commands import Failed, run, write_file
from .disk import SECTOR

MODULES = ("part_gpt", "ext2", "xfs", "btrfs", "fat", "search_fs_uuid", "normal", "configfile",
           "linux", "echo", "test", "serial", "terminal", "loadenv")  # fmt: skip

# Places in grub's boot sector and in the first sector of its core.
KERNEL_SECTOR, BOOT_DRIVE_CHECK = 0x5C, 0x66
BLOCK_LIST = 0x1F4
LOAD_SEGMENT = 0x820


def make_bootable(disk, root):
    """Installs grub for both kinds of firmware; `root` is the mounted node with grub's tools."""
    part = disk.layout.parts[0]
    top = "".join(f"/{name}" for place, name in part.subvolumes if place == "/")
    early = (f"search.fs_uuid {disk.identities[part.name]} root\n"
             f"set prefix=($root){top}/boot/grub\n")
    for platform in ("i386-pc", "x86_64-efi"):
        copy_modules(root, platform)
    write_file(f"{root}/tmp/early.cfg", early)
    for platform, modules in (("i386-pc", ("biosdisk",)), ("x86_64-efi", ("efi_gop", "all_video"))):
        run("chroot", root, "grub-mkimage", "-O", platform, "-o", f"/tmp/{platform}.img",
            "-c", "/tmp/early.cfg", "-p", "/boot/grub", *MODULES, *modules)

    write_core(disk, f"{root}/usr/lib/grub/i386-pc/boot.img", f"{root}/tmp/i386-pc.img")
    if "esp" in disk.extents:
        copy_to_esp(disk, f"{root}/tmp/x86_64-efi.img", "EFI/BOOT/BOOTX64.EFI")
    for name in ("early.cfg", "i386-pc.img", "x86_64-efi.img"):
        os.unlink(f"{root}/tmp/{name}")


def copy_modules(root, platform):
    """Copies the modules to /boot/grub of the node, as grub-install does."""
    target = f"{root}/boot/grub/{platform}"
    os.makedirs(target, exist_ok=True)
    source = f"{root}/usr/lib/grub/{platform}"
    for name in os.listdir(source):
        if name.endswith((".mod", ".lst")):
            shutil.copyfile(f"{source}/{name}", f"{target}/{name}")


def write_core(disk, boot_path, core_path):
    """Writes boot sector and core image; the core occupies the partition `bios`."""
    with open(boot_path, "rb") as file:
        boot = bytearray(file.read(SECTOR))
    with open(core_path, "rb") as file:
        core = bytearray(file.read())
    begin, size = disk.extents["bios"]
    if len(core) > size:
        raise Failed(f"grub's core has {len(core)} bytes, its partition {size}")
    core += bytes(-len(core) % SECTOR)

    # The boot sector loads the first sector of the core, which loads the others.
    first = begin // SECTOR
    struct.pack_into("<Q", boot, KERNEL_SECTOR, first)
    struct.pack_into("<2s", boot, BOOT_DRIVE_CHECK, b"\x90\x90")
    struct.pack_into("<QHH", core, BLOCK_LIST, first + 1, len(core) // SECTOR - 1, LOAD_SEGMENT)
    with open(disk.path, "r+b") as file:
        # The end of the sector is the partition table of the protective MBR.
        file.write(boot[:440])
        file.seek(begin)
        file.write(core)


def copy_to_esp(disk, source, name):
    """Copies a file into the ESP, with the directories above it."""
    parts = name.split("/")
    for depth in range(1, len(parts)):
        disk.esp("mmd", "-D", "s", "::/" + "/".join(parts[:depth]), check=False)
    disk.esp("mcopy", "-o", source, f"::/{name}")


def move_to_esp(disk, directory):
    """Moves files from the mount point of the ESP into the ESP, which this machine cannot mount."""
    for top, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(top, name)
            copy_to_esp(disk, path, os.path.relpath(path, directory))
    for name in os.listdir(directory):
        shutil.rmtree(os.path.join(directory, name))
