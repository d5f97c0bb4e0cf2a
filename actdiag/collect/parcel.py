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

from actdiag.collect.tally import FLAGS, SUMS, VALUES, Layout, ParameterRow, Piece, SiteRow, Tally, Times

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
    used_U = tally.octaves_S2U.any((0, 1))
    counts = tally.octaves_S2U[:, :, used_U]
    small = not counts.size or bool(counts.max() < 2**32)
    columns = [
        *_floats(tally),
        tally.last_W,
        *(column for times in tables for column in times),
        tally.used_U[used_U],
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
            "used": counts.shape[2],
            "small": small,
            "pieces": [[*piece, len(values)] for piece, values in tally.pieces.items()],
            "unlike": sorted(tally.unlike),
            "conflicts": sorted(tally.conflicts),
        }
    ).encode()
    layout = _told(tally.layout)
    head += b" " * (-(len(layout) + len(head)) % 8)  # numpy is slow where numbers do not lie at multiples of their size
    body = [np.ascontiguousarray(column) for column in columns]
    lengths = np.array([len(layout), len(head), sum(column.nbytes for column in body)], np.uint64).tobytes()
    return b"".join([lengths, layout, head, *(column.data for column in body)])


def unpack(parcel: bytes | memoryview) -> tuple[Word, Tally]:
    """The inverse of `pack`. The arrays share the memory of the parcel."""
    view = memoryview(parcel)
    start = _LENGTHS * 8
    n_layout, n_head, _ = (int(n) for n in np.frombuffer(view[:start], np.uint64))
    layout = _layout(bytes(view[start : start + n_layout]))
    head = json.loads(bytes(view[start + n_layout :][:n_head]))
    read = _Reader(view[start + n_layout + n_head :])
    s, p, c, w = len(layout.sites), len(layout.parameters), layout.units_at()[-1], layout.watched_at()[-1]
    shapes = [(s, len(SUMS)), (s,), (s,), (s,), (c,), (c,), (c,), (p, len(VALUES)), (w,)]
    floats = {name: read.take(np.float64, shape) for name, shape in zip(_FLOATS, shapes, strict=True)}
    last_W = read.take(np.int64, (w,))
    tables = [(read.take(np.int64, (n,)), read.take(np.float64, (n,))) for n in head["tables"]]
    used_U = read.take(np.int64, (head["used"],))
    octaves_S2U = read.take(np.uint32 if head["small"] else np.int64, (s, 2, head["used"]))
    return Word(*head["word"]), Tally(
        layout=layout,
        **floats,
        last_W=last_W,
        times=tuple(None if k < 0 else tables[k] for k in head["table_S"]),
        octaves_S2U=octaves_S2U,
        used_U=used_U,
        known_PV=read.bits((p, len(VALUES))),
        flags_PF=read.bits((p, len(FLAGS))),
        pieces={Piece(*piece): read.take(np.float64, (size,)) for *piece, size in head["pieces"]},
        unlike=frozenset(head["unlike"]),
        conflicts=frozenset(head["conflicts"]),
    )


_FLOATS = ("sums_SK", "low_S", "high_S", "scale_S", "n_C", "mean_C", "m2_C", "values_PV", "opens_W")


def _floats(tally: Tally) -> list[NDArray[np.float64]]:
    return [getattr(tally, name).astype(np.float64, copy=False) for name in _FLOATS]


def _tables(tally: Tally) -> tuple[list[Times], list[int]]:
    """The different times of observation, and which of them a site has; -1 for none."""
    found: dict[int | bytes, int] = {id(None): -1}
    tables: list[Times] = []
    for times in tally.times:
        if times is not None and id(times) not in found:
            key = times[0].tobytes() + times[1].tobytes()
            if key not in found:
                found[key] = len(tables)
                tables.append(times)
            found[id(times)] = found[key]
    table_S = [found[id(times)] for times in tally.times]
    return tables, table_S


@lru_cache(maxsize=256)
def _told(layout: Layout) -> bytes:
    return json.dumps(layout).encode()


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
