"""The rescue system of `make rescue`: boots it on damaged disks until it ends the machine."""

import os
import random
import re
import shutil
import stat

from . import cuts, judge, node, short, updates
from .commands import Failed, remove_tree, run, wait_until
from .disk import ONE_FILESYSTEM, VAR_APART, Disk
from .images import KERNEL_OPTIONS
from .machine import Machine
from .product import PUBLISHER
from .server import GUEST_ADDRESS, IMAGE
from .workspace import TOP

STATIC_AGENT = os.path.join(TOP, "target/static/si_updateclient")
SECONDS = 5400
SUCCESS, FAILURE = "si-rescue: OK: ", "si-rescue: FAILED: "
TIMES = re.compile(r"si-rescue:     +([\d.]+) (.*)")
# A clock whose battery is empty.
LOST_CLOCK = ("-rtc", "base=2000-01-01T00:00:00")
# Directories of which files are damaged: all files there are the image's.
DAMAGED = ("usr", "boot", "etc", "opt", "var/lib/dpkg")
# Files that only the node has; nobody could restore them.
OWN = re.compile(r"^(boot/grub/|etc/(fstab|hostname|machine-id)$|etc/(systemimager|ssh)/)")
LABEL = "si-repo"


class RescueBoot:
    """Kernel and initramfs of the rescue system, with the key of a signed repository."""

    def __init__(self, site, recipe_arguments=()):
        self.site, self.steps, self.workspace = site, site.steps, site.workspace
        self.directory = self.workspace.path("rescue-system")
        self.key = self.workspace.path("rescue-key")
        with self.steps.step("rescue system: sign the repository, build with its key"):
            run(PUBLISHER, "keygen", "--no-passphrase", "--out", self.key)
            self.sign(site.server.repository)
            agent = [f"AGENT={STATIC_AGENT}"] if os.path.exists(STATIC_AGENT) else []
            run(os.path.join(TOP, "scripts/rescue"), self.directory, f"KEY={self.key}.pub",
                f"SYSTEM={site.images.first}/node", f"IMAGE={IMAGE}", *agent, *recipe_arguments)

    def sign(self, repository, *options):
        """Signs a repository with the key of the rescue system."""
        run(PUBLISHER, "sign", "--repo", repository, "--image", IMAGE,
            "--sign-key", f"{self.key}.key", *options)

    def machine(self, disk):
        """Returns a machine for a disk."""
        return Machine(self.steps, self.workspace, disk)

    def start(self, machine, *arguments, extra=()):
        """Boots the rescue system; the repository is the one of the site unless one is named."""
        arguments = ["ip=dhcp", *arguments]
        if not any(word.startswith("si.repo=") for word in arguments):
            arguments.append(f"si.repo=http://{GUEST_ADDRESS}:{self.site.server.http_port}/")
        machine.start(
            "-kernel", f"{self.directory}/vmlinuz", "-initrd", f"{self.directory}/initrd.img",
            "-append", " ".join([KERNEL_OPTIONS, *arguments]), *extra,
        )  # fmt: skip

    def run(self, machine, *arguments, extra=(), expected=SUCCESS):
        """Boots the rescue system and waits until it has powered the machine off."""
        self.start(machine, "si.post-action=poweroff", *arguments, extra=extra)
        machine.wait_for_end(SECONDS)
        console = machine.console()
        if expected not in console:
            raise Failed(f"the rescue system did not print {expected!r}; see {machine.serial}")
        times = ", ".join(f"{step} {seconds} s" for seconds, step in TIMES.findall(console))
        self.steps.note(f"since power-on: {times}")
        return console

    def judge(self, machine, serial=2):
        """Fails unless the disk of a machine equals a generation."""
        image = (self.site.images.first, self.site.images.second)[serial - 1]
        short.judge_disk(self.workspace, machine.disk, f"{image}/node")

    def expect_boot(self, machine):
        """Boots the node itself, which runs the second generation; then removes its disk."""
        machine.boot()
        node.expect_running(machine, self.site.images.kernels.second, 2)
        machine.kill()
        os.unlink(machine.disk.path)


def damaged_files(site):
    """A root with 30 % of its files damaged, over http, with a signature and a lost clock."""
    rescue = site.rescue_boot()
    machine = site.machine(ONE_FILESYSTEM)
    with site.steps.step("rescue, 30 % of all files damaged: resync over http, clock of 2000"):
        with cuts.mounted(site.workspace, machine.disk) as top:
            site.steps.note(damage(top, 0.3))
        rescue.run(machine, "si.rescue=resync", extra=LOST_CLOCK)
        rescue.judge(machine)
    with site.steps.step("rescue, 30 % of all files damaged: the node boots"):
        rescue.expect_boot(machine)


def empty_disk(site):
    """Filesystems without a file."""
    rescue = site.rescue_boot()
    disk = Disk(site.workspace.path("empty.raw"), VAR_APART).create()
    machine = rescue.machine(disk)
    with site.steps.step("rescue, empty disk with /var apart: resync over http"):
        identities = disk.identities
        rescue.run(machine, "si.rescue=resync", f"si.root=UUID={identities['root']}",
                   f"si.mount=UUID={identities['var']}:/var")
        rescue.judge(machine)
        with cuts.mounted(site.workspace, disk) as top:
            with open(f"{top}/etc/fstab", encoding="ascii") as file:
                site.steps.note("fstab: " + file.read().replace("\n", "; "))
    os.unlink(disk.path)


