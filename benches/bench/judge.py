"""Summary of the differences between node and image, as reported by rsync."""

import collections
import os
import subprocess

JUDGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "judge")
# by position in rsync's itemised form YXcstpoguax
FLAGS = {2: "content", 3: "content", 4: "times", 5: "modes", 6: "owners", 7: "owners", 9: "ACLs", 10: "attributes"}
KINDS = {"f": "files", "d": "directories", "L": "symlinks", "D": "devices", "S": "FIFOs"}


def judge(image, node):
    """The counts of differences, largest first; "" if NODE equals IMAGE."""
    done = subprocess.run([JUDGE, image, node], capture_output=True, check=False)
    if done.returncode == 0:
        return ""
    lines = done.stdout.decode(errors="replace").splitlines()
    counts = collections.Counter(kind for line in lines for kind in verdict(line))
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common()) or done.stderr.decode()[-200:]


def verdict(line):
    """The kinds of difference in one itemised line."""
    letters = line.split(" ", 1)[0]
    if letters == "*deleting":
        return {"too many"}
    if letters[0] == "h":
        return {"hardlinks"}
    if len(letters) < 11:
        return {"not comparable"}
    if letters[2] == "+":
        return {f"{KINDS.get(letters[1], 'entries')} missing"}
    return {kind for place, kind in FLAGS.items() if letters[place] not in ". "} or {"entries"}
