"""Tars: of the changed files, as in the original proposal, and of the whole image against the old tar."""

import os
import sys

from ..measure import run, shell
from .peer import Peer

CHANGES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "changes.py")
COMPLETE = "--format=posix --numeric-owner --xattrs --xattrs-include=* --acls --selinux"
# the same tree gives the same bytes
REPRODUCIBLE = f"{COMPLETE} --sort=name --pax-option=delete=atime,delete=ctime"


class ChangedFiles(Peer):
    """A list of removed paths, and a tar of changed ones."""

    compressor = decompressor = suffix = ""

    def before_build(self):
        self.clean()
        self.prepare()

    def build(self):
        make = (
            f'"$4" -I "$5" "$1" "$2" "$3"; cd "$2"; set -f; '
            f'tar -c {COMPLETE} --no-recursion --null --verbatim-files-from -T "$3/changed" | '
            f'{self.compressor} >"$3/changed.tar{self.suffix}"; '
            f'{self.compressor} <"$3/deleted" >"$3/deleted{self.suffix}"'
        )
        return {"build": shell(make, self.pair.old, self.pair.new, self.store, sys.executable, CHANGES)}

    def update(self):
        unpack = (
            f'cd "$2"; set -f; curl -sSf "$1/deleted{self.suffix}" | {self.decompressor} | xargs -0 -r rm -rf --; '
            f'curl -sSf "$1/changed.tar{self.suffix}" | {self.decompressor} | tar -xp {COMPLETE} --same-owner'
        )
        return shell(unpack, self.url, self.pair.node)


class ChangedGzip(ChangedFiles):
    name = "tar-gzip"
    title = "list of deleted, tar of changed files, `gzip` (the original proposal's way)"
    tools = ("tar", "gzip", "curl")
    compressor, decompressor, suffix = "gzip", "gzip -dc", ".gz"


class ChangedZstd(ChangedFiles):
    name = "tar-zstd"
    title = "as `tar-gzip`, by `zstd -19`"
    tools = ("tar", "zstd", "curl")
    patient = True
    compressor, decompressor, suffix = "zstd -q -T0 -19", "zstd -dc", ".zst"


class PatchFrom(Peer):
    """The whole image as a tar, compressed with the old tar as its dictionary; the node makes that from its tree."""

    name = "zstd-patch"
    title = "tar of the image, `zstd -9 --long=31 --patch-from` the old one; the node tars its tree, unpacks beside it"
    tools = ("tar", "zstd", "curl")
    in_place = False
    level = 9

    def prepare(self):
        super().prepare()
        self.tar(self.pair.old, f"{self.store}/old.tar")

    @staticmethod
    def tar(tree, archive):
        run("tar", "-cf", archive, *REPRODUCIBLE.split(), "-C", tree, ".")

    def build(self):
        make = (
            f'set -f; tar -cf "$2/new.tar" {REPRODUCIBLE} -C "$1" .; '
            f'zstd -q -f -{self.level} --long=31 --patch-from="$2/old.tar" "$2/new.tar" -o "$2/patch.zst"; '
            'rm "$2/new.tar"'
        )
        return {"build": shell(make, self.pair.new, self.store)}

    def before_update(self):
        super().before_update()
        os.makedirs(self.result())

    def update(self):
        patch = (
            f'set -f; tar -cf "$3/old.tar" {REPRODUCIBLE} -C "$2" .; curl -sSf "$1/patch.zst" -o "$3/patch.zst"; '
            'zstd -q -d --long=31 --memory=2048MB --patch-from="$3/old.tar" "$3/patch.zst" -c | '
            f'tar -xp {COMPLETE} --same-owner -C "$3/new"; rm "$3/old.tar" "$3/patch.zst"'
        )
        return shell(patch, self.url, self.pair.node, self.beside)

    def result(self):
        return f"{self.beside}/new"


class PatchFromHardest(PatchFrom):
    """The same, as small as zstd makes it without its ultra levels."""

    name = "zstd-patch-19"
    title = "as `zstd-patch`, at level 19"
    patient = True
    level = 19
