"""Steps of a run: titles, times, a log directory for each, and a report of failures."""

import contextlib
import os
import re
import time

from .commands import LOG, Failed, last_lines, read_file

SERIAL_LINES = 40


class Steps:
    """Runs the steps of one form and counts them."""

    def __init__(self, log):
        self.log = log
        self.begin = time.monotonic()
        self.number = 0
        self.passed, self.failed = 0, []
        self.table = []
        self.directory = log
        self.machine = None

    @contextlib.contextmanager
    def step(self, title):
        """One step. It prints its time, or the reason of its failure, which it passes on."""
        self.number += 1
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
        self.directory = os.path.join(self.log, f"{self.number:02}-{slug}")
        os.makedirs(self.directory)
        LOG.path = os.path.join(self.directory, "commands.log")
        begin = time.monotonic()

        try:
            yield self
        except BaseException as error:
            self.failed.append(title)
            self.line("FAILED", title, begin)
            self.explain(error)
            raise
        self.passed += 1
        self.line("ok", title, begin)

    def line(self, result, title, begin):
        """Prints and stores the line of a step."""
        text = f"{self.number:3}  {result:6} {time.monotonic() - begin:7.1f} s  {title}"
        self.table.append(text)
        print(text, flush=True)

    def note(self, text):
        """Prints a result of the current step, indented."""
        LOG.write(f"note: {text}")
        print(f"{'':22}{text}", flush=True)

    def explain(self, error):
        """Prints the reason of a failure and the end of the machine's serial log."""
        print(f"\n{error if isinstance(error, Failed) else repr(error)}\n", flush=True)
        if self.machine is not None:
            print(f"last lines of {self.machine.serial}:")
            print(last_lines(read_file(self.machine.serial), SERIAL_LINES), flush=True)
        print(f"all output of the step: {self.directory}\n", flush=True)

    def summary(self):
        """Prints the closing lines; returns the exit code of the run."""
        minutes, seconds = divmod(round(time.monotonic() - self.begin), 60)
        print(f"\nlogs: {self.log}\ntime: {minutes} min {seconds} s")
        print(f"{self.passed} passed, {len(self.failed)} failed", flush=True)
        return 1 if self.failed else 0
