"""The Tally of a rank that has parts of layers, as a tally of the whole layers, to be joined with the others'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actdiag.collect.parallel import Place
from actdiag.collect.tally import SUMS, Layout, SiteRow, Tally, Times

_OF_SAMPLES = SUMS.index("samples")


def place(tally: Tally, places: Sequence[Place | None]) -> Tally:
    """With every slice at its place among the units of the whole layer, and copies left out but on one rank.

    `places`: one for each site of the tally; None for a site that is whole. Units of other ranks' slices have n = 0 and
    no openings here, which changes nothing when ranks are joined. Samples are counted by one rank of those that share
    them.
    """
    rows = [_whole_row(row, at) for row, at in zip(tally.layout.sites, places, strict=True)]
    found = Tally.empty(Layout(tuple(rows), tally.layout.parameters))
    times: list[Times | None] = []
    for i, at in enumerate(places):
        if at is not None and not at.tells:
            times.append(None)
            continue
        _copy_site(tally, found, i, 0 if at is None else at.offset)
        if at is not None and not at.counts:
            found.sums_SK[i, _OF_SAMPLES] = 0
        times.append(_counted(tally.times[i], at))
    return replace(
        found,
        times=tuple(times),
        values_PV=tally.values_PV,
        known_PV=tally.known_PV,
        flags_PF=tally.flags_PF,
        pieces=tally.pieces,
        unlike=tally.unlike,
        conflicts=tally.conflicts,
    )


def _whole_row(row: SiteRow, at: Place | None) -> SiteRow:
    if at is None:
        return row
    units, watched = (at.units if count else 0 for count in (row.units, row.watched))
    return row._replace(units=units, watched=watched)


def _counted(times: Times | None, at: Place | None) -> Times | None:
    if times is None or at is None or at.counts:
        return times
    return times[0], np.zeros_like(times[1])


def _copy_site(tally: Tally, found: Tally, i: int, offset: int) -> None:
    for name in ("sums_SK", "low_S", "high_S", "scale_S", "octaves_S2U"):
        getattr(found, name)[i] = getattr(tally, name)[i]
    row = tally.layout.sites[i]
    for names, bounds, whole, size in (
        (("n_C", "mean_C", "m2_C"), tally.layout.units_at(), found.layout.units_at(), row.units),
        (("opens_W", "last_W"), tally.layout.watched_at(), found.layout.watched_at(), row.watched),
    ):
        start = whole[i] + (offset if size else 0)
        for name in names:
            getattr(found, name)[start : start + size] = getattr(tally, name)[bounds[i] : bounds[i] + size]
