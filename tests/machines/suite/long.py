"""The long form: scenarios that each begin with a fresh node of generation 1."""

import os
import shutil
import traceback

from . import autoinstall, cuts, node, packages, rescue_boot, short, updates
from .commands import Failed, run
from .disk import BTRFS, FIRMWARE, ONE_FILESYSTEM, VAR_APART, XFS, Disk
from .images import KERNEL_OPTIONS, Recipe
from .machine import Machine
from .product import images_with_product
from .rescue import Rescue
from .server import Server

FULL = Recipe("full", added=("dosfstools", "xfsprogs", "btrfs-progs", "rsync", "kexec-tools"),
              has_firmware_files=True)  # fmt: skip
DRACUT = Recipe("dracut", added=("dracut",), dropped=("initramfs-tools",))


class Site:
    """Images of one recipe, their server, and installed nodes to copy."""

    def __init__(self, workspace, steps, recipe):
        self.workspace, self.steps, self.recipe = workspace, steps, recipe
        self.disks = {}
        self.copies = 0
        self.rescue_system = None
        self.rescue_initramfs = None
        with steps.step(f"images {recipe.name!r} of two generations"):
            self.images = images_with_product(workspace, recipe)
            self.server = Server(workspace, recipe.name)
            steps.note(self.server.publish(self.images.first))

    def install(self, *layouts):
        """Installs a node on each layout, then publishes the second generation."""
        for layout in layouts:
            with self.steps.step(f"install a node, layout {layout.name!r}"):
                path = self.workspace.path(f"{self.recipe.name}-{layout.name}.raw")
                self.disks[layout] = Disk(path, layout).create()
                node.install(self.disks[layout], self.server, self.workspace)
        with self.steps.step("publish generation 2"):
            self.steps.note(self.server.publish(self.images.second))

    def machine(self, layout, firmware="bios"):
        """Returns a machine with a copy of an installed node."""
        self.copies += 1
        path = self.workspace.path(f"node-{self.copies}.raw")
        return Machine(self.steps, self.workspace, self.disks[layout].copy_to(path), firmware)

    def rescue(self):
        """Returns the rescue system of this site."""
        if self.rescue_system is None:
            self.rescue_system = Rescue(self.steps, self.workspace, self.images, self.server)
        return self.rescue_system

    def rescue_boot(self):
        """Returns the rescue system of `make rescue`, which signs the repository of this site."""
        if self.rescue_initramfs is None:
            self.rescue_initramfs = rescue_boot.RescueBoot(self)
        return self.rescue_initramfs

    def cut_test(self, layout):
        """Returns the power cuts of a layout."""
        return cuts.CutTest(self.workspace, self.steps, self.images, self.disks[layout])

    def finish(self, machine, generation):
        """Shuts a node down, judges its disk, and removes it."""
        machine.shut_down()
        image = (self.images.first, self.images.second)[generation - 1]
        short.judge_disk(self.workspace, machine.disk, f"{image}/node")
        os.unlink(machine.disk.path)


def update_and_cut(site, layout):
    """An update with a reboot, then on another node a cut that its initramfs has to finish."""
    steps, (old, new) = site.steps, site.images.kernels
    with steps.step(f"{site.recipe.name}, {layout.name}: update, reboot, next run"):
        machine = site.machine(layout)
        machine.boot()
        node.expect_running(machine, old, 1)
        updates.update(machine)
        machine.reboot()
        node.expect_running(machine, new, 2)
        updates.update(machine)
        short.expect_kernels(machine, new)
        site.finish(machine, 2)
    with steps.step(f"{site.recipe.name}, {layout.name}: power cut behind the commit point"):
        machine = site.machine(layout)
        machine.boot()
        updates.cut_behind_commit_point(machine)
        machine.boot()
        updates.expect_recovery(machine)
        updates.update(machine)
        machine.reboot()
        node.expect_running(machine, new, 2)
        updates.update(machine)
        site.finish(machine, 2)


def roll_back_on_btrfs(site):
    """A rollback across a kernel update where grub cannot write its environment."""
    steps, (old, new) = site.steps, site.images.kernels
    machine = site.machine(BTRFS)
    with steps.step("full, btrfs: update, reboot, rollback, reboot; the old kernel runs"):
        machine.boot()
        updates.update(machine)
        machine.reboot()
        node.expect_running(machine, new, 2)
        updates.agent(machine, "--rollback", "--yes")
        machine.reboot()
        node.expect_running(machine, old, 1)
        updates.update(machine, expected=12)
        short.expect_kernels(machine, old)
        site.finish(machine, 1)


