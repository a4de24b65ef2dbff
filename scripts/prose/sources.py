"""The files that are measured, and the language of each."""

import os
import re
import subprocess
from typing import NamedTuple

RUST, MARKDOWN, SHELL, PYTHON, OTHER = "rust", "markdown", "shell", "python", "other"

BY_SUFFIX = {".rs": RUST, ".md": MARKDOWN, ".sh": SHELL, ".py": PYTHON}

# Frozen samples, licence texts and generated files.
EXCLUDED = re.compile(r"^tests/testdata/|(^|/)LICENSE[^/]*$|(^|/)Cargo\.lock$|\.svg$")

SHELLS = re.compile(r"^#!.*\b(sh|bash|dash|ash)\b")


class Source(NamedTuple):
    """One file, decoded; `path` is relative to the root."""

    path: str
    language: str
    text: str


def read_sources(root):
    """Reads every measured file below `root`, sorted by path."""
    for path in sorted(set(tracked_files(root) or walked_files(root))):
        full = os.path.join(root, path)
        if EXCLUDED.search(path) or os.path.islink(full) or not os.path.isfile(full):
            continue

        with open(full, "rb") as file:
            content = file.read()

        # Binary files have no prose.
        if b"\0" not in content:
            text = content.decode("utf-8", "replace")
            yield Source(path, language_of(path, text), text)


def tracked_files(root):
    """Returns the paths that git tracks, or nothing if `root` is no checkout."""
    command = ["git", "-C", root, "ls-files", "-z"]
    try:
        listing = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []

    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def walked_files(root):
    """Returns all paths of an unpacked source archive, without build results."""
    paths = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in ("target", "__pycache__", ".git")]
        paths += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return paths


def language_of(path, text):
    """Recognizes a language by the suffix, or by the first line of a script."""
    suffix = os.path.splitext(path)[1]
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]

    first_line = text.split("\n", 1)[0]
    if not first_line.startswith("#!"):
        return OTHER
    if "python" in first_line:
        return PYTHON
    return SHELL if SHELLS.match(first_line) else OTHER
