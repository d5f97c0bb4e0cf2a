"""Histograms and unit states as compressed bytes: most of them repeat, and none may lose a count.

A histogram blob, before compression, is: one byte with the width of a count; for each site the length and the top
of its histogram as int16 (0, 0 for None); all counts in a row as unsigned numbers of that width. Numbers are
stored as planes, all low bytes first: the high bytes are mostly zero then, which halves the compressed size.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actdiag.snapshot import Histogram, histogram_of

Bytes = NDArray[np.uint8]

_NONE = "-"
_LEVEL = 6
"""Of zlib: level 9 takes two to five times as long for 2 % less."""
_LARGEST_BYTES = 1 << 26
"""What one blob may unpack to; a log that claims more is damaged or hostile."""


def encode_states(states: Sequence[str | None]) -> Bytes:
    """One line a site; empty if no site has unit states."""
    if all(line is None for line in states):
        return _EMPTY
    return encode_lines([_NONE if line is None else line for line in states])


def decode_states(blob: Bytes) -> list[str | None]:
    """The inverse of `encode_states`."""
    return [None if line == _NONE else line for line in decode_lines(blob)]


def decode_states_at(blob: Bytes, n: int, index: int) -> str | None:
    """One of `decode_states`, without the others. Raises ValueError where there are not `n` lines."""
    data = _decompress(blob) if blob.size else b""
    lines = data.count(b"\n") + 1 if blob.size else 0
    if lines != n:
        raise ValueError(f"{lines} lines of unit states do not fit {n} sites")
    line = data.split(b"\n", index + 1)[index].decode("ascii")
    return None if line == _NONE else line


def encode_lines(lines: Sequence[str]) -> Bytes:
    """Words of ASCII, none of them with a line end."""
    return _compress("\n".join(lines).encode()) if lines else _EMPTY


def decode_lines(blob: Bytes) -> list[str]:
    """The inverse of `encode_lines`."""
    return _decompress(blob).decode("ascii").split("\n") if blob.size else []


def encode_histograms(histograms: Sequence[Histogram | None]) -> Bytes:
    """All histograms of a kind; empty if there is none."""
    known = [h for h in histograms if h is not None]
    if not known:
        return _EMPTY
    head = [(0, 0) if h is None else (len(h.counts), h.top) for h in histograms]
    counts = _narrowest(list(chain.from_iterable(h.counts for h in known)))
    return _compress(bytes([counts.itemsize]) + _planes(np.array(head, dtype="<i2")) + _planes(counts))


def _narrowest(counts: list[int]) -> NDArray[Any]:
    """As unsigned numbers of the least width that holds all. `struct` packs them in the time of a search for the
    largest."""
    for letter, dtype in (("H", "<u2"), ("I", "<u4")):
        with contextlib.suppress(struct.error):
            return np.frombuffer(struct.pack(f"<{len(counts)}{letter}", *counts), dtype)
    return np.array(counts, dtype="<u8")


def decode_histograms(blob: Bytes, n: int) -> list[Histogram | None]:
    """The inverse of `encode_histograms` for `n` sites. Raises ValueError for anything else."""
    head, counts = _counted(blob, n)
    found: list[Histogram | None] = []
    start = 0
    for length, top in head:
        found.append(_histogram(top, counts[start : start + length]))
        start += length
    return found


def decode_histogram_at(blob: Bytes, n: int, index: int) -> Histogram | None:
    """One of `decode_histograms`, without the others."""
    head, counts = _counted(blob, n)
    start = sum(length for length, _ in head[:index])
    length, top = head[index]
    return _histogram(top, counts[start : start + length])


def _counted(blob: Bytes, n: int) -> tuple[list[list[int]], NDArray[Any]]:
    """Length and top of each histogram, and the counts of all."""
    data = _decompress(blob)
    width = data[0] if data else 0
    if width not in (2, 4, 8):
        raise ValueError(f"histograms have counts of {width} bytes")
    head: list[list[int]] = _joined(data[1 : 1 + 4 * n], "<i2").reshape(n, 2).tolist()
    counts = _joined(data[1 + 4 * n :], f"<u{width}")
    if any(length < 0 for length, _ in head) or sum(length for length, _ in head) != len(counts):
        raise ValueError(f"{len(counts)} counts do not fit the histograms of {n} sites")
    return head, counts


def _histogram(top: int, counts: NDArray[Any]) -> Histogram | None:
    return histogram_of(top, counts.tolist()) if counts.size else None


_EMPTY: Bytes = np.zeros(0, np.uint8)


def _planes(numbers: NDArray[Any]) -> bytes:
    return numbers.reshape(-1, 1).view(np.uint8).T.tobytes() if numbers.size else b""


def _joined(planes: bytes, dtype: str) -> NDArray[Any]:
    width = np.dtype(dtype).itemsize
    if len(planes) % width:
        raise ValueError("histograms are cut off")
    return np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(width, -1).T).view(dtype).reshape(-1)


def _compress(data: bytes) -> Bytes:
    return np.frombuffer(zlib.compress(data, _LEVEL), dtype=np.uint8)


def _decompress(blob: Bytes) -> bytes:
    unzip = zlib.decompressobj()
    try:
        data = unzip.decompress(blob.tobytes(), _LARGEST_BYTES)
    except zlib.error:
        raise ValueError("compressed data are damaged") from None
    if unzip.unconsumed_tail or not unzip.eof:
        raise ValueError(f"compressed data are cut off, or larger than {_LARGEST_BYTES >> 20} MiB")
    return data
