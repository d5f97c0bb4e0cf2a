"""What was counted in one recorded step, of all sites and parameters: by one rank, or by several joined.

A Tally is columns of plain numbers; each column has one law by which ranks join: sums add, extremes take the smallest
or largest, moments join as by Chan. Ranks whose layouts differ (a branch that one of them took, the stages of a
pipeline) are first widened to the layout of all, with entries that change nothing. Joining is associative, so that
a tally of several ranks joins on.

Legend: S sites, K sums, C units of all sites in a row, W watched units in a row, U used octave counters, P parameters,
V values, F flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actdiag.collect.histogram import BINS
from actdiag.collect.recent import Openings
from actdiag.snapshot import Role

Floats = NDArray[np.float64]
Times = tuple[NDArray[np.int64], Floats]

SUMS = (
    "ran", "elements", "samples", "zeros", "nonfinite",
    "gates", "gate_n", "gate", "gate_low", "gate_high",
    "gradients", "grad_n", "grad_squares", "grad_zeros", "grad_nonfinite",
)  # fmt: skip
"""Columns of `sums_SK`. `ran`, `gates` and `gradients` count the ranks that have moments, gates, a gradient."""
_COLUMN = {name: column for column, name in enumerate(SUMS)}
VALUES = ("weight", "grad", "clipped", "zeros", "elements", "update", "base")
"""Columns of `values_PV`: squares of weights, of the gradient before and after clipping, of update and base; zeros
and elements of the gradient."""
FLAGS = ("requires_grad", "in_optimizer", "has_grad", "late")
"""`late`: ranks had different gradients when the backward ended, and the same ones in the update."""


ALL_OCTAVES = np.arange(BINS, dtype=np.int64)


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
    gradients that ranks have still to add up before anything can be said of them; those of one key add. `unlike`:
    parameters of which ranks should have the same and have not; `conflicts`: sites that cannot be joined.
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
    octaves_S2U: NDArray[np.integer[Any]]
    used_U: NDArray[np.int64]
    values_PV: Floats
    known_PV: NDArray[np.bool_]
    flags_PF: NDArray[np.bool_]
    pieces: Mapping[Piece, Floats] = field(default_factory=dict)
    unlike: frozenset[str] = field(default=frozenset())
    conflicts: frozenset[str] = field(default=frozenset())

    @staticmethod
    def empty(layout: Layout, used_U: NDArray[np.int64] = ALL_OCTAVES) -> Tally:
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
            octaves_S2U=np.zeros((s, 2, len(used_U)), np.int64),
            used_U=used_U,
            values_PV=np.zeros((p, len(VALUES))),
            known_PV=np.zeros((p, len(VALUES)), np.bool_),
            flags_PF=np.zeros((p, len(FLAGS)), np.bool_),
        )

    @cached_property
    def units_at(self) -> list[int]:
        """`layout.units_at()`, added up once: it is asked for at every site."""
        return self.layout.units_at()

    @cached_property
    def watched_at(self) -> list[int]:
        """`layout.watched_at()`, added up once."""
        return self.layout.watched_at()

    @cached_property
    def values(self) -> list[dict[str, float]]:
        """`values_PV` where known, by name, for each parameter."""
        rows = zip(self.values_PV.tolist(), self.known_PV.tolist(), strict=True)
        return [dict(compress(zip(VALUES, values, strict=True), known)) for values, known in rows]

    def sum_of(self, site: int, name: str) -> float:
        """One of the sums of a site."""
        return float(self.sums_SK[site, _COLUMN[name]])

    def octaves(self) -> NDArray[np.integer[Any]]:
        """All octave counters of the activation and the gradient of each site, [S, 2, BINS]."""
        if len(self.used_U) == BINS:
            return self.octaves_S2U
        found = np.zeros((*self.octaves_S2U.shape[:2], BINS), np.int64)
        found[:, :, self.used_U] = self.octaves_S2U
        return found

    def openings(self, site: int) -> Openings | None:
        """What was observed of the units of a site; None if it was not watched."""
        times = self.times[site]
        if times is None:
            return None
        part = slice(self.watched_at[site], self.watched_at[site + 1])
        return Openings(times[0], times[1], self.opens_W[part], self.last_W[part])
