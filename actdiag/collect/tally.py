"""What was counted in one recorded step, of all sites and parameters: by one rank, or by several joined.

A Tally is columns of plain numbers; each column has one law by which ranks join: sums add, extremes take the smallest
or largest, moments join as by Chan. Ranks whose layouts differ (a branch that one of them took, the stages of a
pipeline) are first widened to the layout of all, with entries that change nothing. Joining is associative, so that
a tally of several ranks joins on.

Legend: S sites, K sums, C units of all sites in a row, W watched units in a row, O octave counters, P parameters,
V values, F flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actdiag.collect.histogram import BINS
from actdiag.collect.recent import Openings, join_times
from actdiag.snapshot import Role

Floats = NDArray[np.float64]
Times = tuple[NDArray[np.int64], Floats]

SUMS = (
    "ran", "elements", "samples", "zeros", "nonfinite",
    "gates", "gate_n", "gate", "gate_low", "gate_high",
    "gradients", "grad_n", "grad_squares", "grad_zeros", "grad_nonfinite",
)  # fmt: skip
"""Columns of `sums_SK`. `ran`, `gates` and `gradients` count the ranks that have moments, gates, a gradient."""
VALUES = ("weight", "grad", "clipped", "zeros", "elements", "update", "base")
"""Columns of `values_PV`: squares of weights, of the gradient before and after clipping, of update and base; zeros
and elements of the gradient."""
FLAGS = ("requires_grad", "in_optimizer", "has_grad")


class SiteRow(NamedTuple):
    """A site as all ranks must know it. `units` and `watched`: how many have moments, and evidence; 0 for none.

    `ends`: what its facts tell: g a gate, b bounded, l and h a saturated low and high end.
    """

    key: str
    call: int
    kind: str
    role: Role
    units: int
    watched: int
    ends: str


class ParameterRow(NamedTuple):
    """A parameter. `part`: a rank has only a part of it, and values add; else the first rank that knows one tells."""

    name: str
    part: bool


class Piece(NamedTuple):
    """A gradient of which each rank has a term: which value, of which parameter, and which shard of it."""

    value: str
    name: str
    shard: str


class Layout(NamedTuple):
    """Which sites and parameters a tally has, in order."""

    sites: tuple[SiteRow, ...] = ()
    parameters: tuple[ParameterRow, ...] = ()

    def units_at(self) -> list[int]:
        """Where the units of each site begin in the columns with one entry a unit, and where the last end."""
        return [0, *accumulate(row.units for row in self.sites)]

    def watched_at(self) -> list[int]:
        """The same for units that are watched."""
        return [0, *accumulate(row.watched for row in self.sites)]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The columns. `times` has the times of observation of each site, None for one that is not watched.

    `scale_S`: by what the gradient of a site is multiplied; NaN where nobody knows, 0 where there is none. `pieces`:
    gradients that ranks have still to add up before anything can be said of them; those of one key add.
    """

    layout: Layout
    sums_SK: Floats
    low_S: Floats
    high_S: Floats
    scale_S: Floats
    n_C: Floats
    mean_C: Floats
    m2_C: Floats
    opens_W: Floats
    last_W: NDArray[np.int64]
    times: tuple[Times | None, ...]
    octaves_S2O: NDArray[np.int64]
    values_PV: Floats
    known_PV: NDArray[np.bool_]
    flags_PF: NDArray[np.bool_]
    pieces: Mapping[Piece, Floats] = field(default_factory=dict)
    conflicts: frozenset[str] = field(default=frozenset())

    @staticmethod
    def empty(layout: Layout) -> Tally:
        """Nothing counted: joined with another, it changes nothing."""
        s, p = len(layout.sites), len(layout.parameters)
        c, w = layout.units_at()[-1], layout.watched_at()[-1]
        return Tally(
            layout=layout,
            sums_SK=np.zeros((s, len(SUMS))),
            low_S=np.full(s, np.inf),
            high_S=np.full(s, -np.inf),
            scale_S=np.zeros(s),
            n_C=np.zeros(c),
            mean_C=np.zeros(c),
            m2_C=np.zeros(c),
            opens_W=np.zeros(w),
            last_W=np.zeros(w, np.int64),
            times=(None,) * s,
            octaves_S2O=np.zeros((s, 2, BINS), np.int64),
            values_PV=np.zeros((p, len(VALUES))),
            known_PV=np.zeros((p, len(VALUES)), np.bool_),
            flags_PF=np.zeros((p, len(FLAGS)), np.bool_),
        )

    def sum_of(self, site: int, name: str) -> float:
        """One of the sums of a site."""
        return float(self.sums_SK[site, SUMS.index(name)])

    def openings(self, site: int) -> Openings | None:
        """What was observed of the units of a site; None if it was not watched."""
        times = self.times[site]
        if times is None:
            return None
        at = self.layout.watched_at()
        part = slice(at[site], at[site + 1])
        return Openings(times[0], times[1], self.opens_W[part], self.last_W[part])


