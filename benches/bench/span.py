"""The time during which a tree is neither the old nor the new one."""

import os


def span(tree, since):
    """Milliseconds between the first and the last ctime below TREE after SINCE, in ns.

    A rename sets the ctime of the file, and each change of an entry that of its directory. The result is a
    lower bound: an entry that changed twice shows the last time only, and a removed one only its directory. For
    a tool that stages first it would be an upper bound: files in a new directory are older than its rename.
    """
    first, last = None, None
    paths = [tree]
    while paths:
        with os.scandir(paths.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    paths.append(entry.path)
                changed = entry.stat(follow_symlinks=False).st_ctime_ns
                if changed > since:
                    first, last = min(changed, first or changed), max(changed, last or changed)
    return (last - first) / 1e6 if first else 0.0
