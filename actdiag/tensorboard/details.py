"""The two answers that are made of compressed vectors: histograms and unit states of one site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from actdiag.tensorboard.frame import encode_frame
from actdiag.tensorboard.histograms import common_grid, shares
from actdiag.tensorboard.log import Log, name_of
from actdiag.tensorboard.query import columns_of, text_of
from actdiag.tensorboard.reduce import evenly, first_and_last
from actdiag.tensorboard.refusal import BAD_QUERY, NOT_THERE, Refusal
from actdiag.tensorboard.states import LETTERS, as_letters, unit_map, worst_units
from actdiag.tensorboard.timeline import Timeline
from actdiag.tensorboard.view import site_row, view_of
from actdiag.write import tags
from actdiag.write.codec import decode_histogram_at, decode_states_at

Query = Mapping[str, str]
Found = TypeVar("Found")
Blob = NDArray[Any]


def histogram_answer(log: Log, query: Query) -> bytes:
    """Shares of the counted values at evenly chosen steps among those with histograms of this kind."""
    kind, site = text_of(query, "kind"), text_of(query, "site")
    columns = columns_of(query, 200)
    if kind not in tags.HISTOGRAM_KINDS:
        raise Refusal(BAD_QUERY, f"kind must be {' or '.join(tags.HISTOGRAM_KINDS)}, got {kind!r:.40}")
    timeline, row = log.timeline(), site_row(log, site)
    blobs = _blobs(log, tags.HISTOGRAM + kind, f"{kind} histograms")
    view = view_of(timeline.steps_T, query, columns, rows=0)
    there = np.array([i for i in range(*view.span.indices(len(blobs))) if blobs[i] is not None], dtype=np.int64)
    chosen = there[evenly(len(there), columns)]
    found = list(_at_site(timeline, row, blobs, chosen, decode_histogram_at))
    bottom, top = common_grid(found)
    return encode_frame(
        {
            "site": site,
            "kind": kind,
            "count": len(there),
            "exact": len(chosen) == len(there),
            "bottom": bottom,
            "top": top,
        },
        {"step": timeline.steps_T[chosen], "share": shares(found, bottom, top)},
    )


def units_answer(log: Log, query: Query) -> bytes:
    """The state of each unit over the steps asked for, the worst of each column; the worst units first."""
    site = text_of(query, "site")
    timeline, row = log.timeline(), site_row(log, site)
    view = view_of(timeline.steps_T, query, columns_of(query, 400), rows=0)
    blobs = _blobs(log, tags.UNITS, "unit states")
    chosen = np.arange(*view.span.indices(len(blobs)))
    found = unit_map(_at_site(timeline, row, blobs, chosen, decode_states_at), view.steps, view.edges)
    unit = worst_units(found)
    return encode_frame(
        {
            "site": site,
            "units": len(found.last_U),
            "shown": len(unit),
            "letters": LETTERS,
            "count": view.count,
            "exact": view.exact,
        },
        {
            **first_and_last(view.steps, view.edges),
            "unit": unit,
            "died": found.died_U[unit],
            "states": as_letters(found.rank_UC[unit]),
        },
    )


def _blobs(log: Log, tag: str, what: str) -> Sequence[Blob | None]:
    if tag not in log.tags:
        raise Refusal(NOT_THERE, f"run {name_of(log)!r:.200} has no {what}")
    return log.blobs(tag)


def _at_site(
    timeline: Timeline,
    row: int,
    blobs: Sequence[Blob | None],
    steps: NDArray[Any],
    decode: Callable[[Blob, int, int], Found | None],
) -> Iterator[Found | None]:
    """What each blob holds of one site; None where it holds nothing, or is damaged.

    Most blobs repeat the one before: the states of units change rarely.
    """
    index_of = [{int(place): i for i, place in enumerate(rows)}.get(row) for rows in timeline.sites.rows]
    before: tuple[int, bytes] | None = None
    found: Found | None = None
    for i in steps.tolist():
        schema, blob = int(timeline.schema_T[i]), blobs[i]
        index = index_of[schema] if schema >= 0 else None
        if blob is None or index is None:
            yield None
            continue
        now = schema, blob.tobytes()
        if now != before:
            before, found = now, _tried(decode, blob, len(timeline.sites.rows[schema]), index)
        yield found


def _tried(decode: Callable[[Blob, int, int], Found | None], blob: Blob, n: int, index: int) -> Found | None:
    try:
        return decode(blob, n, index)
    except ValueError:
        return None
