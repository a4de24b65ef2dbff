"""The frame of both forms: arguments, signals, directories, and the exit code."""

import argparse
import os
import signal
import sys

from .commands import Failed
from .steps import Steps
from .workspace import Workspace


def main(name, description, run, scenarios=()):
    """Runs a form and returns its exit code. `run` receives the names of the chosen scenarios."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", metavar="DIR",
                        help="for images, disks and logs, 6 GB (target/machines)")
    if scenarios:
        parser.add_argument("--only", metavar="NAME,...", default=",".join(scenarios),
                            help="these scenarios alone: " + ", ".join(scenarios))
    options = parser.parse_args()
    chosen = options.only.split(",") if scenarios else []
    for scenario in chosen:
        if scenario not in scenarios:
            parser.error(f"no scenario is called {scenario}")
    if os.geteuid() != 0:
        parser.error("loop devices and owners of files need root")

    # A signal unwinds the stack, which ends all processes and mounts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Workspace(name, options.dir) as workspace:
        steps = Steps(workspace.log)
        try:
            run(workspace, steps, chosen)
        except Failed:
            pass
        except KeyboardInterrupt:
            return 130
        return steps.summary()
