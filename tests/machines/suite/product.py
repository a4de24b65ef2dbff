"""The programs under test inside the images."""

import glob
import os
import shutil

from . import images
from .commands import Failed, remove_tree, run
from .images import Images, digest, inhabited, read_source
from .workspace import TOP

# Everything that ends up in an image; a change of one of them makes new images.
INPUTS = ("target/release/si_updateclient", "target/release/si_tardiff", "packaging", "etc",
          "Makefile")  # fmt: skip
AGENT = os.path.join(TOP, "target/release/si_updateclient")
PUBLISHER = os.path.join(TOP, "target/release/si_tardiff")


def images_with_product(workspace, recipe=images.Recipe()):
    """Returns both generations with the product installed; makes them if they are not cached."""
    base = images.base_images(workspace, recipe)
    key = digest(read_source(__file__), os.path.basename(os.path.dirname(base.first)), inputs())
    top = workspace.cached(f"images-{recipe.name}", key, lambda part: make(part, base))
    return Images(f"{top}/1", f"{top}/2", base.kernels)


def make(top, base):
    """Copies both generations and installs the product in the copies."""
    remove_tree(top)
    os.makedirs(top)
    for number, source in enumerate((base.first, base.second), 1):
        run("cp", "-ax", source, f"{top}/{number}")
        install(f"{top}/{number}/node")


def inputs():
    """Returns a digest of each file of the product."""
    paths = [os.path.join(TOP, name) for name in INPUTS]
    for path in paths:
        if not os.path.exists(path):
            raise Failed(f"{path} is missing; run make deb")
    package = client_package()
    return run("find", *([package] if package else paths), "-type", "f",
               "-exec", "sha256sum", "{}", "+")


def client_package():
    """Returns the Debian package of the agent, or nothing if it was not built from this build."""
    found = glob.glob(os.path.join(TOP, "target/packages/systemimager-diff-client_*.deb"))
    newest = max(found, key=os.path.getmtime, default=None)
    if newest and os.path.getmtime(newest) >= os.path.getmtime(AGENT):
        return newest
    return None


def install(root):
    """Installs the product into one image, with recovery at boot and the timer's files."""
    package = client_package()
    if package:
        install_package(root, package)
    else:
        run("make", "-C", TOP, "-o", "all", "-o", "man", "install", "install-recovery",
            "install-timer", f"DESTDIR={root}")
    # An image with this file would replace that of each node, which names the ports of a run.
    os.unlink(f"{root}/etc/systemimager/updateclient.toml")
    with inhabited(root) as within:
        within("systemctl", "enable", "si-recover.service")
        if os.path.exists(f"{root}/usr/sbin/update-initramfs"):
            within("update-initramfs", "-u", "-k", "all")
        if os.path.exists(f"{root}/usr/bin/dracut"):
            for kernel in os.listdir(f"{root}/lib/modules"):
                within("dracut", "--force", "--kver", kernel, f"/boot/initrd.img-{kernel}")
    images.clean(root)


def install_package(root, package):
    """Installs the package as an administrator does, with the packages that it depends on."""
    shutil.copyfile(package, f"{root}/tmp/client.deb")
    with inhabited(root) as within:
        within(*images.QUIET, "update")
        within(*images.QUIET, "install", "--no-install-recommends", "/tmp/client.deb")
    os.unlink(f"{root}/tmp/client.deb")
