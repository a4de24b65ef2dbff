"""Upgrade, removal and purge of the node's package under a running systemd."""

import os
import re
import shutil

from . import node
from .commands import Failed, read_file, run, write_file
from .product import client_package
from .server import GUEST_ADDRESS

PACKAGE = "systemimager-diff-client"
STATE, SETTINGS = "/var/lib/systemimager", "/etc/systemimager"


def write_newer_package(workspace):
    """Repacks the package with a higher version; returns its directory."""
    package = client_package()
    if not package:
        raise Failed("there is no Debian package of this build; run make deb")
    directory, tree = workspace.path("packages"), workspace.path("package")
    os.makedirs(directory)
    run("dpkg-deb", "-R", package, tree)
    control = read_file(f"{tree}/DEBIAN/control")
    write_file(f"{tree}/DEBIAN/control", re.sub(r"(?m)^(Version: .*)$", r"\1+newer", control))
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, f"{directory}/newer.deb")
    shutil.copyfile(package, f"{directory}/present.deb")
    shutil.rmtree(tree)
    return directory


class PackagedNode:
    """A booted node whose package is changed."""

    def __init__(self, machine, server):
        self.machine = machine
        source = f"rsync://{GUEST_ADDRESS}:{server.rsync_port}/packages/"
        self.ssh.output(f"rsync -a {source} /root/packages/")

    @property
    def ssh(self):
        """The connection of the present boot."""
        return self.machine.ssh

    @property
    def report(self):
        """Statements of the node in its present boot."""
        return node.Report(self.machine)

    def upgrade(self):
        """Upgrades the package; settings, state and enabled units stay."""
        self.ssh.output("systemctl enable --now si-update.timer")
        settings = self.ssh.output(f"cat {SETTINGS}/updateclient.toml")
        self.dpkg("-i --force-confold /root/packages/newer.deb")
        if not self.version().endswith("+newer"):
            raise Failed(f"the package has version {self.version()}")
        self.expect("systemctl is-enabled si-update.timer", "enabled")
        self.expect("systemctl is-active si-update.timer", "active")
        if self.ssh.output(f"cat {SETTINGS}/updateclient.toml") != settings:
            raise Failed("the upgrade has changed updateclient.toml")
        self.expect_serial(1)

    def remove(self):
        """Removes the package; settings and state stay, no unit is left."""
        self.dpkg("-r")
        self.expect(f"test -e {STATE}/client/state.toml && test -e {SETTINGS}/updateclient.toml"
                    " && test ! -e /usr/sbin/si_updateclient && echo kept", "kept")
        self.expect("systemctl list-unit-files --no-legend 'si-*' | wc -l", "0")
        self.expect_no_failed_unit()

    def install(self):
        """Installs the package again, over the state that it left."""
        self.dpkg("-i --force-confold /root/packages/present.deb")
        self.expect_serial(1)

    def purge(self):
        """Purges the package: settings and state are removed as well."""
        self.dpkg("-P")
        self.expect(f"test ! -e {STATE} && test ! -e {SETTINGS} && echo gone", "gone")
        self.expect_no_failed_unit()

    def dpkg(self, operation):
        """Runs dpkg without questions; -r and -P are about the package."""
        target = f" {PACKAGE}" if operation in ("-r", "-P") else ""
        self.ssh.output(f"DEBIAN_FRONTEND=noninteractive dpkg {operation}{target}")

    def version(self):
        """Returns the installed version."""
        return self.ssh.output(f"dpkg-query -Wf '${{Version}}' {PACKAGE}").strip()

    def expect(self, command, text):
        """Fails unless a command prints exactly this line."""
        found = self.ssh.output(command, check=False).strip()
        if found != text:
            raise Failed(f"{command!r} printed {found!r}, not {text!r}")

    def expect_serial(self, serial):
        """Fails unless the agent still knows the generation."""
        if self.report.serial() != serial:
            raise Failed(f"the node reports serial {self.report.serial()}, not {serial}")
        self.expect_no_failed_unit()

    def expect_no_failed_unit(self):
        """Fails if a unit has failed."""
        if self.report.failed_units():
            raise Failed("failed units: " + ", ".join(self.report.failed_units()))
