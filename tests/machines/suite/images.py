"""Images of two generations, made by mmdebstrap and kept between runs.

The first generation is the release as of its last point release. The second one has all updates,
the newest kernel in place of the old one, one package more and one less.
"""

import contextlib
import hashlib
import os
import re
import shutil
from typing import NamedTuple

from .commands import LOG, Failed, remove_tree, run, write_file

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv", "udev", "initramfs-tools", "grub2-common", "grub-pc-bin",
    "grub-efi-amd64-bin", "openssh-server", "iproute2", "procps", "kmod", "zstd", "e2fsprogs",
)  # fmt: skip
ONLY_FIRST, ONLY_SECOND = "less", "tree"

# Documentation is not needed, and the disks are written by an emulator.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
QUIET = ("apt-get", "-qq", "-y", "-o", "Dpkg::Options::=--force-confold")
SURROUNDINGS = {
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
}
# Jobs that would use the network or the disk in the middle of a step.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "fstrim.timer", "e2scrub_reap.service", "systemd-timesyncd.service", "getty@tty1.service",
    "getty-static.service",
)  # fmt: skip
# The emulator's timer fails a check of the kernel, and a busy host makes every service slow.
KERNEL_OPTIONS = ("console=ttyS0,115200 no_timer_check net.ifnames=0 "
                  "systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900")


class Recipe(NamedTuple):
    """Packages of an image beyond `PACKAGES`, and those that are left out of it."""

    name: str = "node"
    added: tuple = ()
    dropped: tuple = ()
    # Whether the image has files in /boot/efi, which change with the generation.
    has_firmware_files: bool = False


class Kernels(NamedTuple):
    """Releases of the two kernels, such as 6.1.0-50-cloud-amd64."""

    first: str
    second: str


class Images(NamedTuple):
    """Directories of both generations: FIRST/node and SECOND/node."""

    first: str
    second: str
    kernels: Kernels


def mirrors():
    """Returns the lines of sources.list for the suite, from this machine's apt."""
    lines = []
    for names in ((SUITE,), (f"{SUITE}-updates",), (f"{SUITE}-security",)):
        address = mirror_of(names[0])
        if address:
            lines.append(f"deb {address} {names[0]} main")
    if not lines:
        raise Failed(f"apt of this machine has no {SUITE}; add it to its sources")
    return lines


def mirror_of(suite):
    """Returns the address of a suite, or nothing."""
    wanted = "$(CODENAME) $(SUITE) $(RELEASE) $(REPO_URI)"
    listing = run("apt-get", "indextargets", "--format", wanted, "Created-By: Packages")
    for line in listing.splitlines():
        *names, address = line.split()
        if suite in names:
            return address.rstrip("/")
    return None


def kernels():
    """Chooses two cloud kernels: the newest of the release itself, and the newest of all."""
    names = run("apt-cache", "pkgnames", "linux-image-").split()
    names = [name for name in names if re.fullmatch(r"linux-image-[\d.]+-\d+-cloud-amd64", name)]
    listing = run("apt-cache", "madison", *names)
    origins = {}
    for line in listing.splitlines():
        package, _, origin = (field.strip() for field in line.split("|"))
        origins.setdefault(package.removeprefix("linux-image-"), []).append(origin.split()[1])

    releases = sorted(origins, key=lambda text: [int(n) for n in re.findall(r"\d+", text)])
    second = releases.pop() if releases else None
    first = [release for release in releases if f"{SUITE}/main" in origins[release]]
    if not first:
        raise Failed("apt has fewer than two cloud kernels; run apt-get update")
    return Kernels(first[-1], second)


def base_images(workspace, recipe):
    """Returns the images without the product; makes them if the cache does not have them."""
    key = digest(read_source(__file__), recipe)
    top = workspace.cached(f"base-{recipe.name}", key, lambda part: make(part, recipe))
    return Images(f"{top}/1", f"{top}/2", Kernels(*map(only_kernel, (f"{top}/1", f"{top}/2"))))


def only_kernel(directory):
    """Returns the release of the kernel of an image."""
    (release,) = os.listdir(f"{directory}/node/lib/modules")
    return release


