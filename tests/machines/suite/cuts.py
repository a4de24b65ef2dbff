"""Power cuts at moments that nobody chose well, and the states that they leave."""

import contextlib
import os

from . import judge, node, updates
from .commands import Failed, last_lines, read_file, run, wait_until
from .machine import Machine
from .product import AGENT
from .writelog import WriteLog

# Reports the journal as soon as it exists; the update goes on meanwhile.
WATCH = 'while [ ! -e /.si-stage/journal ]; do :; done; echo "the journal exists" >/dev/ttyS0'
COMMITTED, RECOVERING = "the journal exists", "si-recover: an update of"
OUTPUT, CONSOLE = "output", "console"

# Moments of a cut: the place and the text of its trigger, and seconds after it.
MOMENTS = {
    "while it downloads": (OUTPUT, "following one diff", 0.0),
    "while it stages": (OUTPUT, "fetched", 1.0),
    "when it has staged": (OUTPUT, "staged", 0.0),
    "at its commit point": (CONSOLE, COMMITTED, 0.0),
    "shortly after its commit point": (CONSOLE, COMMITTED, 0.3),
    "when it has switched": (OUTPUT, "applied", 0.0),
}
# Cuts of the write order that are judged: flushes around the commit point.
POINTS, BEFORE_COMMIT = 24, 4


class CutTest:
    """Cuts the power of copies of one node, which all begin the same update."""

    def __init__(self, workspace, steps, images, disk):
        self.workspace, self.steps, self.images, self.disk = workspace, steps, images, disk

    def machine(self):
        """Returns a machine with a fresh copy of the node."""
        copy = self.disk.copy_to(self.workspace.path(f"cut-{os.path.basename(self.disk.path)}"))
        return Machine(self.steps, self.workspace, copy)

    def cut(self, moment):
        """Cuts an update at a moment, boots, and judges. Returns the generation of the node."""
        machine = self.machine()
        machine.boot()
        self.begin_update_and_cut(machine, moment)
        machine.boot()
        return self.finish(machine)

    def cut_twice(self):
        """Cuts an update behind its commit point, and then its recovery at boot."""
        machine = self.machine()
        machine.boot()
        updates.cut_behind_commit_point(machine)
        machine.start()
        if not machine.wait_for_console(RECOVERING, 900):
            raise Failed(f"no recovery began; see {machine.serial}")
        machine.kill()
        machine.boot()
        return self.finish(machine)

    def begin_update_and_cut(self, machine, moment):
        """Starts the update and kills QEMU at the moment."""
        place, text, seconds = MOMENTS[moment]
        output = os.path.join(self.steps.directory, "update.log")
        machine.ssh.start(WATCH, os.path.join(self.steps.directory, "watcher.log"))
        process = machine.ssh.start(" ".join(("si_updateclient", *updates.UPDATE)), output)
        if place == CONSOLE:
            found = machine.wait_for_console(text, updates.UPDATE_SECONDS)
        else:
            found = wait_until(lambda: text in read_file(output) or process.poll() is not None,
                               updates.UPDATE_SECONDS, 0.01)
            found = found and text in read_file(output)
        wait_until(lambda: False, seconds, seconds or 1)
        machine.kill()
        process.wait()
        if not found:
            raise Failed(f"the update never printed {text!r}:\n{last_lines(read_file(output))}")

    def finish(self, machine):
        """Returns the generation that the booted node reports, once rsync has confirmed it."""
        report = node.Report(machine)
        failed, serial = report.failed_units(), report.serial()
        if failed:
            raise Failed("failed units: " + ", ".join(failed))
        machine.shut_down()
        with mounted(self.workspace, machine.disk) as top:
            judge.expect_generation(self.images, top, self.disk.layout, serial)
            if os.path.exists(f"{top}/.si-stage/journal"):
                raise Failed("the transaction is still pending after the boot")
        os.unlink(machine.disk.path)
        return serial


@contextlib.contextmanager
def mounted(workspace, disk):
    """Mounts the filesystems of a disk below a directory of the run, and yields that."""
    top = workspace.path("judged")
    os.makedirs(top, exist_ok=True)
    with disk.mounted(top):
        yield top


def record_writes(test):
    """Runs an update on a disk that records its writes; returns the log and the disk."""
    log = test.workspace.path("writes.log")
    with open(log, "wb"):
        pass
    machine = test.machine()
    machine.write_log = log
    machine.boot()
    updates.update(machine)
    machine.shut_down()
    return WriteLog(log), machine.disk


def judge_points(test, log, recorded):
    """Replays the log to points around the commit point; returns the generations in order."""
    committed = log.find(b"si-journal 1\n")
    if committed is None:
        raise Failed("the log has no journal: the update did not reach its commit point")
    flushes = log.flushes()
    first = max(sum(end <= committed for end in flushes) - BEFORE_COMMIT, 0)
    ends = flushes[first:]
    ends = ends if len(ends) <= POINTS else ends[:POINTS // 2] + sample(ends[POINTS // 2:])

    replayed = test.disk.copy_to(test.workspace.path("replayed.raw"))
    done, generations = 0, []
    for end in ends:
        log.replay(replayed.path, log.requests[done:end])
        generations.append(judge_point(test, replayed, ()))
        following = next((flush for flush in flushes if flush > end), len(log.requests))
        generations.append(judge_point(test, replayed, (log, end, following)))
        done = end

    # The replay of everything has to be the disk that was recorded.
    log.replay(replayed.path, log.requests[done:])
    run("cmp", replayed.path, recorded.path)
    os.unlink(replayed.path)
    os.unlink(recorded.path)
    return generations


def sample(ends):
    """Returns half of `POINTS` evenly distributed elements."""
    step = len(ends) / (POINTS // 2)
    return [ends[int(number * step)] for number in range(POINTS // 2)]


def judge_point(test, replayed, unordered):
    """Recovers a copy of a replayed disk and returns its generation.

    `unordered` names the writes up to the next flush, of which a random half is on the disk.
    """
    copy = replayed.copy_to(test.workspace.path("point.raw"))
    if unordered:
        log, begin, end = unordered
        log.replay(copy.path, log.lost_some(begin, end, seed=begin))
    with mounted(test.workspace, copy) as top:
        if os.path.exists(f"{top}/.si-stage"):
            run(AGENT, "--recover", "--root", top)
        serial = node.serial_of(run(AGENT, "--status", "--root", top))
        judge.expect_generation(test.images, top, test.disk.layout, serial)
    os.unlink(copy.path)
    return serial
