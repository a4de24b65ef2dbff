"""The short form: the life of one node, from its installation to a power cut."""

from . import cuts, judge, node, updates
from .commands import Failed
from .disk import ONE_FILESYSTEM, Disk
from .machine import Machine
from .product import images_with_product
from .server import Server


def run(workspace, steps, _=()):
    """Runs all steps; the first failure ends the run."""
    with steps.step("images of two generations, from the cache or by mmdebstrap"):
        images = images_with_product(workspace)
        old, new = images.kernels
        steps.note(f"generation 1: Linux {old}, generation 2: Linux {new}")

    with steps.step("publish generation 1, install a node offline"):
        server = Server(workspace)
        steps.note(server.publish(images.first))
        disk = Disk(workspace.path("node.raw"), ONE_FILESYSTEM).create()
        node.install(disk, server, workspace)
        judge_disk(workspace, disk, f"{images.first}/node")

    machine = Machine(steps, workspace, disk)
    with steps.step("first boot (BIOS): generation 1 runs"):
        machine.boot()
        node.expect_running(machine, old, 1)

    with steps.step("publish generation 2"):
        steps.note(server.publish(images.second))
    update_and_reboot(steps, machine, old, new)
    roll_back(steps, machine, old, new)
    cut_power(steps, machine, new)

    with steps.step("rsync finds the disk equal to generation 2"):
        machine.shut_down()
        judge_disk(workspace, disk, f"{images.second}/node")


def update_and_reboot(steps, machine, old, new):
    """An update brings a new kernel; the run after the reboot drops the old one."""
    with steps.step("update to generation 2 by a diff; the old kernel still runs"):
        steps.note(updates.update(machine))
        node.expect_running(machine, old, 2)
        expect_kernels(machine, old, new)

    with steps.step("reboot: the new kernel runs"):
        machine.reboot()
        node.expect_running(machine, new, 2)

    with steps.step("the next run drops the old kernel"):
        updates.update(machine)
        node.expect_running(machine, new, 2)
        expect_kernels(machine, new)


def roll_back(steps, machine, old, new):
    """A rollback across the kernel update: the next boot is the old kernel's."""
    with steps.step("rollback to generation 1"):
        updates.agent(machine, "--rollback", "--yes")
        node.expect_running(machine, new, 1)

    with steps.step("reboot after the rollback: the old kernel runs"):
        machine.reboot()
        node.expect_running(machine, old, 1)

    with steps.step("a pinned node refuses generation 2 and keeps the old kernel alone"):
        updates.update(machine, expected=12)
        node.expect_running(machine, old, 1)
        expect_kernels(machine, old)


def cut_power(steps, machine, new):
    """An update loses power behind its commit point; the boot finishes it in the initramfs."""
    with steps.step("update again; power cut behind the commit point"):
        updates.cut_behind_commit_point(machine, "--unhold")

    with steps.step("boot after the power cut: the initramfs finishes the update"):
        machine.boot()
        updates.expect_recovery(machine)
        updates.update(machine)
        machine.reboot()
        node.expect_running(machine, new, 2)
        updates.update(machine)


def expect_kernels(machine, *releases):
    """Fails unless the node has these kernels, with their modules, and no others."""
    for place, found in node.Report(machine).kernels().items():
        if found != sorted(releases):
            raise Failed(f"{place} has {', '.join(found)}, not {', '.join(releases)}")


def judge_disk(workspace, disk, image):
    """Mounts the disk of a machine that is off, and compares it with an image."""
    with cuts.mounted(workspace, disk) as top:
        judge.expect_same(image, top, disk.layout)
