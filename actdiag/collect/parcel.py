"""A Tally as bytes, and back: what one rank sends to the others.

    lengths (3 x uint64) | layout (JSON) | head (JSON) | columns, one after the other

The layout is the same at nearly every step, and on nearly every rank: it is kept by its bytes and read once. What is
nearly always the same (times of observation) or nearly always 0 (octave counters) is sent once, or left out.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actdiag.collect.tally import Layout, ParameterRow, Piece, SiteRow, Tally, Times

_LENGTHS = 3


class Word(NamedTuple):
    """What a rank says of a step besides its numbers.

    `drop`: the step does not count (its update was skipped); `again`: record the next one instead. `record_steps` and
    `watch_steps`: the intervals that its budget asks for. `ranks`: of how many the numbers are; 0 if it saw nothing.
    """

    step: int
    drop: bool
    again: bool
    record_steps: int
    watch_steps: int
    ranks: int


def pack(word: Word, tally: Tally) -> bytes:
    """As bytes; `unpack` gives back the same numbers, bit for bit."""
    tables, table_S = _tables(tally)
    used_O = np.flatnonzero(tally.octaves_S2O.any((0, 1)))
    counts = tally.octaves_S2O[:, :, used_O]
    small = not counts.size or bool(counts.max() < 2**32)
    columns = [
        *_floats(tally),
        tally.opens_W.astype(np.float64),
        tally.last_W,
        *(column for times in tables for column in times),
        used_O.astype(np.int64),
        counts.astype(np.uint32 if small else np.int64),
        np.packbits(tally.known_PV),
        np.packbits(tally.flags_PF),
        *tally.pieces.values(),
    ]
    head = json.dumps(
        {
            "word": word,
            "table_S": table_S,
            "tables": [len(stamps) for stamps, _ in tables],
            "used": len(used_O),
            "small": small,
            "pieces": [[*piece, len(values)] for piece, values in tally.pieces.items()],
            "conflicts": sorted(tally.conflicts),
        }
    ).encode()
    layout = json.dumps([tally.layout.sites, tally.layout.parameters]).encode()
    body = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    lengths = np.array([len(layout), len(head), len(body)], np.uint64).tobytes()
    return lengths + layout + head + body


def unpack(parcel: bytes | memoryview) -> tuple[Word, Tally]:
    """The inverse of `pack`. The arrays share the memory of the parcel."""
    view = memoryview(parcel)
    start = _LENGTHS * 8
    n_layout, n_head, _ = (int(n) for n in np.frombuffer(view[:start], np.uint64))
    layout = _layout(bytes(view[start : start + n_layout]))
    head = json.loads(bytes(view[start + n_layout :][:n_head]))
    read = _Reader(view[start + n_layout + n_head :])
    empty = Tally.empty(layout)
    floats = {name: read.take(np.float64, getattr(empty, name).shape) for name in _FLOATS}
    opens_W, last_W = read.take(np.float64, empty.opens_W.shape), read.take(np.int64, empty.last_W.shape)
    tables = [(read.take(np.int64, (n,)), read.take(np.float64, (n,))) for n in head["tables"]]
    used_O = read.take(np.int64, (head["used"],))
    shape = len(layout.sites), 2, head["used"]
    empty.octaves_S2O[:, :, used_O] = read.take(np.uint32 if head["small"] else np.int64, shape)
    return Word(*head["word"]), Tally(
        layout=layout,
        **floats,
        opens_W=opens_W,
        last_W=last_W,
        times=tuple(None if k < 0 else tables[k] for k in head["table_S"]),
        octaves_S2O=empty.octaves_S2O,
        known_PV=read.bits(empty.known_PV.shape),
        flags_PF=read.bits(empty.flags_PF.shape),
        pieces={Piece(*piece): read.take(np.float64, (size,)) for *piece, size in head["pieces"]},
        conflicts=frozenset(head["conflicts"]),
    )


_FLOATS = ("sums_SK", "low_S", "high_S", "scale_S", "n_C", "mean_C", "m2_C", "values_PV")


def _floats(tally: Tally) -> list[NDArray[np.float64]]:
    return [getattr(tally, name) for name in _FLOATS]


def _tables(tally: Tally) -> tuple[list[Times], list[int]]:
    """The different times of observation, and which of them a site has; -1 for none."""
    found: dict[bytes, int] = {}
    tables: list[Times] = []
    table_S = []
    for times in tally.times:
        if times is None:
            table_S.append(-1)
            continue
        key = times[0].tobytes() + times[1].tobytes()
        if key not in found:
            found[key] = len(tables)
            tables.append(times)
        table_S.append(found[key])
    return tables, table_S


@lru_cache(maxsize=256)
def _layout(told: bytes) -> Layout:
    sites, parameters = json.loads(told)
    return Layout(tuple(SiteRow(*row) for row in sites), tuple(ParameterRow(*row) for row in parameters))


class _Reader:
    """Takes one array after the other from a buffer."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def take(self, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        count = int(np.prod(shape))
        array = np.frombuffer(self._view, dtype, count, self._at) if count else np.empty(0, dtype)
        self._at += array.nbytes
        return array.reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        count = int(np.prod(shape))
        packed = self.take(np.uint8, (-(-count // 8),))
        return np.unpackbits(packed, count=count).astype(np.bool_).reshape(shape)