def power_cut_in_rollback(site):
    """A rollback under the new kernel loses power while the boot loader's tool runs."""
    steps, (old, new) = site.steps, site.images.kernels
    machine = site.machine(ONE_FILESYSTEM)
    with steps.step("power cut in a rollback, when the boot loader's tool starts"):
        machine.boot()
        updates.update(machine)
        machine.reboot()
        updates.update(machine)
        short.expect_kernels(machine, new)
        updates.cut_at_boot_loader(machine)
        with cuts.mounted(site.workspace, machine.disk) as top:
            os.replace(f"{top}/usr/sbin/update-grub.real", f"{top}/usr/sbin/update-grub")
            shutil.copystat(f"{site.images.first}/node/usr/sbin", f"{top}/usr/sbin")
    with steps.step("the node boots; the next run finishes the rollback; the old kernel runs"):
        machine.boot()
        node.expect_running(machine, new, 1)
        updates.update(machine, expected=12)
        machine.reboot()
        node.expect_running(machine, old, 1)
        updates.update(machine, expected=12)
        site.finish(machine, 1)


def change_packages(site):
    """The node's package is upgraded, removed, installed and purged under systemd."""
    machine = site.machine(ONE_FILESYSTEM)
    with site.steps.step("packages: boot, upgrade"):
        site.server.add_module("packages", packages.write_newer_package(site.workspace))
        machine.boot()
        packaged = packages.PackagedNode(machine, site.server)
        packaged.upgrade()
    with site.steps.step("packages: removal, reboot, installation again"):
        packaged.remove()
        machine.reboot()
        packaged.install()
    with site.steps.step("packages: purge, reboot"):
        packaged.purge()
        machine.reboot()
        packaged.expect_no_failed_unit()
        machine.kill()


def power_cuts(site, layout):
    """Kills at several moments; each leaves one of the two generations."""
    test = site.cut_test(layout)
    for moment in cuts.MOMENTS:
        with site.steps.step(f"{layout.name}: power cut {moment}"):
            site.steps.note(f"the node has generation {test.cut(moment)}")
    with site.steps.step(f"{layout.name}: power cut, and another in the recovery at boot"):
        generation = test.cut_twice()
        if generation != 2:
            raise Failed(f"a committed update ended in generation {generation}")


def write_order(site, layout):
    """Replays the recorded writes of an update to flushes, with and without later writes."""
    test = site.cut_test(layout)
    with site.steps.step(f"{layout.name}: record the order of all writes of an update"):
        log, recorded = cuts.record_writes(test)
        site.steps.note(f"{len(log.requests)} requests, {len(log.flushes())} flushes")
    with site.steps.step(f"{layout.name}: replay the writes to points of a cut, judge each"):
        generations = cuts.judge_points(test, log, recorded)
        site.steps.note(f"{generations.count(1)} points of generation 1, "
                        f"{generations.count(2)} of generation 2, none between")
        if set(generations) != {1, 2}:
            raise Failed("the points are not on both sides of the commit point")


def timer(site):
    """The timer updates a node unattended, at the boot after a day that it was off."""
    machine = site.machine(ONE_FILESYSTEM)
    with site.steps.step("timer: enabled on the first day, nothing to wait for"):
        machine.boot("-rtc", "base=2027-03-01T12:00:00")
        machine.ssh.output(
            "mkdir -p /etc/systemd/system/si-update.service.d && printf '[Service]\\nExecStart=\\n"
            "ExecStart=/usr/sbin/si_updateclient --diff --yes --quiet --splay 5\\n'"
            " >/etc/systemd/system/si-update.service.d/splay.conf && systemctl daemon-reload"
            " && systemctl enable --now si-update.timer")
        machine.shut_down()
    with site.steps.step("timer: the next boot, two days later, updates the node by itself"):
        machine.boot("-rtc", "base=2027-03-03T12:00:00")
        report = node.Report(machine)
        wait = "for i in $(seq 300); do si_updateclient --status | grep -q '^serial: *2$' && exit; " \
               "sleep 2; done; exit 1"
        machine.ssh.output(wait)
        machine.ssh.output("while systemctl is-active -q si-update.service; do sleep 1; done")
        site.steps.note(machine.ssh.output("journalctl -b -u si-update -o cat -n 1").strip())
        if report.failed_units():
            raise Failed("failed units: " + ", ".join(report.failed_units()))
        machine.reboot()
        node.expect_running(machine, site.images.kernels.second, 2)
        machine.kill()


