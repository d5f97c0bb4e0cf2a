"""The vectors of one statistic over all recorded steps, as one table that is aligned with the timeline.

Shapes: T recorded steps, N names of the run, R of them with a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actdiag.tensorboard.reduce import Floats
from actdiag.tensorboard.refusal import TOO_LARGE, Refusal
from actdiag.tensorboard.timeline import Names, Timeline
from actdiag.write import tags

LARGEST_BYTES = 240 << 20
"""Of one statistic. TensorBoard's data server sends no more than 256 MiB at a time."""


@dataclass(frozen=True)
class Grid:
    """`values_TR` with NaN for what does not apply; `rows` says which of the N names its columns are."""

    values_TR: Floats
    rows: NDArray[np.intp]
    problems: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return int(self.values_TR.nbytes)


def check_size(timeline: Timeline, names: Names) -> None:
    """Raise Refusal for a table that is too large to be read."""
    size = 4 * len(timeline.steps_T) * len(names.names)
    if size > LARGEST_BYTES:
        raise too_large(f"{len(timeline.steps_T)} recorded steps of {len(names.names)} names take {size >> 20} MiB")


def too_large(what: str) -> Refusal:
    """The refusal of a series that cannot be read at once, with the remedy."""
    return Refusal(
        TOO_LARGE,
        f"this series is too large to be read at once: {what}, and {LARGEST_BYTES >> 20} MiB is the most. "
        "Record fewer steps (log_every_n_steps) or fewer layers (include, exclude)",
    )


def grid_of(
    timeline: Timeline, names: Names, vectors_T: Sequence[NDArray[Any] | None], metadata: Mapping[str, Any]
) -> Grid:
    """The table of a statistic from one vector a step (None: not recorded there).

    A vector that does not fit its schema is left out, with a note. Whole numbers beyond 2^24 are rounded to float32.
    """
    check_size(timeline, names)
    values = np.full((len(timeline.steps_T), len(names.names)), np.nan, np.float32)
    fits = [_fits(timeline, names, i, vector, metadata) for i, vector in enumerate(vectors_T)]
    wrong = [int(timeline.steps_T[i]) for i, fit in enumerate(fits) if fit is False]
    good = [i for i, fit in enumerate(fits) if fit]
    for (schema, _), group in groupby(good, lambda i: (int(timeline.schema_T[i]), _of(vectors_T, i).dtype)):
        steps = list(group)
        rows = names.rows[schema]
        table = np.concatenate([_of(vectors_T, i) for i in steps]).reshape(len(steps), len(rows))
        values[np.array(steps)[:, None], rows[None, :]] = _floats(table)
    rows = np.flatnonzero(~np.isnan(values).all(axis=0))
    note = [f"vectors that do not fit their schema: {len(wrong)}, the first at step {wrong[0]}"] if wrong else []
    return Grid(values if len(rows) == values.shape[1] else np.ascontiguousarray(values[:, rows]), rows, note)


def _of(vectors_T: Sequence[NDArray[Any] | None], i: int) -> NDArray[Any]:
    vector = vectors_T[i]
    assert vector is not None, "only those that are there are asked for"
    return vector


def _fits(
    timeline: Timeline, names: Names, i: int, vector: NDArray[Any] | None, metadata: Mapping[str, Any]
) -> bool | None:
    """None where there is nothing that could fit."""
    if vector is None:
        return None
    schema = int(timeline.schema_T[i])
    if schema < 0 or vector.ndim != 1:
        return False
    return len(vector) == len(names.rows[schema]) and vector.dtype.kind == metadata["kind"][0]


def _floats(table: NDArray[Any]) -> Floats:
    if table.dtype.kind == "f":
        return table.astype(np.float32, copy=False)
    found = table.astype(np.float32)
    found[table == tags.NO_INT] = np.nan
    return found