def make(top, recipe):
    """Makes both generations below `top`."""
    remove_tree(top)
    run("apt-get", "-q", "update", check=False)
    sources, found = mirrors(), kernels()
    first, second = f"{top}/1/node", f"{top}/2/node"
    os.makedirs(f"{top}/2")
    os.makedirs(f"{top}/1")
    packages = [name for name in (*PACKAGES, *recipe.added) if name not in recipe.dropped]
    packages += [ONLY_FIRST, f"linux-image-{found.first}"]

    LOG.write(f"generation 1 with {found.first}, generation 2 with {found.second}")
    run("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED),
        "--include=" + ",".join(packages), SUITE, first, sources[0])
    configure(first)
    if recipe.has_firmware_files:
        write_firmware_files(first, 1)

    # All of it is on one filesystem: a copy across mounts would lose holes and some attributes.
    run("cp", "-ax", first, second)
    write_file(f"{second}/etc/apt/sources.list", "\n".join(sources) + "\n")
    with inhabited(second) as within:
        within(*QUIET, "update")
        within(*QUIET, "install", "--no-install-recommends",
               f"linux-image-{found.second}", ONLY_SECOND)
        within(*QUIET, "full-upgrade")
        within(*QUIET, "purge", f"linux-image-{found.first}", ONLY_FIRST)
    if recipe.has_firmware_files:
        write_firmware_files(second, 2)
    clean(first)
    clean(second)


def write_firmware_files(root, generation):
    """Writes two files for the ESP; the second generation has one more."""
    for name in ("first", "second")[:generation]:
        write_file(f"{root}/boot/efi/EFI/tools/{name}.txt", f"generation {generation}\n" * 5000)


def configure(root):
    """Writes the settings that an administrator would give a golden image."""
    write_file(f"{root}/etc/systemd/network/20-dhcp.network",
               "[Match]\nName=eth* en*\n\n[Network]\nDHCP=yes\n")
    write_file(f"{root}/etc/default/grub",
               'GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_TERMINAL="serial console"\n'
               'GRUB_DISABLE_OS_PROBER=true\nGRUB_CMDLINE_LINUX_DEFAULT=""\n'
               f'GRUB_CMDLINE_LINUX="{KERNEL_OPTIONS}"\n')
    write_file(f"{root}/etc/ssh/sshd_config.d/suite.conf",
               "PermitRootLogin prohibit-password\nUseDNS no\nPrintMotd no\n")
    write_file(f"{root}/etc/hostname", "golden\n")
    run("chroot", root, "systemctl", "enable", "systemd-networkd", "ssh", env=SURROUNDINGS)
    run("chroot", root, "systemctl", "mask", *MASKED, env=SURROUNDINGS)


def clean(root):
    """Removes the identity of the image and the files of apt."""
    for name in os.listdir(f"{root}/etc/ssh"):
        if name.startswith("ssh_host_"):
            os.unlink(f"{root}/etc/ssh/{name}")
    write_file(f"{root}/etc/machine-id", "")
    write_file(f"{root}/etc/resolv.conf", "")
    run("chroot", root, "apt-get", "clean", env=SURROUNDINGS)
    run("find", f"{root}/var/lib/apt/lists", f"{root}/var/log", f"{root}/var/cache/debconf",
        "-type", "f", "-delete")


@contextlib.contextmanager
def inhabited(root):
    """Runs commands inside an image, with /proc and name resolution, and starts no service."""
    policy = f"{root}/usr/sbin/policy-rc.d"
    write_file(policy, "#!/bin/sh\nexit 101\n", 0o755)
    shutil.copyfile("/etc/resolv.conf", f"{root}/etc/resolv.conf")
    run("mount", "-t", "proc", "proc", f"{root}/proc")
    try:
        yield lambda *command: run("chroot", root, *command, env=SURROUNDINGS)
    finally:
        run("umount", "-l", f"{root}/proc")
        os.unlink(policy)
        write_file(f"{root}/etc/resolv.conf", "")


def digest(*parts):
    """Returns a short digest of a list of values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def read_source(path):
    """Returns the text of a module, as a part of a key."""
    with open(path, encoding="utf-8") as file:
        return file.read()