def full_root(site):
    """An update without room changes nothing; with room it succeeds."""
    machine = site.machine(ONE_FILESYSTEM)
    with site.steps.step("full root: the update is refused and changes nothing"):
        machine.boot()
        # With the blocks that ext4 reserves for root.
        machine.ssh.output("set -- $(stat -f -c '%f %S' /);"
                           " fallocate -l $(($1 * $2 - 20000000)) /root/filler")
        updates.update(machine, expected=5)
        node.expect_running(machine, site.images.kernels.first, 1)
    with site.steps.step("full root: with room again the update succeeds"):
        machine.ssh.output("rm /root/filler")
        updates.update(machine)
        machine.reboot()
        node.expect_running(machine, site.images.kernels.second, 2)
        machine.kill()


def old_clock(site):
    """A node whose clock says 1970 is updated and boots."""
    machine = site.machine(ONE_FILESYSTEM)
    with site.steps.step("clock of 1970: update and reboot"):
        machine.boot("-rtc", "base=1970-01-01T00:00:00")
        # systemd has set the clock to its own age.
        machine.ssh.output("date -s '1970-01-02 03:04:05'")
        updates.update(machine)
        machine.reboot()
        node.expect_running(machine, site.images.kernels.second, 2)
        updates.update(machine)
        site.finish(machine, 2)


def rescue(site):
    """A node with /var and ESP apart, installed from a rescue system by grub's own tools."""
    steps, new = site.steps, site.images.kernels.second
    disk = Disk(site.workspace.path("rescued.raw"), FIRMWARE)
    with steps.step("rescue system: install a node with ESP (vfat), root (ext4), /var (xfs)"):
        disk.partition()
        site.rescue().boot(disk)
        steps.note(site.rescue().install())
        site.rescue().machine.shut_down()
        expect_firmware_files(site, disk, 2)
    for kind in ("uefi", "bios"):
        with steps.step(f"the node boots by {kind}"):
            machine = Machine(steps, site.workspace, disk, kind)
            machine.boot()
            node.expect_running(machine, new, 2)
            machine.shut_down()
    short.judge_disk(site.workspace, disk, f"{site.images.second}/node")
    os.unlink(disk.path)


def firmware(site):
    """The life of a node with OVMF, which a rescue system rolls back at the end."""
    steps, (old, new) = site.steps, site.images.kernels
    machine = site.machine(FIRMWARE, "uefi")
    with steps.step("OVMF, /var and ESP apart: boot, update, reboot"):
        machine.boot()
        node.expect_running(machine, old, 1)
        updates.update(machine)
        machine.reboot()
        node.expect_running(machine, new, 2)
    with steps.step("OVMF: rollback, reboot"):
        updates.agent(machine, "--rollback", "--yes")
        machine.reboot()
        node.expect_running(machine, old, 1)
    with steps.step("OVMF: forward again, reboot"):
        updates.agent(machine, "--rollback", "--yes")
        machine.reboot()
        node.expect_running(machine, new, 2)
        machine.shut_down()
        expect_firmware_files(site, machine.disk, 2)
    with steps.step("rollback by the rescue system"):
        site.rescue().boot(machine.disk)
        site.rescue().roll_back()
        site.rescue().machine.shut_down()
        expect_firmware_files(site, machine.disk, 1)
    for kind in ("uefi", "bios"):
        with steps.step(f"{kind}: the old kernel boots after the rollback by the rescue system"):
            again = Machine(steps, site.workspace, machine.disk, kind)
            again.boot()
            node.expect_running(again, old, 1)
            again.shut_down()


def expect_firmware_files(site, disk, generation):
    """Compares the files of the ESP, read by mtools, with those of the image."""
    image = (site.images.first, site.images.second)[generation - 1]
    tools = f"{image}/node/boot/efi/EFI/tools"
    listing = disk.esp("mdir", "-b", "::/EFI/tools").split()
    found = sorted(path.rsplit("/", 1)[1] for path in listing)
    if found != sorted(os.listdir(tools)):
        raise Failed(f"the ESP has {', '.join(found)}")
    for name in found:
        copy = site.workspace.path("esp-file")
        disk.esp("mcopy", "-n", "-o", f"::/EFI/tools/{name}", copy)
        run("cmp", copy, f"{tools}/{name}")


def autoinstall_by_grub(site):
    """One boot of the installer by grub; the boot after it is the node's own."""
    steps = site.steps
    machine = site.machine(ONE_FILESYSTEM)
    with steps.step("autoinstall by grub: the installer boots once"):
        machine.boot()
        updates.agent(machine, "--autoinstall", "--yes", "--append", "console=ttyS0,115200")
        machine.ssh.outcome("systemctl reboot")
        machine.wait_for_end()
        machine.start()
        expect_installer(machine)
    with steps.step("autoinstall by grub: the next boot is the node's own"):
        machine.boot()
        node.expect_running(machine, site.images.kernels.first, 1)
        machine.kill()


