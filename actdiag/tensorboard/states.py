"""The units of one site over the recorded steps: one letter a unit and step, the worst of each column.

Shapes: T recorded steps, U units, C columns. Ranks: 0 unknown, else 1 + the place among the letters, worse ones higher.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actdiag.tensorboard.refusal import TOO_LARGE, Refusal

LETTERS = "arsdv"
"""alive, rare, suspect, dead, revived: their order in an answer."""
_WORSE = "avrsd"
"""The same from the best to the worst."""
MOST_ROWS = 4096
_LARGEST = 1 << 27
_NEVER = -1

Bytes = NDArray[np.uint8]


class UnitMap(NamedTuple):
    """`rank_UC`: 0 unknown, 1 alive … 5 dead, the worst of a column; `last_U` the same at the last step known.

    `died_U`: the step at which a unit was first seen dead; -1 never.
    """

    rank_UC: Bytes
    last_U: Bytes
    died_U: NDArray[np.int64]


def unit_map(lines: Iterable[str | None], steps_T: NDArray[np.int64], edges: NDArray[np.int64]) -> UnitMap:
    """The map of T lines of letters. Units that a line does not reach are unknown there.

    Raises Refusal for more units times columns than an answer may be made of.
    """
    c = len(edges) - 1
    found = UnitMap(np.zeros((0, c), np.uint8), np.zeros(0, np.uint8), np.zeros(0, np.int64))
    column_T = np.repeat(np.arange(c), np.diff(edges))
    before: tuple[int, str] | None = None
    for column, step, line in zip(column_T.tolist(), steps_T.tolist(), lines, strict=True):
        if line is not None and (column, line) != before:
            before = column, line
            rank = _RANK[np.frombuffer(line.encode("latin-1", "replace"), np.uint8)]
            found = _wide_enough(found, len(rank))
            _add(found, column, step, rank)
    return found


def _wide_enough(found: UnitMap, units: int) -> UnitMap:
    c = found.rank_UC.shape[1]
    more = units - len(found.last_U)
    if more <= 0:
        return found
    if units * c > _LARGEST:
        raise Refusal(TOO_LARGE, f"{units} units in {c} columns are too many; ask for fewer columns")
    return UnitMap(
        np.pad(found.rank_UC, ((0, more), (0, 0))),
        np.pad(found.last_U, (0, more)),
        np.pad(found.died_U, (0, more), constant_values=_NEVER),
    )


def _add(found: UnitMap, column: int, step: int, rank: Bytes) -> None:
    own = slice(len(rank))
    np.maximum(found.rank_UC[own, column], rank, out=found.rank_UC[own, column])
    found.last_U[own] = rank
    died = found.died_U[own]
    died[(rank == _DEAD) & (died == _NEVER)] = step


def worst_units(found: UnitMap, most: int = MOST_ROWS) -> NDArray[np.int64]:
    """The indices of at most `most` units: the worst at the end first, then the ones that died first, then by index."""
    died = np.where(found.died_U == _NEVER, np.iinfo(np.int64).max, found.died_U)
    return np.lexsort((died, -found.last_U.astype(np.int64)))[:most]


def as_letters(rank: Bytes) -> Bytes:
    """Ranks as 0 unknown, else 1 + index in LETTERS."""
    return _LETTER[rank]


def _tables(order: Sequence[str]) -> tuple[Bytes, Bytes]:
    rank_of_byte, letter_of_rank = np.zeros(256, np.uint8), np.zeros(1 + len(order), np.uint8)
    for rank, letter in enumerate(order, start=1):
        rank_of_byte[ord(letter)] = rank
        letter_of_rank[rank] = 1 + LETTERS.index(letter)
    return rank_of_byte, letter_of_rank


_RANK, _LETTER = _tables(_WORSE)
_DEAD = 1 + _WORSE.index("d")
