"""Binary answers: a JSON header and arrays, as the screen reads them without a copy.

uint32 length n of the header, n bytes of JSON padded with spaces so that 4 + n is a multiple of 8, then the arrays one
after the other, each padded with zeros to a multiple of 8; everything little endian. The header's `arrays` say of each
its name, dtype ("f4", "i4", "u1"), shape, and offset in bytes from the end of the header.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actdiag.write.plain import strict_json

_DTYPES = {"f": "f4", "i": "i4", "u": "u1"}
_ALIGNED = 8


def encode_frame(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a frame. Floats become f4, signed integers i4 (the nearest it can hold), unsigned ones u1.

    Empty arrays stay, with their shape; NaN and infinities of the header are spelled out, those of arrays stay.
    """
    described: list[dict[str, Any]] = []
    blocks: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        dtype = _DTYPES[array.dtype.kind]
        block = _padded(_as(array, dtype).tobytes(), b"\0", 0)
        described.append({"name": name, "dtype": dtype, "shape": list(array.shape), "offset": offset})
        blocks.append(block)
        offset += len(block)
    head = _padded(strict_json({**header, "arrays": described}).encode("ascii"), b" ", 4)
    return b"".join([struct.pack("<I", len(head)), head, *blocks])


def _as(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "i4":
        limits = np.iinfo(np.int32)
        array = np.clip(array, limits.min, limits.max)
    return np.ascontiguousarray(array, dtype=f"<{dtype}")


def _padded(data: bytes, filler: bytes, before: int) -> bytes:
    return data + filler * (-(before + len(data)) % _ALIGNED)
