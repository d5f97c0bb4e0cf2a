"""The part of a timeline that a request asks for, in columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actdiag.tensorboard.log import Log, name_of
from actdiag.tensorboard.query import span_of
from actdiag.tensorboard.reduce import column_edges
from actdiag.tensorboard.refusal import NOT_THERE, TOO_LARGE, Refusal

_LARGEST_ANSWER = 64 << 20


@dataclass(frozen=True)
class View:
    """`span` cuts the recorded steps asked for out of all, `steps` are they, `edges` where each column begins."""

    span: slice
    steps: NDArray[np.int64]
    edges: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Recorded steps asked for."""
        return len(self.steps)

    @property
    def columns(self) -> int:
        """At most as many as were asked for."""
        return len(self.edges) - 1

    @property
    def exact(self) -> bool:
        """Whether each column is one recorded step."""
        return self.columns == self.count


def view_of(steps_T: NDArray[np.int64], query: Mapping[str, str], columns: int, *, rows: int) -> View:
    """What a request asks for. Raises Refusal for an answer of so many rows of four bytes that would be too large."""
    begin, end = span_of(query)
    low = 0 if begin is None else int(np.searchsorted(steps_T, begin))
    high = len(steps_T) if end is None else int(np.searchsorted(steps_T, end, side="right"))
    edges = column_edges(high - low, columns)
    if 4 * rows * len(edges) > _LARGEST_ANSWER:
        raise Refusal(
            TOO_LARGE, f"{columns} columns are more than {_LARGEST_ANSWER >> 20} MiB here; ask for fewer columns"
        )
    return View(slice(low, high), steps_T[low:high], edges)


def site_row(log: Log, site: str) -> int:
    """The place of a site among all names. Raises Refusal where there is none of that name."""
    names = log.timeline().sites.names
    if site not in names:
        raise Refusal(NOT_THERE, f"run {name_of(log)!r:.200} has no site {site!r:.200}")
    return list(names).index(site)
