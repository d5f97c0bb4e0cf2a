"""Histograms of octaves, cut to 63 buckets: against a count of one value after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actdiag.collect.histogram import OCTAVES, count_octaves, finish_histograms
from actdiag.snapshot import Histogram

NAN, INF = float("nan"), float("inf")
TINY = 2.0**-126
"""The smallest float32 that is not denormal."""


def counted(values: list[float]) -> Histogram | None:
    """The long way."""
    finite = [float(np.float32(v)) for v in values if math.isfinite(np.float32(v))]
    if not finite:
        return None
    tops = [math.frexp(v)[1] for v in finite if abs(v) >= TINY]
    top = max(tops, default=math.frexp(TINY)[1])
    counts = [0] * (2 * OCTAVES + 1)
    for v in finite:
        below = top - math.frexp(v)[1] if abs(v) >= TINY else OCTAVES
        if below >= OCTAVES:
            counts[OCTAVES] += 1
        else:
            counts[below if v < 0 else 2 * OCTAVES - below] += 1
    return Histogram(top, tuple(counts))


FLOATS = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 3.9, TINY, -TINY, TINY / 2, 2.0**-20, 3e38, NAN, INF, -INF]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FLOATS, min_size=1, max_size=30), min_size=1, max_size=5))
def test_many_are_cut_at_once_as_one_value_after_the_other(rows: list[list[float]]) -> None:
    counts = np.stack([count_octaves(torch.tensor(row, dtype=torch.float32)).numpy() for row in rows])
    assert finish_histograms(counts) == [counted(row) for row in rows]


def test_of_none_there_is_none_and_without_a_finite_value_neither() -> None:
    assert finish_histograms(np.zeros((0, 512), np.int64)) == []
    assert finish_histograms(np.zeros((2, 512), np.int64)) == [None, None]
    both = count_octaves(torch.tensor([NAN, INF])).numpy()
    assert finish_histograms(both[None]) == [None]
