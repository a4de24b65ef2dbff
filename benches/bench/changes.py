#!/usr/bin/env python3
"""Differences of the trees OLD and NEW by names, sizes and times only, as a backup would list them.

As a script, changes.py OLD NEW OUT writes lists of paths, each terminated by NUL:

  OUT/deleted   paths that NEW lacks or has as another type
  OUT/changed   new and differing paths; each directory in which a name was added or removed, since its
                time must be set again; all links of a listed file

This is the original proposal's list, made by a walk of both trees. It is cheap, and misses a change
that preserves size and time.
"""

import os
import stat
import sys


class Tree(dict):
    """Paths (bytes) of a tree with their lstat, and its hardlinks by inode."""

    def __init__(self, top):
        super().__init__()
        self.top, self.links = os.fsencode(top), {}
        self.walk(b"")

    def walk(self, below):
        with os.scandir(os.path.join(self.top, below)) as entries:
            for entry in entries:
                path = os.path.join(below, entry.name)
                seen = self[path] = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(seen.st_mode):
                    self.walk(path)
                elif seen.st_nlink > 1:
                    self.links.setdefault(seen.st_ino, []).append(path)

    def look(self, path):
        """All properties of an entry that need no read of its content."""
        seen = self[path]
        kind = stat.S_IFMT(seen.st_mode)
        common = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns)
        if kind == stat.S_IFDIR:
            return common
        if kind == stat.S_IFLNK:
            return (*common, os.readlink(os.path.join(self.top, path)))
        return (*common, seen.st_rdev, seen.st_size, tuple(sorted(self.links.get(seen.st_ino, ()))))


def compare(old, new):
    """(deleted, changed), each directory before its entries."""

    def kind(tree, path):
        return stat.S_IFMT(tree[path].st_mode)

    deleted = [path for path in old if path not in new or kind(old, path) != kind(new, path)]
    changed = {path for path in new if path not in old or old.look(path) != new.look(path)}
    for path in list(changed):
        changed.update(new.links.get(new[path].st_ino, ()) if not stat.S_ISDIR(new[path].st_mode) else ())
    for path in [*deleted, *changed]:
        parent = os.path.dirname(path)
        if parent in new:
            changed.add(parent)

    # by component: tar sets a directory's time when it meets the first path that is not in it any more
    def components(path):
        return path.split(b"/")

    return sorted(deleted, key=components), sorted(changed, key=components)


def main(old, new, out):
    lists = compare(Tree(old), Tree(new))
    os.makedirs(out, exist_ok=True)
    for name, paths in zip(("deleted", "changed"), lists):
        with open(f"{out}/{name}", "wb") as file:
            file.writelines(path + b"\0" for path in paths)


if __name__ == "__main__":
    main(*sys.argv[1:])
