"""Event files as records, without TensorFlow's reader: length, its checksum, data, their checksum.

An event file may hold gigabytes that are not ours. Only records that mention actdiag are verified, many at a time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

_MARK = b"actdiag/"
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_CUT_OFF = "is still being written or was cut off"
_LARGEST = 1 << 28
"""A larger record is none of ours and is passed over."""
_BATCH_RECORDS = 256
_BATCH_BYTES = 1 << 25
_FEW = 32
"""Below this many records at a time, a plain loop is quicker than NumPy."""

Record = tuple[bytes, int]
"""Data, and the checksum that stands after them."""


def our_records(path: Path, problems: list[str]) -> Iterator[bytes]:
    """The intact records that mention actdiag, in order; what is damaged or cut off is told in `problems`."""
    waiting: list[Record] = []
    longest = damaged = 0
    for record in _marked(path, problems):
        longest = max(longest, len(record[0]))
        waiting.append(record)
        if len(waiting) >= _BATCH_RECORDS or len(waiting) * longest > _BATCH_BYTES:
            intact = _intact(waiting)
            damaged += len(waiting) - len(intact)
            yield from intact
            waiting, longest = [], 0
    intact = _intact(waiting)
    yield from intact
    if damaged := damaged + len(waiting) - len(intact):
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
    if masked(crc32c(header[:8])) != checksum:
        return 0, "is damaged"
    return length, "" if left >= _HEADER.size + length + _CHECKSUM.size else _CUT_OFF


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _intact(records: Sequence[Record]) -> list[bytes]:
    found = crc32c_all([data for data, _ in records])
    return [data for (data, told), crc in zip(records, found, strict=True) if masked(crc) == told]


def masked(crc: int) -> int:
    """A checksum as event files hold it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table_entry(index: int) -> int:
    for _ in range(8):
        index = index >> 1 ^ (0x82F63B78 if index & 1 else 0)
    return index


_TABLE = tuple(map(_table_entry, range(256)))


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum of a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def crc32c_all(blocks: Sequence[bytes]) -> list[int]:
    """The checksum of each block, all blocks in step: one byte of every block at a time.

    Blocks are aligned at their ends. Leading zeros leave a state of zero as it is, and to begin with a state of
    ones is to flip the first four bytes.
    """
    if len(blocks) < _FEW or min(map(len, blocks)) < 4:
        return [crc32c(block) for block in blocks]
    longest = max(map(len, blocks))
    grid = np.zeros((longest, len(blocks)), np.uint8)
    for column, block in enumerate(blocks):
        start = longest - len(block)
        grid[start:, column] = np.frombuffer(block, np.uint8)
        grid[start : start + 4, column] ^= 0xFF
    table = np.array(_TABLE, np.uint32)
    state = np.zeros(len(blocks), np.uint32)
    for row in grid:
        state = table[(state ^ row) & 0xFF] ^ state >> 8
    return [int(crc) for crc in state ^ 0xFFFFFFFF]
