"""How long a tree was neither the old nor the new one."""

import os


def span(tree, since):
    """Milliseconds between the first and the last ctime below TREE after SINCE, in ns.

    What came by a rename has the ctime of that, a directory that of the last change in it or of it. It is
    less than the truth: of what changed twice only the last time is seen, and of what was removed only the
    directory. Of a tool that fills a stage first it would be more: what comes in a new directory was
    written to it before that came.
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
