"""Runs programs of the host, with their output in the log of the current step."""

import contextlib
import os
import shlex
import signal
import subprocess
import time

LAST_LINES = 15
END_SECONDS = 30


class Failed(Exception):
    """A step failed; the text is the reason."""


class Log:
    """The file that receives the commands of the current step and their output."""

    def __init__(self):
        self.path = os.devnull

    def write(self, text):
        """Appends a line."""
        with open(self.path, "a", encoding="utf-8", errors="replace") as file:
            file.write(text.rstrip("\n") + "\n")


LOG = Log()


def run(*command, check=True, limit=1800, **options):
    """Runs a command and returns its output, both streams in one; raises `Failed` on failure."""
    status, output = outcome(*command, limit=limit, **options)
    if check and status != 0:
        raise Failed(f"{command[0]} ended with exit code {status}:\n{last_lines(output)}")
    return output


def outcome(*command, limit=1800, **options):
    """Runs a command and returns exit code and output. After `limit` seconds it is killed."""
    command = [str(part) for part in command]
    LOG.write(f"$ {shlex.join(command)}")
    begin = time.monotonic()

    content = options.pop("input", None)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL if content is None else subprocess.PIPE,
                                   start_new_session=True, **options)
    except OSError as error:
        raise Failed(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        output = process.communicate(content, limit)[0].decode(errors="replace")
    except BaseException as error:
        end_group(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        LOG.write((error.output or b"").decode(errors="replace"))
        raise Failed(f"{command[0]} did not end within {limit} s") from error

    LOG.write(output + f"[exit code {process.returncode} after {time.monotonic() - begin:.1f} s]")
    return process.returncode, output


def end_group(process):
    """Ends a process and its children. Some of them, such as mmdebstrap, have mounts to undo."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
            return


def last_lines(text, count=LAST_LINES):
    """Returns the end of an output, indented."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join("    " + line for line in lines[-count:]) or "    (no output)"


def write_file(path, content, mode=0o644):
    """Writes a file, with the directories above it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
    os.chmod(path, mode)


def read_file(path):
    """Returns the text of a file, or nothing if it does not exist."""
    with contextlib.suppress(FileNotFoundError):
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    return ""


def wait_until(condition, seconds, pause=0.2):
    """Polls until `condition` returns something true, and returns that; None after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= end:
            return None
        time.sleep(pause)


def remove_tree(top):
    """Removes a directory, but nothing of a filesystem that a killed program left mounted in it."""
    for line in reversed(read_file("/proc/mounts").splitlines()):
        place = line.split()[1]
        if place.startswith(os.path.realpath(top) + "/"):
            outcome("umount", "-l", place)
    run("rm", "-rf", "--one-file-system", top)
