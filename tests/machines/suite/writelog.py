"""The order of a disk's writes, as QEMU's driver blklogwrites records it, and its replay.

The log has the format of the kernel's dm-log-writes: a super block, then for each request a
header of one sector, followed by its data. A flush is a request without data. After a power cut a
disk holds all writes before its last completed flush, and any of the later ones.
"""

import mmap
import random
import struct
from typing import NamedTuple

from .commands import Failed

MAGIC, VERSION = 0x6A736677736872, 1
SUPER, HEADER = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
FLUSH, DISCARD = 1, 4


class Request(NamedTuple):
    """One request: where it writes, and where the log has its data."""

    offset: int
    length: int
    flags: int
    position: int

    def is_flush(self):
        """Checks if all earlier writes are durable after this request."""
        return bool(self.flags & FLUSH)


class WriteLog:
    """A log that is complete, since QEMU has ended in order."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, version, count, self.sector = SUPER.unpack_from(self.data)
        if (magic, version) != (MAGIC, VERSION):
            raise Failed(f"{path} is no log of writes")
        self.requests = list(self.read_requests(count))

    def read_requests(self, count):
        """Reads the headers, one after the other."""
        position = self.sector
        for _ in range(count):
            sector, sectors, flags, _ = HEADER.unpack_from(self.data, position)
            length = sectors * self.sector
            position += self.sector
            yield Request(sector * self.sector, length, flags, position)
            # A discard has a length and no data.
            if not flags & DISCARD:
                position += length

    def flushes(self):
        """Returns the number of requests up to and with each flush."""
        return [number for number, request in enumerate(self.requests, 1) if request.is_flush()]

    def find(self, text):
        """Returns the number of requests before the first one that writes a text, or nothing."""
        for number, request in enumerate(self.requests):
            if request.flags & DISCARD or not request.length:
                continue
            if self.data.find(text, request.position, request.position + request.length) >= 0:
                return number
        return None

    def replay(self, disk, requests):
        """Carries out requests on a disk, in order."""
        with open(disk, "r+b") as file:
            for request in requests:
                file.seek(request.offset)
                if request.flags & DISCARD:
                    file.write(bytes(request.length))
                else:
                    end = request.position + request.length
                    file.write(self.data[request.position:end])

    def lost_some(self, begin, end, seed):
        """Returns a random half of the requests of a range: a disk may write in any order."""
        generator = random.Random(seed)
        return [request for request in self.requests[begin:end] if generator.random() < 0.5]