def interrupted_update(site):
    """A node that lost power behind the commit point of an update."""
    rescue = site.rescue_boot()
    machine = site.machine(ONE_FILESYSTEM)
    with site.steps.step("rescue, interrupted update: power cut behind the commit point"):
        machine.boot()
        updates.cut_behind_commit_point(machine)
    kept = site.workspace.path("interrupted.raw")
    copy = rescue.machine(machine.disk.copy_to(kept))
    for job, target in (("recover", copy), ("resync", machine)):
        with site.steps.step(f"rescue, interrupted update: {job}"):
            console = rescue.run(target, f"si.rescue={job}")
            if "completing an update that was interrupted" not in console:
                raise Failed(f"{job} did not finish the update; see {target.serial}")
            with cuts.mounted(site.workspace, target.disk) as top:
                if os.path.exists(f"{top}/.si-stage/journal"):
                    raise Failed("the transaction is still pending")
                judge.expect_generation(site.images, top, target.disk.layout, 2)
            os.unlink(target.disk.path)


def lost_usr(site):
    """A node whose /usr is gone: it has no program and no library."""
    rescue = site.rescue_boot()
    machine = site.machine(ONE_FILESYSTEM)
    with site.steps.step("rescue, /usr is gone: resync over http"):
        with cuts.mounted(site.workspace, machine.disk) as top:
            remove_tree(f"{top}/usr")
        rescue.run(machine, "si.rescue=resync")
        rescue.judge(machine)
    with site.steps.step("rescue, /usr is gone: the node boots"):
        rescue.expect_boot(machine)


def cut_rescue(site):
    """Power cuts in the middle of a resync; the next one completes it."""
    rescue = site.rescue_boot()
    machine = site.machine(ONE_FILESYSTEM)
    with cuts.mounted(site.workspace, machine.disk) as top:
        damage(top, 0.3)
    moments = (("si-rescue: running si_updateclient", 30), ("fetched", 0), ("applied", 0))
    for text, seconds in moments:
        with site.steps.step(f"rescue: power cut {seconds} s after {text!r}"):
            rescue.start(machine, "si.rescue=resync", "si.post-action=poweroff")
            if not machine.wait_for_console(text, SECONDS):
                raise Failed(f"the rescue system never printed {text!r}; see {machine.serial}")
            wait_until(lambda: False, seconds, seconds or 1)
            machine.kill()
    with site.steps.step("rescue after three power cuts: resync"):
        rescue.run(machine, "si.rescue=resync")
        rescue.judge(machine)
        os.unlink(machine.disk.path)


def medium(site):
    """A repository on a disk, whose head has expired, and no network."""
    rescue = site.rescue_boot()
    machine = site.machine(ONE_FILESYSTEM)
    path = site.workspace.path("medium.raw")
    with site.steps.step("rescue, repository on a disk with an expired head: refused"):
        write_medium(rescue, path)
        with cuts.mounted(site.workspace, machine.disk) as top:
            damage(top, 0.05)
        arguments = ("si.rescue=resync", f"si.repo=file:LABEL={LABEL}/repository", "ip=off")
        extra = ("-drive", f"file={path},if=virtio,format=raw,readonly=on")
        rescue.run(machine, *arguments, extra=extra, expected=FAILURE)
    with site.steps.step("rescue, repository on a disk with an expired head: si.allow-expired"):
        rescue.run(machine, *arguments, "si.allow-expired", extra=extra)
        rescue.judge(machine)
        os.unlink(machine.disk.path)
        os.unlink(path)


def write_medium(rescue, path):
    """Makes a disk with a copy of the repository, whose head is valid for a second."""
    top = rescue.workspace.path("medium")
    shutil.copytree(rescue.site.server.repository, f"{top}/repository")
    rescue.sign(f"{top}/repository", "--expires", "1s")
    run("mkfs.ext4", "-q", "-F", "-L", LABEL, "-d", top, path, "2G")
    remove_tree(top)


def damage(top, share):
    """Overwrites, shortens or removes a share of the files of the image; returns a summary."""
    choice = random.Random(7)
    count = total = 0
    for directory in DAMAGED:
        for place, names, files in os.walk(os.path.join(top, directory)):
            names.sort()
            for name in sorted(files):
                path = os.path.join(place, name)
                facts = os.lstat(path)
                if not stat.S_ISREG(facts.st_mode) or OWN.match(os.path.relpath(path, top)):
                    continue
                if choice.random() < share:
                    damage_file(path, facts, choice)
                    count, total = count + 1, total + facts.st_size
    return f"{count} files of {total >> 20} MiB were damaged"


def damage_file(path, facts, choice):
    """Damages a file in one of three ways. The first keeps its size and times."""
    kind = choice.randrange(3)
    if kind == 0 and facts.st_size > 0:
        with open(path, "r+b") as file:
            file.seek(choice.randrange(facts.st_size))
            file.write(b"?")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    elif kind == 1:
        os.truncate(path, facts.st_size // 2)
    else:
        os.unlink(path)


SCENARIOS = {
    "rescue-damaged": damaged_files,
    "rescue-empty": empty_disk,
    "rescue-interrupted": interrupted_update,
    "rescue-usr": lost_usr,
    "rescue-cut": cut_rescue,
    "rescue-medium": medium,
}
