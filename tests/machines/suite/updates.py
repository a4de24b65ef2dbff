"""Runs of the agent on a booted node, and the cut of its power behind the commit point."""

import os
import re

from .commands import Failed, last_lines

# Stops the agent as soon as its journal exists, makes the disk durable, and says so on the
# console. The agent cannot end its transaction before the cut, however fast the machine is.
STOP_AT_COMMIT = """
while [ ! -e /.si-stage/journal ]; do :; done
kill -STOP $(cat /run/agent.pid)
test -e /.si-stage/journal && sync && echo "the agent is stopped" >/dev/ttyS0
"""
STOPPED = "the agent is stopped"
TOOL_STARTED = "the tool of the boot loader has started"
RECOVERED = re.compile(r"si-recover: the update of /\S* is finished")
UPDATE = ("--diff", "--yes", "--no-fallback")
UPDATE_SECONDS = 1800


def update(machine, *options, expected=0):
    """Runs an update and returns the line of its result; fails with another exit code."""
    output = agent(machine, *UPDATE, *options, expected=expected)
    results = [line for line in output.splitlines() if line.startswith(("updated to", "node is"))]
    return results[-1] if results else output


def agent(machine, *options, expected=0):
    """Runs the agent and returns its output; fails with another exit code."""
    command = "si_updateclient " + " ".join(options)
    status, output = machine.ssh.outcome(command, limit=UPDATE_SECONDS)
    if status != expected:
        raise Failed(f"{command} ended with exit code {status}, not {expected}:\n"
                     + last_lines(output))
    return output


def cut_behind_commit_point(machine, *options):
    """Begins an update and cuts the power between its commit point and its end."""
    directory = machine.steps.directory
    machine.ssh.start(STOP_AT_COMMIT, os.path.join(directory, "watcher.log"))
    command = ("echo $$ >/run/agent.pid; exec si_updateclient", *UPDATE, *options)
    machine.ssh.start(" ".join(command), os.path.join(directory, "update.log"))
    if not machine.wait_for_console(STOPPED, UPDATE_SECONDS):
        raise Failed("the update did not reach its commit point")
    machine.kill()


def cut_at_boot_loader(machine):
    """Begins a rollback and cuts the power when the boot loader's tool starts.

    The tool is then /usr/sbin/update-grub.real.
    """
    directory = machine.steps.directory
    machine.ssh.output("mv /usr/sbin/update-grub /usr/sbin/update-grub.real && printf '#!/bin/sh\n"
                       f"sync; echo \"{TOOL_STARTED}\" >/dev/ttyS0; sleep 9999\n'"
                       " >/usr/sbin/update-grub && chmod 755 /usr/sbin/update-grub")
    machine.ssh.start("si_updateclient --rollback --yes", os.path.join(directory, "rollback.log"))
    if not machine.wait_for_console(TOOL_STARTED, UPDATE_SECONDS):
        raise Failed("the rollback did not start the boot loader's tool")
    machine.kill()


def expect_recovery(machine):
    """Fails unless the initramfs has finished an update in the boot that has just ended."""
    if RECOVERED.search(machine.console()) is None:
        raise Failed(f"the initramfs finished no update; see {machine.serial}")
