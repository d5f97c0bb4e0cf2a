"""The laws by which the tallies of several ranks join.

Legend: R ranks, S sites, C units of all sites in a row, U used octave counters, P parameters, V values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actdiag.collect.recent import join_times
from actdiag.collect.tally import FLAGS, VALUES, Floats, Piece, Tally, Times
from actdiag.collect.widening import join_layouts, widen

_SAME = 1e-4
"""Relative difference up to which squared norms are those of one tensor; copies that are kept equal differ by less."""


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
    unlike_P, late_P = _unlike(wide, "weight"), _unlike(wide, "grad") & ~_unlike(wide, "clipped")
    flags_PF = _over(wide, "flags_PF", np.logical_or)
    flags_PF[:, FLAGS.index("late")] |= late_P
    values_PV[late_P, VALUES.index("grad")] = values_PV[late_P, VALUES.index("clipped")]
    octaves_S2U, used_U = _join_octaves(wide)
    return Tally(
        layout=layout,
        sums_SK=_over(wide, "sums_SK", np.add),
        low_S=_over(wide, "low_S", np.minimum),
        high_S=_over(wide, "high_S", np.maximum),
        scale_S=_over(wide, "scale_S", np.maximum),
        n_C=n_C,
        mean_C=mean_C,
        m2_C=m2_C,
        opens_W=_over(wide, "opens_W", np.add),
        last_W=_over(wide, "last_W", np.maximum),
        times=_join_times(wide),
        octaves_S2U=octaves_S2U,
        used_U=used_U,
        values_PV=values_PV,
        known_PV=known_PV,
        flags_PF=flags_PF,
        pieces=_join_pieces([tally.pieces for tally in wide]),
        unlike=frozenset().union(
            *(tally.unlike for tally in wide), (layout.parameters[i].name for i in np.flatnonzero(unlike_P))
        ),
        conflicts=frozenset().union(*(tally.conflicts for tally in wide)),
    )


def _over(tallies: Sequence[Tally], column: str, law: np.ufunc) -> NDArray[Any]:
    """A column of all, one rank after the other: stacked, they would need the memory of all ranks once more."""
    found: NDArray[Any] = getattr(tallies[0], column).copy()
    for tally in tallies[1:]:
        law(found, getattr(tally, column), out=found)
    return found


def _join_moments(tallies: Sequence[Tally]) -> tuple[Floats, Floats, Floats]:
    n_C, m2_C = _over(tallies, "n_C", np.add), _over(tallies, "m2_C", np.add)
    mean_C, between_C = np.zeros_like(n_C), np.zeros_like(n_C)
    with np.errstate(over="ignore", invalid="ignore"):  # the square of a double can be infinite
        for tally in tallies:
            mean_C += tally.n_C * tally.mean_C
        mean_C /= np.maximum(n_C, 1)
        for tally in tallies:
            between_C += tally.n_C * np.square(tally.mean_C - mean_C)
        return n_C, mean_C, m2_C + between_C


def _join_octaves(tallies: Sequence[Tally]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    used_U = np.unique(np.concatenate([tally.used_U for tally in tallies]))
    found = np.zeros((len(tallies[0].layout.sites), 2, len(used_U)), np.int64)
    for tally in tallies:
        if len(tally.used_U) == len(used_U):
            found += tally.octaves_S2U
        else:
            found[:, :, np.searchsorted(used_U, tally.used_U)] += tally.octaves_S2U
    return found, used_U


def _join_values(tallies: Sequence[Tally]) -> tuple[Floats, NDArray[np.bool_]]:
    values_RPV = np.stack([tally.values_PV for tally in tallies])
    known_RPV = np.stack([tally.known_PV for tally in tallies])
    part_P = np.array([row.part for row in tallies[0].layout.parameters], np.bool_)
    first_PV = np.take_along_axis(values_RPV, known_RPV.argmax(0)[None], 0)[0]
    summed_PV = np.where(known_RPV, values_RPV, 0.0).sum(0)
    return np.where(part_P[:, None], summed_PV, first_PV), _over(tallies, "known_PV", np.logical_or)


def _unlike(tallies: Sequence[Tally], value: str) -> NDArray[np.bool_]:
    """Of which parameters ranks have a value that should be the same everywhere, and is not."""
    column = VALUES.index(value)
    known_RP = np.stack([tally.known_PV[:, column] for tally in tallies])
    values_RP = np.stack([tally.values_PV[:, column] for tally in tallies])
    high_P, low_P = np.where(known_RP, values_RP, -np.inf).max(0), np.where(known_RP, values_RP, np.inf).min(0)
    whole_P = np.array([not row.part for row in tallies[0].layout.parameters], np.bool_)
    with np.errstate(invalid="ignore"):
        differs: NDArray[np.bool_] = whole_P & (high_P - low_P > _SAME * np.abs(high_P)) & np.isfinite(high_P)
    return differs


def _join_pieces(pieces: Sequence[Mapping[Piece, Floats]]) -> dict[Piece, Floats]:
    found: dict[Piece, Floats] = {}
    for piece, values in (item for some in pieces for item in some.items()):
        found[piece] = found[piece] + values if piece in found else values
    return found


def _join_times(tallies: Sequence[Tally]) -> tuple[Times | None, ...]:
    """Of each site. Most sites of a rank share one table: what is joined already is not joined again."""
    found: dict[tuple[int, ...], Times | None] = {}
    told = []
    for times in zip(*(tally.times for tally in tallies), strict=True):
        key = tuple(map(id, times))
        if key not in found:
            known = [one for one in times if one is not None]
            found[key] = join_times(known) if known else None
        told.append(found[key])
    return tuple(told)
