"""Runs commands, measured or not."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile

TIMED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "timed.py")
DROP_CACHES = "/proc/sys/vm/drop_caches"


class Failed(Exception):
    """A command failed; the text is the reason in a line or two."""


def run(*command, **options):
    """Runs a command unmeasured. Its output is shown only if it fails."""
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    if done.returncode != 0:
        raise Failed(f"{command[0]} ended with {done.returncode}: {last_words(done.stdout)}")
    return done.stdout


def alone(directory):
    """Locks DIRECTORY until the returned file is closed; exits if another run holds the lock."""
    lock = open(f"{directory}/lock", "w", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"another run works in {directory}")
    return lock


def last_words(output):
    """The end of an output, short enough for a table."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-300:] or "no output"


def cold():
    """Writes all dirty pages, then drops the page cache, so that the next read is from disk."""
    os.sync()
    with open(DROP_CACHES, "w", encoding="ascii") as caches:
        caches.write("3")


def timed(command, inside=(), sync="-", output=None):
    """Runs and measures COMMAND behind the prefix INSIDE (of a namespace). Writes its output to the file OUTPUT.

    Returns a dict of wall, sync, user, system, memory; raises Failed if COMMAND fails.
    """
    with contextlib.ExitStack() as stack:
        result = stack.enter_context(tempfile.NamedTemporaryFile("r", encoding="ascii"))
        output = stack.enter_context(open(output, "w+b") if output else tempfile.TemporaryFile())
        argv = [*inside, sys.executable, "-I", "-S", TIMED, result.name, sync, *map(str, command)]
        # a session of its own, so that a signal reaches all of its processes and no others
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        try:
            process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        text = result.read()
        measured = json.loads(text) if text else {"status": process.returncode}
        if measured.pop("status") != 0:
            output.seek(0)
            raise Failed(f"{os.path.basename(str(command[0]))} failed: {last_words(output.read())}")
        return measured


def shell(script, *arguments):
    """A command that runs SCRIPT with $1 and on as ARGUMENTS and stops at the first failure."""
    return ["bash", "-euo", "pipefail", "-c", script, "bench", *map(str, arguments)]
