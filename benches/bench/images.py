"""Image generations of a real Debian node."""

import contextlib
import glob
import os
import shutil
import subprocess
import sys
import typing

from .measure import Failed, run

# a node of a cluster: services, and the tools of its users
PACKAGES = (
    "linux-image-amd64", "initramfs-tools", "systemd-sysv", "openssh-server", "rsync", "python3", "perl", "gcc", "make",
    "vim-nox", "git", "curl", "ca-certificates", "sudo", "chrony", "munge", "iproute2", "iputils-ping", "htop", "lsof",
    "strace", "tcpdump", "attr", "libcap2-bin", "man-db", "manpages-dev", "locales", "nfs-common", "slurm-client",
    "environment-modules", "g++", "gfortran", "gdb", "cmake", "openmpi-bin", "libopenmpi-dev", "python3-numpy",
    # initramfs-tools recommends it, and compresses with gzip without it; no real node has such an initrd
    "zstd",
)  # fmt: skip
QUIET = ["apt-get", "-qq", "-y", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
# maintainer scripts ask no questions and start no services
SURROUNDINGS = {
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
}


# releases of Debian that are measured, in the order of the reports, with their titles
SUITES = {"bookworm": "Debian 12 (bookworm)", "trixie": "Debian 13 (trixie)"}
DEFAULT_SUITE = "bookworm"
APT_CACHES = ("var/lib/apt/lists", "var/cache/apt")


class Recipe(typing.NamedTuple):
    """The inputs of the generations; a mirror of None is the one of this machine's apt."""

    suite: str = DEFAULT_SUITE
    mirror: typing.Optional[str] = None
    security: typing.Optional[str] = None
    packages: typing.Sequence = PACKAGES
    more: str = "tree"
    less: str = "htop"


DEFAULT = Recipe()


def make(directory, recipe=DEFAULT):
    """Makes g1, g2 and g3 below DIRECTORY, renames each when it is complete, and prints its size."""
    if not shutil.which("mmdebstrap"):
        raise Failed("mmdebstrap is not installed")
    directory = os.path.abspath(directory)
    os.makedirs(directory, exist_ok=True)
    mirror = recipe.mirror or mirror_of(recipe.suite)
    security = recipe.security or mirror_of(f"{recipe.suite}-security")
    root = f"{directory}/growing"
    shutil.rmtree(root, ignore_errors=True)
    try:
        bootstrap(root, recipe, mirror)
        keep(root, f"{directory}/g1")
        patch_day(root, recipe, mirror, security)
        keep(root, f"{directory}/g2")
        tiny_change(root, recipe)
        keep(root, f"{directory}/g3")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def mirror_of(suite):
    """The mirror of SUITE in this machine's apt, or the one of the same archive of another release."""
    wanted = (suite, *related(suite))
    for attempt in ("as it is", "after an update"):
        if attempt != "as it is":
            run("apt-get", "-q", "update")
        mirrors = mirrors_of_apt()
        for name in wanted:
            if name in mirrors:
                return mirrors[name]
    raise Failed(f"apt on this machine has none of {', '.join(wanted)}: name a mirror")


def related(suite):
    """The archive of SUITE in other releases, as trixie-security is that of bookworm-security."""
    release, dash, archive = suite.partition("-")
    return [f"{other}{dash}{archive}" for other in SUITES if other != release] if release in SUITES else []


def mirrors_of_apt():
    """{name of a suite: its mirror} in this machine's apt."""
    asked = [
        "apt-get",
        "indextargets",
        "--format",
        "$(CODENAME) $(SUITE) $(RELEASE) $(REPO_URI)",
        "Created-By: Packages",
    ]
    mirrors = {}
    for line in run(*asked).decode().splitlines():
        *names, address = line.split()
        for name in names:
            mirrors.setdefault(name, address.rstrip("/"))
    return mirrors


def bootstrap(root, recipe, mirror):
    include = "--include=" + ",".join(recipe.packages)
    source = f"deb {mirror} {recipe.suite} main"
    run("mmdebstrap", "--quiet", "--mode=root", "--variant=apt", include, recipe.suite, root, source)
    # two kinds of attributes that a plain copy loses
    run("setfattr", "-n", "user.image", "-v", "node", f"{root}/etc/hostname")
    with contextlib.suppress(Failed):
        run("setcap", "cap_net_raw+ep", os.path.realpath(f"{root}/usr/bin/ping"))
    with inhabited(root):
        pass


def patch_day(root, recipe, mirror, security):
    suites = f"deb {mirror} {recipe.suite}-updates main\ndeb {security} {recipe.suite}-security main\n"
    write(f"{root}/etc/apt/sources.list.d/updates.list", suites)
    with inhabited(root) as within:
        before = kernels(root)
        within(*QUIET, "update")
        within(*QUIET, "full-upgrade")
        newest = kernels(root) - before
        if newest:
            within(*QUIET, "purge", *sorted(before))
        within(*QUIET, "--purge", "autoremove")
    if not newest:
        print("make-images: the updates bring no new kernel today", file=sys.stderr)
    require_one_kernel(root)


def require_one_kernel(root):
    """Fails if the removal of the old kernel left files of it."""
    for kind in ("boot/vmlinuz-*", "boot/initrd.img-*", "usr/lib/modules/*"):
        found = glob.glob(f"{root}/{kind}")
        if len(found) > 1:
            raise Failed(f"the old kernel was not removed: {', '.join(sorted(found))}")


def kernels(root):
    """Packages of installed kernels, without the one that only names the newest."""
    format_ = "${db:Status-Status} ${Package}\\n"
    asked = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-Wf", format_, "linux-image-[0-9]*"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return {line.split()[1] for line in found.splitlines() if line.startswith("installed ")}


def tiny_change(root, recipe):
    with inhabited(root) as within:
        within(*QUIET, "update")
        within(*QUIET, "install", recipe.more)
        within(*QUIET, "remove", recipe.less)
    with open(f"{root}/etc/profile", "a", encoding="ascii") as profile:
        profile.write("export EDITOR=vim\n")
    write(f"{root}/etc/sysctl.d/60-node.conf", "vm.swappiness = 10\n")


@contextlib.contextmanager
def inhabited(root):
    """Runs commands inside ROOT, with /proc and name resolution; cleans ROOT up afterwards."""
    policy, resolver, proc = f"{root}/usr/sbin/policy-rc.d", f"{root}/etc/resolv.conf", f"{root}/proc"
    write(policy, "#!/bin/sh\nexit 101\n")
    os.chmod(policy, 0o755)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(resolver)
    shutil.copyfile("/etc/resolv.conf", resolver)
    run("mount", "-t", "proc", "proc", proc)
    try:
        yield lambda *command: run("chroot", root, *command, env=SURROUNDINGS)
    finally:
        run("umount", "-l", proc)
        os.unlink(policy)
        write(resolver, "")
        run("chroot", root, "apt-get", "clean", env=SURROUNDINGS)
        for left in APT_CACHES:
            for name in os.listdir(f"{root}/{left}"):
                path = f"{root}/{left}/{name}"
                if os.path.isdir(path):
                    run("find", path, "-type", "f", "-delete")
                else:
                    os.unlink(path)


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def keep(root, generation):
    """Copies ROOT to GENERATION, which is renamed into place when complete."""
    for cache in APT_CACHES:
        if run("find", f"{root}/{cache}", "-type", "f", "-print", "-quit"):
            raise Failed(f"{root}/{cache} is not clean")
    run("rm", "-rf", generation, generation + ".part")
    run("cp", "-a", "--reflink=auto", root, generation + ".part")
    os.rename(generation + ".part", generation)
    entries = len(run("find", generation, "-printf", ".").strip())
    size = int(run("du", "-sb", generation).split()[0])
    print(f"{generation}: {entries:,} entries, {size / 1e6:,.0f} MB", file=sys.stderr)
