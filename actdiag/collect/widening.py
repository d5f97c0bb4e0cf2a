"""A tally in the layout of several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count, groupby
from typing import Any, NamedTuple

from actdiag.collect.tally import Layout, SiteRow, Tally


def join_layouts(layouts: Sequence[Layout]) -> Layout:
    """The sites and parameters of all, each rank's in its own order as far as that is possible."""
    layouts = list({id(layout): layout for layout in layouts}.values())  # parcels of equal bytes share theirs
    if all(layout == layouts[0] for layout in layouts):
        return layouts[0]
    sites = _merge_sequences([[(row.key, row.call) for row in layout.sites] for layout in layouts])
    rows: dict[tuple[str, int], SiteRow] = {}
    for row in (row for layout in layouts for row in layout.sites):
        known = rows.setdefault((row.key, row.call), row)
        if known.units == 0 or known.watched == 0:  # it did not run there in this step, or was not watched
            units, watched = known.units or row.units, known.watched or row.watched
            rows[row.key, row.call] = known._replace(units=units, watched=watched, ends=known.ends or row.ends)
    parameters = {row.name: row for layout in layouts for row in reversed(layout.parameters)}
    names = _merge_sequences([[row.name for row in layout.parameters] for layout in layouts])
    return Layout(tuple(rows[key] for key in sites), tuple(parameters[name] for name in names))


def _merge_sequences(sequences: Sequence[Sequence[Any]]) -> list[Any]:
    """All entries once; one that a later sequence brings comes after its predecessor there, else at the end."""
    found: list[Any] = list(sequences[0])
    known = set(found)
    for sequence in sequences[1:]:
        if known.issuperset(sequence):
            continue
        at = len(found)
        for entry in sequence:
            if entry in known:
                at = found.index(entry) + 1
            else:
                found.insert(at, entry)
                known.add(entry)
                at += 1
    return found


def widen(tally: Tally, layout: Layout) -> Tally:
    """The same in a layout that has all its sites and parameters, with entries that change nothing for the others.

    A site with another number of units than the layout says cannot be joined: it is left out, and is in `conflicts`.
    """
    if tally.layout == layout:
        return tally
    wide = Tally.empty(layout, tally.used_U)
    runs, at_P, conflicts = _plan(tally.layout, layout)
    times = list(wide.times)
    for run in runs:
        times[run.to.sites] = tally.times[run.of.sites]
        for names, of, to in zip(_COLUMNS, run.of, run.to, strict=True):
            for name in names:
                getattr(wide, name)[to] = getattr(tally, name)[of]
    for name in ("values_PV", "known_PV", "flags_PF"):
        getattr(wide, name)[at_P] = getattr(tally, name)
    return replace(
        wide, times=tuple(times), pieces=tally.pieces, unlike=tally.unlike, conflicts=tally.conflicts | conflicts
    )


class _Extent(NamedTuple):
    """Sites that follow each other, and where their units and their watched units are."""

    sites: slice
    units: slice
    watched: slice


class _Run(NamedTuple):
    """Neighbours in one layout that are neighbours in another too."""

    of: _Extent
    to: _Extent


_COLUMNS = (
    ("sums_SK", "low_S", "high_S", "scale_S", "octaves_S2U"),
    ("n_C", "mean_C", "m2_C"),
    ("opens_W", "last_W"),
)
"""Columns with one entry a site, a unit and a watched unit, as in _Extent."""


@lru_cache(maxsize=256)
def _plan(layout: Layout, wide: Layout) -> tuple[list[_Run], list[int], frozenset[str]]:
    """What to copy where: runs of sites, the place of each parameter; and which sites cannot be copied."""
    place = {(row.key, row.call): i for i, row in enumerate(wide.sites)}
    bounds = list(zip(count(), layout.units_at(), layout.watched_at(), strict=False))
    theirs = list(zip(count(), wide.units_at(), wide.watched_at(), strict=False))
    shifts: list[tuple[int, ...] | None] = []
    conflicts = set()
    for i, row in enumerate(layout.sites):
        j = place[row.key, row.call]
        to = wide.sites[j]
        fits = row.units in (0, to.units) and row.watched in (0, to.watched)
        shifts.append(tuple(b - a for a, b in zip(bounds[i], theirs[j], strict=True)) if fits else None)
        if not fits:
            conflicts.add(row.key)
    runs = []
    for shift, neighbours in groupby(range(len(shifts)), shifts.__getitem__):
        if shift is not None:
            sites = list(neighbours)
            ends = list(zip(bounds[sites[0]], bounds[sites[-1] + 1], shift, strict=True))
            runs.append(_Run(*(_Extent(*(slice(a + k * s, b + k * s) for a, b, s in ends)) for k in (0, 1))))
    numbers = {row.name: i for i, row in enumerate(wide.parameters)}
    return runs, [numbers[row.name] for row in layout.parameters], frozenset(conflicts)
