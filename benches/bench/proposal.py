"""The original proposal's table: the cost of making a diff, against a full tar of the image.

The proposal compared, from a cold disk, a full tar, the same compressed, and its diff: the base's tar,
compressed or not, is compared with the image's tree, and the differences are packed. Ours are beside it, from
the same bases and from others that the proposal did not have. All packs are written to a file.
"""

import os

from .measure import Failed, cold, run, shell, timed
from .peers.ours import efforts, knows

TAR = "--format=posix --numeric-owner --xattrs --xattrs-include=* --acls"
DIFFERS = "(Mod time|Size|Contents|Uid|Gid|Mode|File type|Symlink|Device number) differs?|Not linked to .*"

# $1 the base's tar, $2 the image, $3 the working directory, $4 the pack
THE_PROPOSALS = (
    f'cd "$2"; set -f; export LC_ALL=C; tar -dv {TAR} --quoting-style=literal -f "$1" >"$3/output" 2>&1 || true; '
    f'sed -nE "s/: ({DIFFERS})\\$//p" "$3/output" | sort -u >"$3/changed"; '
    'sed -nE "s/^tar: (.*): Warning: Cannot [a-z]+: No such file.*/\\1/p" "$3/output" | sort -u >"$3/deleted"; '
    f'grep -vE "^tar: |: ({DIFFERS})\\$" "$3/output" | sed "s,/\\$,," | sort -u >"$3/named"; '
    'find . | sort | comm -13 "$3/named" - >>"$3/changed"; '
    f'tar -cz {TAR} --no-recursion --verbatim-files-from -T "$3/changed" -f "$4" -C "$3" deleted'
)


def rows(pair, options, bases):
    """{row: command that writes $pack}."""
    pack = f"{pair.work}/pack"
    known = {
        "full tar": shell(f'set -f; tar -c {TAR} -C "$1" -f "$2" .', pair.new, f"{pack}.tar"),
        "full tar, gzip": shell(f'set -f; tar -cz {TAR} -C "$1" -f "$2" .', pair.new, f"{pack}.tar.gz"),
    }
    for base in ("image.tar.gz", "image.tar"):
        known[f"the proposal's diff from {base}"] = shell(
            THE_PROPOSALS, bases[base], pair.new, pair.work, f"{pack}.tar.gz"
        )
    si_tardiff = f"{options.bin}/si_tardiff"
    # if deltas need an option, only a directory can be their source
    deltas = {"directory": ["--deltas"]} if knows(si_tardiff, "build", "--deltas") else {}
    for effort, how in efforts(si_tardiff, "build").items():
        for base, path in bases.items():
            name = f"ours, {effort}, from {base}"
            more = [*how, *deltas.get(base, ())]
            known[name] = [si_tardiff, "build", *more, path, pair.new, "-o", f"{pack}.tar.zst"]
            if effort == "normal" and base.startswith("image.tar"):
                known[name + ", as .tar.gz"] = [*known[name][:-1], f"{pack}.tar.gz"]
    return known


def make_bases(pair, options):
    """OLD in each form that a diff can start from."""
    made = {name: f"{pair.work}/base/{name}" for name in ("image.tar.gz", "image.tar", "manifest")}
    os.makedirs(f"{pair.work}/base")
    run("tar", "-cf", made["image.tar"], *TAR.split(), "-C", pair.old, ".")
    run("bash", "-c", 'gzip <"$1" >"$2"', "bench", made["image.tar"], made["image.tar.gz"])
    manifest = made["manifest"] + ".mtree"
    run(
        "bash",
        "-c",
        '"$1" manifest --quiet --canonical "$2" >"$3"',
        "bench",
        f"{options.bin}/si_tardiff",
        pair.old,
        manifest,
    )
    return {**made, "manifest": manifest, "directory": pair.old}


def measure(pair, options, known, say):
    """Measures each row from a cold cache, by turns, into KNOWN. A failed row is recorded; slow ones run once."""
    try:
        bases = make_bases(pair, options)
    except Failed as why:
        known["failed"]["proposal"] = str(why)
        return
    pack = f"{pair.work}/pack"
    failed = known["failed"]
    for turn in range(options.turns):
        for row, command in rows(pair, options, bases).items():
            if row in failed or (turn and row.startswith("ours, best")):
                continue
            for suffix in (".tar", ".tar.gz", ".tar.zst"):
                run("rm", "-f", pack + suffix)
            cold()
            try:
                cost = timed(command, sync=pair.work)
            except Failed as why:
                failed[row] = str(why)
                say(f"{pair.name} {row} FAILED: {why}")
                continue
            cost["size"] = next(
                os.path.getsize(pack + s) for s in (".tar", ".tar.gz", ".tar.zst") if os.path.exists(pack + s)
            )
            known["proposal"].setdefault(row, []).append(cost)
            say(f"{pair.name} {row}: {cost['wall']:.2f} s, {cost['size'] / 1e6:.1f} MB")
    run("rm", "-rf", f"{pair.work}/base", pack + ".tar", pack + ".tar.gz", pack + ".tar.zst")
