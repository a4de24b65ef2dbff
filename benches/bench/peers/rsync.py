"""rsync: from the image server's daemon, as the old client called it, and by batch files."""

from ..daemons import RSYNC
from ..measure import shell
from ..network import SERVER
from .peer import Peer

MODULE = f"rsync://{SERVER}:{RSYNC}/node/"
OLD_CLIENT = ("-aHS", "--exclude-from=/dev/null", "--delete", "--numeric-ids")
EVERYTHING = ("-aHAX", "--delete", "--numeric-ids", "--modify-window=-1")


class Rsync(Peer):
    """rsync asks the daemon; the old client's options, and more."""

    tools = ("rsync",)
    origin = "rsync"
    leaves_out = "extended attributes, ACLs, capabilities"
    more = ()

    def update(self):
        return ["rsync", *OLD_CLIENT, *self.more, MODULE, f"{self.pair.node}/"]


class OldClient(Rsync):
    name = "rsync"
    title = "`rsync " + " ".join(OLD_CLIENT) + "`, as the old client called it"
    everywhere = True


class Compressed(Rsync):
    name = "rsync-z"
    title = "as `rsync`, with `-z`"
    more = ("-z",)
    everywhere = True


class Checksum(Rsync):
    name = "rsync-checksum"
    title = "as `rsync`, with `--checksum`"
    more = ("--checksum",)


class Batch(Peer):
    """rsync's own recording of an update, which any number of nodes can play."""

    name = "rsync-batch"
    title = "`rsync " + EVERYTHING[0] + " --only-write-batch`, `zstd -9`, `--read-batch` on the node"
    tools = ("rsync", "zstd", "curl")

    def before_build(self):
        self.clean()
        self.prepare()

    def build(self):
        record = (
            'rsync "${@:4}" --no-whole-file --only-write-batch="$3/batch" "$2/" "$1/" && zstd -q -T0 -9 --rm "$3/batch"'
        )
        return {"build": shell(record, self.pair.old, self.pair.new, self.store, *EVERYTHING)}

    def update(self):
        play = 'curl -sSf "$1" | zstd -dc | rsync "${@:3}" --read-batch=- "$2/"'
        return shell(play, f"{self.url}/batch.zst", self.pair.node, *EVERYTHING)
