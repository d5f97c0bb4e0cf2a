"""Histograms of one site at several steps, on one grid of signed octaves.

Shapes: H histograms, B = 2 * (top - bottom) + 1 bins. Bin 0 is [-2^top, -2^(top-1)), the middle one holds everything
smaller in magnitude than 2^bottom, the last one is [2^(top-1), 2^top).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actdiag.snapshot import Histogram
from actdiag.tensorboard.reduce import Floats

MOST_OCTAVES = 40


def common_grid(histograms: Sequence[Histogram | None]) -> tuple[int, int]:
    """(bottom, top): exponents of two between which all values counted lie, at most 40 octaves; (0, 0) without any.

    Where they span more, the largest 40 octaves are kept. Where all is in the middle bins, top is bottom.
    """
    known = [h for h in histograms if h is not None]
    used = [octave for h in known for octave in _used(h)]
    if used:
        top = max(used)
        return max(min(used) - 1, top - MOST_OCTAVES), top
    middle = max((h.top - len(h.counts) // 2 for h in known), default=0)
    return middle, middle


def _used(h: Histogram) -> list[int]:
    """The exponents of the upper edges of its octaves that hold something."""
    k = len(h.counts) // 2
    return [h.top - k + 1 + i for i in range(k) if h.counts[k + 1 + i] or h.counts[k - 1 - i]]


def shares(histograms: Sequence[Histogram | None], bottom: int, top: int) -> Floats:
    """Share of the values counted in each bin, f4[B, H]; NaN where there is no histogram or nothing was counted.

    What a histogram does not resolve, smaller than its own smallest octave, is in the middle bin.
    """
    octaves = top - bottom
    found = np.full((2 * octaves + 1, len(histograms)), np.nan, np.float32)
    for column, h in enumerate(histograms):
        if h is not None and h.n:
            found[:, column] = _rebinned(h, bottom, octaves) / h.n
    return found


def _rebinned(h: Histogram, bottom: int, octaves: int) -> NDArray[np.float64]:
    k = len(h.counts) // 2
    counts = np.array(h.counts, dtype=np.float64)
    offset = np.arange(len(counts)) - k
    # the upper edge of a bin above the bottom, with its sign; 0 is the middle
    place = np.sign(offset) * np.clip(np.abs(offset) + (h.top - k - bottom), 0, octaves)
    found = np.zeros(2 * octaves + 1)
    np.add.at(found, place + octaves, counts)
    return found
