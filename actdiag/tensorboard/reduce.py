"""Many recorded steps in few columns, each with its smallest and largest value: a mean would hide a spike.

Shapes: T recorded steps, C columns, R rows (sites or parameters).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def column_edges(count: int, columns: int) -> NDArray[np.int64]:
    """Where each of C = min(columns, count) columns begins among `count` steps, and `count` itself: i8[C + 1].

    The columns hold equally many steps, give or take one, and none is empty; [0] without steps.
    """
    c = max(0, min(columns, count))
    return np.arange(c + 1, dtype=np.int64) * count // max(c, 1)


def first_and_last(steps_T: NDArray[np.int64], edges: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The first and the last step of each column, i8[C] each."""
    return {"first": steps_T[edges[:-1]], "last": steps_T[edges[1:] - 1]}


def extremes(values_TR: Floats, edges: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Smallest and largest value of each column, f4[R, C] each. NaN is passed over, and stays where all is NaN."""
    if len(edges) - 1 == len(values_TR):
        exact = np.ascontiguousarray(values_TR.T)
        return exact, exact
    with np.errstate(invalid="ignore"):
        low = np.fmin.reduceat(values_TR, edges[:-1], axis=0)
        high = np.fmax.reduceat(values_TR, edges[:-1], axis=0)
    return np.ascontiguousarray(low.T), np.ascontiguousarray(high.T)


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` positions, evenly spaced, the last one always; all of them where there are few."""
    picked = max(0, min(count, most))
    return (np.arange(1, picked + 1, dtype=np.int64) * count // max(picked, 1)) - 1


def placed(found_RC: Floats, rows: NDArray[Any], n: int) -> Floats:
    """The given rows among `n`, NaN in the others: f4[n, C]."""
    if len(rows) == n:
        return found_RC
    full = np.full((n, found_RC.shape[1]), np.nan, np.float32)
    full[rows] = found_RC
    return full