def join(tallies: Sequence[Tally]) -> Tally:
    """What several ranks have counted together, in the order of their first mention.

    Sums and octaves add; low, high, scale and the stamp of the last opening take the extreme; moments join as in
    Chan, Golub & LeVeque 1979, here for many parts at once: the spread of the means between the parts is *added*. A
    part with n = 0 changes nothing. Not collective.
    """
    layout = join_layouts([tally.layout for tally in tallies])
    wide = [widen(tally, layout) for tally in tallies]
    if len(wide) == 1:
        return wide[0]
    n_C, mean_C, m2_C = _join_moments(wide)
    values_PV, known_PV = _join_values(wide)
    return Tally(
        layout=layout,
        sums_SK=_stack(wide, "sums_SK").sum(0),
        low_S=_stack(wide, "low_S").min(0),
        high_S=_stack(wide, "high_S").max(0),
        scale_S=_stack(wide, "scale_S").max(0),
        n_C=n_C,
        mean_C=mean_C,
        m2_C=m2_C,
        opens_W=_stack(wide, "opens_W").sum(0),
        last_W=_stack(wide, "last_W").max(0),
        times=tuple(_join_times(times) for times in zip(*(tally.times for tally in wide), strict=True)),
        octaves_S2O=_stack(wide, "octaves_S2O").sum(0),
        values_PV=values_PV,
        known_PV=known_PV,
        flags_PF=_any(wide, "flags_PF"),
        pieces=_join_pieces([tally.pieces for tally in wide]),
        conflicts=frozenset().union(*(tally.conflicts for tally in wide)),
    )


def _stack(tallies: Sequence[Tally], column: str) -> NDArray[np.float64]:
    return np.stack([getattr(tally, column) for tally in tallies])


def _bools(tallies: Sequence[Tally], column: str) -> NDArray[np.bool_]:
    return np.stack([getattr(tally, column) for tally in tallies])


def _any(tallies: Sequence[Tally], column: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.logical_or.reduce(_bools(tallies, column), axis=0)
    return found


def _join_moments(tallies: Sequence[Tally]) -> tuple[Floats, Floats, Floats]:
    n_RC, mean_RC = _stack(tallies, "n_C"), _stack(tallies, "mean_C")
    n_C = n_RC.sum(0)
    with np.errstate(over="ignore", invalid="ignore"):  # the square of a double can be infinite
        mean_C = (n_RC * mean_RC).sum(0) / np.maximum(n_C, 1)
        between_C = (n_RC * np.square(mean_RC - mean_C)).sum(0)
        return n_C, mean_C, _stack(tallies, "m2_C").sum(0) + between_C


def _join_values(tallies: Sequence[Tally]) -> tuple[Floats, NDArray[np.bool_]]:
    values_RPV, known_RPV = _stack(tallies, "values_PV"), _bools(tallies, "known_PV")
    part_P = np.array([row.part for row in tallies[0].layout.parameters], np.bool_)
    first_PV = np.take_along_axis(values_RPV, known_RPV.argmax(0)[None], 0)[0]
    summed_PV = np.where(known_RPV, values_RPV, 0.0).sum(0)
    return np.where(part_P[:, None], summed_PV, first_PV), _any(tallies, "known_PV")


def _join_pieces(pieces: Sequence[Mapping[Piece, Floats]]) -> dict[Piece, Floats]:
    found: dict[Piece, Floats] = {}
    for piece, values in (item for some in pieces for item in some.items()):
        found[piece] = found[piece] + values if piece in found else values
    return found


def _join_times(times: Sequence[Times | None]) -> Times | None:
    known = [one for one in times if one is not None]
    return join_times(known) if known else None


def join_layouts(layouts: Sequence[Layout]) -> Layout:
    """The sites and parameters of all, each rank's in its own order as far as that is possible."""
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
    wide = Tally.empty(layout)
    conflicts, times = set(tally.conflicts), list(wide.times)
    place = {(row.key, row.call): i for i, row in enumerate(layout.sites)}
    ours, theirs = tally.layout.units_at(), layout.units_at()
    own, other = tally.layout.watched_at(), layout.watched_at()
    for i, row in enumerate(tally.layout.sites):
        j = place[row.key, row.call]
        to = layout.sites[j]
        if row.units not in (0, to.units) or row.watched not in (0, to.watched):
            conflicts.add(row.key)
            continue
        for name in ("sums_SK", "low_S", "high_S", "scale_S", "octaves_S2O"):
            getattr(wide, name)[j] = getattr(tally, name)[i]
        times[j] = tally.times[i]
        for name in ("n_C", "mean_C", "m2_C"):
            getattr(wide, name)[theirs[j] : theirs[j] + row.units] = getattr(tally, name)[ours[i] : ours[i + 1]]
        for name in ("opens_W", "last_W"):
            getattr(wide, name)[other[j] : other[j] + row.watched] = getattr(tally, name)[own[i] : own[i + 1]]
    numbers = {row.name: i for i, row in enumerate(layout.parameters)}
    at_P = [numbers[row.name] for row in tally.layout.parameters]
    for name in ("values_PV", "known_PV", "flags_PF"):
        getattr(wide, name)[at_P] = getattr(tally, name)
    return replace(wide, times=tuple(times), pieces=tally.pieces, conflicts=frozenset(conflicts))
