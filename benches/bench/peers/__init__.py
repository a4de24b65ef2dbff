"""Every way there is, in the order of the tables."""

from .casync import Casync
from .ostree import OSTree
from .ours import Best, BestOneProcessor, Fast, Normal, NormalOneProcessor, Switch, Touched
from .perfile import Bsdiff, Xdelta
from .rsync import Batch, Checksum, Compressed, OldClient
from .tars import ChangedGzip, ChangedZstd, PatchFrom, PatchFromHardest

ALL = (
    Fast, Normal, Touched, Switch, NormalOneProcessor, Best, BestOneProcessor,
    OldClient, Compressed, Checksum, Batch,
    ChangedGzip, ChangedZstd, PatchFrom, PatchFromHardest,
    OSTree, Casync, Xdelta, Bsdiff,
)  # fmt: skip
PEERS = {peer.name: peer for peer in ALL}
OURS = tuple(name for name in PEERS if name.startswith("ours-"))