def autoinstall_by_kexec(site):
    """A node without a boot loader starts the installer by kexec."""
    machine = site.machine(ONE_FILESYSTEM)
    directory, kernel = f"{site.images.first}/node/boot", site.images.kernels.first
    identity = machine.disk.identities["root"]
    with site.steps.step("autoinstall by kexec: the running kernel starts the installer"):
        with cuts.mounted(site.workspace, machine.disk) as top:
            run("rm", "-r", f"{top}/boot/grub")
        machine.boot("-kernel", f"{directory}/vmlinuz-{kernel}",
                     "-initrd", f"{directory}/initrd.img-{kernel}",
                     "-append", f"root=UUID={identity} ro {KERNEL_OPTIONS}")
        machine.ssh.outcome("si_updateclient --autoinstall --yes --reboot"
                            " --append 'console=ttyS0,115200 no_timer_check'")
        expect_installer(machine)


def expect_installer(machine):
    """Waits for the installer's line on the console, and for its end."""
    if not machine.wait_for_console(autoinstall.STARTED, 900):
        raise Failed(f"the installer did not start; see {machine.serial}")
    machine.wait_for_end()
    machine.steps.note("the installer ran and powered off")


# Name, layouts of the nodes, and the scenario; those of one recipe share images and server.
FULL_SCENARIOS = {
    "firmware": firmware,
    "rescue": rescue,
    "cuts": lambda site: power_cuts(site, ONE_FILESYSTEM),
    "cuts-var-apart": lambda site: power_cuts(site, FIRMWARE),
    "write-order": lambda site: write_order(site, ONE_FILESYSTEM),
    "write-order-var-apart": lambda site: write_order(site, VAR_APART),
    "var-apart": lambda site: update_and_cut(site, VAR_APART),
    "xfs": lambda site: update_and_cut(site, XFS),
    "btrfs": lambda site: update_and_cut(site, BTRFS),
    "btrfs-rollback": roll_back_on_btrfs,
    "rollback-cut": power_cut_in_rollback,
    "packages": change_packages,
    "timer": timer,
    "full-root": full_root,
    "old-clock": old_clock,
    "autoinstall-grub": autoinstall_by_grub,
    "autoinstall-kexec": autoinstall_by_kexec,
    **rescue_boot.SCENARIOS,
}
LAYOUTS = {
    "firmware": FIRMWARE, "rescue": None, "cuts-var-apart": FIRMWARE,
    "write-order-var-apart": VAR_APART, "var-apart": VAR_APART, "xfs": XFS, "btrfs": BTRFS,
    "btrfs-rollback": BTRFS, "rescue-empty": None,
}  # fmt: skip
SCENARIOS = ("short", *FULL_SCENARIOS, "dracut")


def run_scenarios(workspace, steps, names):
    """Runs scenarios; a failed one does not stop the others."""
    if "short" in names:
        attempt(steps, lambda: short.run(workspace, steps))
    chosen = [name for name in FULL_SCENARIOS if name in names]
    if chosen:
        attempt(steps, lambda: run_full(workspace, steps, chosen))
    if "dracut" in names:
        attempt(steps, lambda: run_dracut(workspace, steps))


def run_full(workspace, steps, names):
    """Installs the nodes that the scenarios need, then runs these."""
    site = Site(workspace, steps, FULL)
    site.server.add_module("boot", autoinstall.write_boot_files(workspace, site.images))
    wanted = {LAYOUTS.get(name, ONE_FILESYSTEM) for name in names}
    site.install(*(layout for layout in (ONE_FILESYSTEM, VAR_APART, FIRMWARE, XFS, BTRFS)
                   if layout in wanted))
    for name in names:
        attempt(steps, lambda scenario=FULL_SCENARIOS[name]: scenario(site))


def run_dracut(workspace, steps):
    """A node whose initramfs dracut makes."""
    site = Site(workspace, steps, DRACUT)
    site.install(ONE_FILESYSTEM)
    update_and_cut(site, ONE_FILESYSTEM)


def attempt(steps, scenario):
    """Runs a scenario. The step has reported a failure, which ends no other scenario."""
    try:
        scenario()
    except Exception as error:
        if not isinstance(error, Failed):
            traceback.print_exc()
        steps.note("the rest of this scenario is left out")
