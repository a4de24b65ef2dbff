#!/usr/bin/env python3
"""Deltas file by file, by a tool that compares two files.

  perfile.py TOOL build OLD NEW OUT     on the server
  perfile.py TOOL apply TREE IN WORK    on the node, with the fetched files in IN

OUT/deleted lists the removed paths. OUT/deltas.tar holds a delta for each path in both trees whose content
differs, and `times`, the metadata of these files and of those that differ in metadata only.
OUT/whole.tar.zst (-19) has all other paths, directories included, and each file whose delta is not smaller.
"""

import concurrent.futures
import filecmp
import json
import os
import shutil
import stat
import subprocess
import sys

import changes

COMPLETE = ["--format=posix", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--selinux"]
# -D, -R: by default xdelta3 decompresses gzip files and compresses them again to different bytes
TOOLS = {
    "xdelta3": (
        lambda old, new, delta: ["xdelta3", "-q", "-9", "-D", "-f", "-e", "-s", old, new, delta],
        lambda old, new, delta: ["xdelta3", "-q", "-D", "-R", "-f", "-d", "-s", old, delta, new],
    ),
    "bsdiff": (
        lambda old, new, delta: ["bsdiff", old, new, delta],
        lambda old, new, delta: ["bspatch", old, new, delta],
    ),
}


def metadata(path):
    seen = os.lstat(path)
    attributes = {name: os.getxattr(path, name).hex() for name in os.listxattr(path)}
    return [stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, attributes]


def set_metadata(path, mode, uid, gid, mtime, attributes):
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    for name, value in attributes.items():
        os.setxattr(path, name, bytes.fromhex(value))
    os.utime(path, ns=(mtime, mtime))


def build(encode, old, new, out):
    trees = [changes.Tree(tree) for tree in (old, new)]
    deleted, changed = changes.compare(*trees)
    old, new, out = map(os.fsencode, (old, new, out))
    os.makedirs(out + b"/deltas", exist_ok=True)

    def alone(tree, path):
        return path in tree and stat.S_ISREG(tree[path].st_mode) and tree[path].st_nlink == 1

    def delta(numbered):
        """The line of a file in `times`; None if it must be sent whole."""
        number, path = numbered
        sides = [os.path.join(old, path), os.path.join(new, path)]
        line = [path.hex(), None, *metadata(sides[1])]
        if filecmp.cmp(*sides, shallow=False):
            return line
        made = out + b"/deltas/%d" % number
        subprocess.run(encode(*sides, made), check=True, stdout=subprocess.DEVNULL)
        if os.path.getsize(made) >= os.path.getsize(sides[1]):
            os.unlink(made)
            return None
        return [line[0], number, *line[2:]]

    both = [path for path in changed if all(alone(tree, path) for tree in trees) and trees[1][path].st_size]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        lines = list(pool.map(delta, enumerate(both)))
    travels = set(changed) - {path for path, line in zip(both, lines) if line}
    with open(out + b"/deltas/times", "w", encoding="ascii") as file:
        json.dump([line for line in lines if line], file, separators=(",", ":"))
    with open(out + b"/deleted", "wb") as file:
        file.writelines(path + b"\0" for path in deleted)
    subprocess.run([b"tar", b"-C", out + b"/deltas", b"-cf", out + b"/deltas.tar", b"."], check=True)
    names = b"".join(path + b"\0" for path in changed if path in travels)
    tar = ["tar", "-C", new, "-I", "zstd -q -T0 -19", "-cf", out + b"/whole.tar.zst", *COMPLETE]
    subprocess.run([*tar, "--no-recursion", "--null", "--verbatim-files-from", "-T", "-"], input=names, check=True)
    shutil.rmtree(out + b"/deltas")


def apply(decode, tree, fetched, work):
    tree = os.fsencode(tree)
    with open(f"{fetched}/deleted", "rb") as file:
        for path in file.read().split(b"\0")[:-1]:
            target = os.path.join(tree, path)
            if os.path.isdir(target) and not os.path.islink(target):
                shutil.rmtree(target)
            elif os.path.lexists(target):
                os.unlink(target)
    subprocess.run(["tar", "-C", work, "-xf", f"{fetched}/deltas.tar"], check=True)
    with open(f"{work}/times", encoding="ascii") as file:
        lines = json.load(file)
    for name, number, *described in lines:
        target = os.path.join(tree, bytes.fromhex(name))
        if number is not None:
            made = target + b".new"
            subprocess.run(decode(target, made, f"{work}/{number}"), check=True, stdout=subprocess.DEVNULL)
            os.rename(made, target)
        set_metadata(target, *described)
    whole = ["tar", "-C", tree, "-I", "zstd -d", "-xpf", f"{fetched}/whole.tar.zst", *COMPLETE, "--same-owner"]
    subprocess.run(whole, check=True)


def main(tool, job, *directories):
    encode, decode = TOOLS[tool]
    if job == "build":
        build(encode, *directories)
    else:
        apply(decode, *directories)


main(*sys.argv[1:])
