"""Event files as records, without TensorFlow's reader: length, its checksum, data, their checksum.

An event file may hold gigabytes that are not ours. Only records that mention actdiag are verified.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from actdiag.write.crc import masked_crc32c

_MARK = b"actdiag/"
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_CUT_OFF = "is still being written or was cut off"
_LARGEST = 1 << 28
"""A larger record is none of ours and is passed over."""

Record = tuple[bytes, int]
"""Data, and the checksum that stands after them."""


def our_records(path: Path, problems: list[str]) -> Iterator[bytes]:
    """The intact records that mention actdiag, in order; what is damaged or cut off is told in `problems`."""
    damaged = 0
    for data, checksum in _marked(path, problems):
        if masked_crc32c(data) == checksum:
            yield data
        else:
            damaged += 1
    if damaged:
        problems.append(f"{path.name}: {_count(damaged, 'damaged record')} left out")


def _marked(path: Path, problems: list[str]) -> Iterator[Record]:
    """The records that mention actdiag, up to the end or to where the lengths are no longer right."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        read = 0
        while left:
            length, wrong = _length(file, left)
            if wrong:
                so_far = f"after {_count(read, 'record')}; the rest was not read" if read else "at its first record"
                problems.append(f"{path.name} {wrong} {so_far}")
                return
            if length > _LARGEST:
                file.seek(length + _CHECKSUM.size, os.SEEK_CUR)
            else:
                body = file.read(length + _CHECKSUM.size)
                if _MARK in body:
                    yield body[:length], int.from_bytes(body[length:], "little")
            left -= _HEADER.size + length + _CHECKSUM.size
            read += 1


def _length(file: BinaryIO, left: int) -> tuple[int, str]:
    """The length of the next record, and what is wrong with it."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return 0, _CUT_OFF
    length, checksum = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        return 0, "is damaged"
    return length, "" if left >= _HEADER.size + length + _CHECKSUM.size else _CUT_OFF


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
