"""A virtual machine: QEMU with software emulation, its serial log and its end."""

import contextlib
import os
import signal
import subprocess
import time

from .commands import LOG, Failed, read_file, wait_until
from .ssh import Ssh
from .workspace import free_port

OVMF = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
# Without five-level page tables and virtualization, which cost an emulator time and serve nothing.
PROCESSOR = "max,la57=off,svm=off"
# Emulation is slow, and the machine that runs the suite may be busy with something else.
BOOT_SECONDS = 900
BOOT_ATTEMPTS = 3
IDLE_SECONDS = 60
INIT = "Run /init as init process"
SHUTDOWN_SECONDS = 600


class Machine:
    """One machine with one disk. A reboot of the guest ends QEMU, so each boot is started here."""

    def __init__(self, steps, workspace, disk, firmware="bios", memory=1024):
        self.steps, self.workspace = steps, workspace
        self.disk, self.firmware, self.memory = disk, firmware, memory
        self.name = os.path.basename(disk.path).split(".")[0]
        self.process = None
        self.serial = os.devnull
        self.boots = 0
        self.ssh = None
        self.extra = ()
        # A file that receives the order of all writes, if it is set.
        self.write_log = None
        workspace.stack.callback(self.kill)

    def start(self, *extra):
        """Starts QEMU. Further arguments are those of this boot alone."""
        self.boots += 1
        self.extra = extra
        self.serial = os.path.join(self.steps.directory, f"{self.name}-{self.boots}.serial")
        self.steps.machine = self
        port = free_port()
        command = [
            "qemu-system-x86_64", "-name", f"si-{self.name}", "-nodefaults", "-display", "none",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2",
            "-m", str(self.memory), "-no-reboot",
            "-chardev", f"file,id=serial,path={self.serial}", "-serial", "chardev:serial",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
            *self.firmware_arguments(), *self.disk_arguments(), *extra,
        ]  # fmt: skip
        LOG.write("$ " + " ".join(command))
        with open(os.path.join(self.steps.directory, "qemu.log"), "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=output, start_new_session=True)
        self.ssh = Ssh(self.workspace, port)

    def firmware_arguments(self):
        """Returns the arguments of OVMF, whose variables are a file of this machine."""
        if self.firmware == "bios":
            return []
        code, variables = OVMF
        own = self.workspace.path(f"{self.name}.vars")
        if not os.path.exists(own):
            with open(variables, "rb") as source, open(own, "wb") as target:
                target.write(source.read())
        return ["-drive", f"if=pflash,format=raw,readonly=on,file={code}",
                "-drive", f"if=pflash,format=raw,file={own}"]

    def disk_arguments(self):
        """Returns the arguments of the disk.

        The kill of QEMU is the power cut. The page cache of the host survives it, so it is the
        platter of this disk, and flushing it to the host's disk would add nothing.
        """
        if self.write_log is None:
            return ["-drive", f"file={self.disk.path},if=virtio,format=raw,cache=unsafe"]
        return ["-blockdev", f"driver=file,node-name=disk,filename={self.disk.path}",
                "-blockdev", f"driver=file,node-name=log,filename={self.write_log}",
                "-blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log",
                "-device", "virtio-blk-pci,drive=logged"]

    def is_running(self):
        """Checks if QEMU runs."""
        return self.process is not None and self.process.poll() is None

    def boot(self, *extra):
        """Starts the machine and waits for its services."""
        for attempt in range(1, BOOT_ATTEMPTS + 1):
            self.start(*extra)
            if self.wait_for_ssh():
                return self.wait_for_services()
            self.steps.note(f"boot attempt {attempt} did not reach ssh; see {self.serial}")
            self.kill()
        raise Failed(f"{self.name} did not boot in {BOOT_ATTEMPTS} attempts")

    def wait_for_ssh(self):
        """Waits until ssh accepts a command, unless the machine ends or hangs before."""
        idle = IdleClock(self.process.pid)
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end and self.is_running():
            if self.ssh.answers():
                return True
            # The emulator's timer may leave the kernel waiting for ever before its first process.
            if idle.seconds() > IDLE_SECONDS and INIT not in self.console():
                return False
            time.sleep(1)
        return False

    def wait_for_services(self):
        """Waits until systemd has started everything, and returns its verdict."""
        return self.ssh.output("systemctl is-system-running --wait", check=False).strip()

    def wait_for_end(self, seconds=SHUTDOWN_SECONDS):
        """Waits until the guest has powered off or rebooted."""
        if not wait_until(lambda: not self.is_running(), seconds):
            raise Failed(f"{self.name} did not shut down within {seconds} s")
        self.ssh.close()

    def shut_down(self):
        """Shuts the guest down in order."""
        self.ssh.outcome("systemctl poweroff")
        self.wait_for_end()

    def reboot(self):
        """Reboots the guest in order."""
        self.ssh.outcome("systemctl reboot")
        self.wait_for_end()
        return self.boot(*self.extra)

    def kill(self):
        """Cuts the power: SIGKILL to QEMU."""
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.ssh is not None:
            self.ssh.close()

    def console(self):
        """Returns the serial output of the current boot."""
        return read_file(self.serial)

    def wait_for_console(self, text, seconds, pause=0.005):
        """Waits for a text in the serial output; returns at once if QEMU ends."""
        found = wait_until(lambda: text in self.console() or not self.is_running(), seconds, pause)
        return bool(found) and text in self.console()


class IdleClock:
    """The time for which a process has wanted no processor."""

    SHARE = 0.1

    def __init__(self, pid):
        self.pid = pid
        self.since = self.checked = time.monotonic()
        self.wanted = self.read()

    def read(self):
        """Returns the seconds that all threads have run or have waited for a processor."""
        total = 0
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            for task in os.listdir(f"/proc/{self.pid}/task"):
                ran, waited, _ = read_file(f"/proc/{self.pid}/task/{task}/schedstat").split()
                total += int(ran) + int(waited)
        return total / 1e9

    def seconds(self):
        """Returns for how many seconds the process has been idle."""
        now, wanted = time.monotonic(), self.read()
        if wanted - self.wanted > self.SHARE * (now - self.checked):
            self.since = now
        self.checked, self.wanted = now, wanted
        return now - self.since
