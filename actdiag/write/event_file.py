"""An event file of our own on a local disk, in TensorBoard's format.

A record is its length, the checksum of the length, the bytes, and their checksum. TensorBoard's EventFileWriter does
the same in a thread, for any file system. Here there is no thread and no queue: what is added lies in memory until the
next flush, which a second without one brings about, and an error comes to whoever adds.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from itertools import count
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata

from actdiag.write.crc import masked_crc32c

_FLUSH_SECONDS = 1.0
_MOST_BYTES = 1 << 20
_NUMBERS = count()


class EventFile:
    """Opens a file in `log_dir`, which is made. Raises OSError where that, or a write, cannot be.

    Of a process that was forked from the one that opened it nothing is written: the file is not its own.
    """

    def __init__(self, log_dir: str | Path) -> None:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._file = open(Path(log_dir) / f"{name}.actdiag", "xb", buffering=0)  # noqa: SIM115
        self._owner = os.getpid()
        self._waiting = bytearray()
        self._flushed = time.monotonic()
        version = Event(
            wall_time=time.time(), file_version="brain.Event:2", source_metadata=SourceMetadata(writer="actdiag")
        )
        self.add(version)
        self.flush()

    def add(self, event: Event) -> None:
        """Add an event; flush if a second has gone by since the last flush, or if a megabyte waits."""
        self._waiting += framed(event.SerializeToString())
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS or len(self._waiting) >= _MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Give what waits to the operating system. What could not be written is not tried again."""
        waiting, self._waiting = memoryview(bytes(self._waiting)), bytearray()
        self._flushed = time.monotonic()
        while waiting and self._owner == os.getpid():
            waiting = waiting[self._file.write(waiting) :]

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()


def framed(data: bytes) -> bytes:
    """A record as TFRecord files have it."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))
