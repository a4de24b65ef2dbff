"""A rescue system: the first generation on a disk of its own, booted without a boot loader."""

import os
import shutil

from . import node
from .commands import run
from .disk import ONE_FILESYSTEM, unmount
from .images import KERNEL_OPTIONS
from .machine import Machine
from .server import GUEST_ADDRESS

SIZE = "1500M"
TOP = "/mnt/node"

# The node's disk is the second one of the machine; its partitions are those of VAR_APART.
MOUNT = f"""set -ex
mkdir -p {TOP}; mount /dev/vdb2 {TOP}
mkdir -p {TOP}/var; mount /dev/vdb3 {TOP}/var
mkdir -p {TOP}/boot/efi; mount /dev/vdb4 {TOP}/boot/efi
"""
UNMOUNT = f"umount -R {TOP}; sync"
CHROOT = f"""set -ex
for name in dev proc sys; do
    mkdir -p {TOP}/$name; mount --rbind /$name {TOP}/$name; mount --make-rslave {TOP}/$name
done
"""
INSTALL = f"""set -ex
mkfs.ext4 -q -F /dev/vdb2; mkfs.xfs -q -f /dev/vdb3; mkfs.vfat -F 32 /dev/vdb4
"""
PERSONALIZE = f"""set -ex
id() {{ blkid -s UUID -o value "$1"; }}
cat >{TOP}/etc/fstab <<END
UUID=$(id /dev/vdb2) / ext4 defaults 0 1
UUID=$(id /dev/vdb3) /var xfs defaults 0 0
UUID=$(id /dev/vdb4) /boot/efi vfat umask=0077 0 2
END
echo node8 >{TOP}/etc/hostname
mkdir -p -m 700 {TOP}/root/.ssh; cp -a /root/.ssh/authorized_keys {TOP}/root/.ssh/
cp /etc/systemimager/updateclient.toml {TOP}/etc/systemimager/updateclient.toml
chroot {TOP} ssh-keygen -A
chroot {TOP} systemd-machine-id-setup
chroot {TOP} grub-install --target=i386-pc /dev/vdb
chroot {TOP} grub-install --target=x86_64-efi --removable --no-nvram --efi-directory=/boot/efi
chroot {TOP} update-grub
"""


class RescueDisk:
    """A disk without a partition table that holds the rescue system."""

    layout = ONE_FILESYSTEM

    def __init__(self, workspace, images, server):
        self.path = workspace.path("rescue.raw")
        run("mkfs.ext4", "-q", "-F", "-d", f"{images.first}/node", self.path, SIZE)
        top = workspace.path("mnt-rescue")
        os.makedirs(top)
        run("mount", "-o", "loop", self.path, top)
        try:
            shutil.copyfile(os.devnull, f"{top}/etc/fstab")
            with open(f"{top}/etc/systemimager/updateclient.toml", "w", encoding="utf-8") as file:
                file.write(server.settings())
            node.give_identity(top, "rescue", workspace)
        finally:
            unmount(top)


class Rescue:
    """The rescue system beside the disk of a node."""

    def __init__(self, steps, workspace, images, server):
        self.boot_directory = f"{images.first}/node/boot"
        self.kernel = images.kernels.first
        self.options = " ".join(server.options(GUEST_ADDRESS))
        self.machine = Machine(steps, workspace, RescueDisk(workspace, images, server))

    def boot(self, disk):
        """Boots with the node's disk as the second one."""
        self.machine.boot(
            "-kernel", f"{self.boot_directory}/vmlinuz-{self.kernel}",
            "-initrd", f"{self.boot_directory}/initrd.img-{self.kernel}",
            "-append", f"root=/dev/vda rw {KERNEL_OPTIONS}",
            "-drive", f"file={disk.path},if=virtio,format=raw,cache=unsafe",
        )  # fmt: skip

    def install(self):
        """Installs a node with everything on it, by the agent and by grub's own tools."""
        for script in (INSTALL, MOUNT):
            self.machine.ssh.output(script)
        output = self.machine.ssh.output(f"si_updateclient --diff --yes --root {TOP}"
                                         f" {self.options}")
        for script in (CHROOT, PERSONALIZE, UNMOUNT):
            self.machine.ssh.output(script)
        return output.strip().splitlines()[-1]

    def roll_back(self):
        """Rolls the node's last update back, and informs its boot loader."""
        self.machine.ssh.output(MOUNT + CHROOT)
        self.machine.ssh.output(f"si_updateclient --rollback --yes --root {TOP}")
        self.machine.ssh.output(UNMOUNT)
