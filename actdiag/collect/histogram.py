"""Histograms on a fixed grid of signed octaves, counted from the exponent bits.

On the device: 512 exact counters (sign x 256 exponents), which add over batches and ranks. On the host they
are cut to the 31 octaves below the largest magnitude, with everything smaller in the middle bucket.

Legend: N histograms, B counters, E exponents, O octaves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actdiag.snapshot import Histogram

BINS = 512
OCTAVES = 31
SAMPLE = 1 << 16
_EXPONENTS = 256


def count_octaves(x: Tensor) -> Tensor:
    """Counts of sign and exponent, int64 [512]; of at most 65,536 elements, taken at a prime-like stride.

    A stride that shares a factor with the shape is badly biased (facts: stride 16 on power-of-two shapes moves
    the mean by 0.13 std), so the stride is odd and coprime with the number of elements. No synchronization.
    """
    flat = x.reshape(-1)
    stride = stride_of(flat.numel())
    if stride > 1:
        flat = flat[::stride]
    bits = flat.to(torch.float32).contiguous().view(torch.int32)
    index = torch.bitwise_and(bits >> 23, BINS - 1)
    if x.device.type == "cpu":
        return torch.bincount(index, minlength=BINS)
    # bincount reads its largest entry back to the host on an accelerator.
    ones = torch.ones_like(index, dtype=torch.int64)
    return torch.zeros(BINS, dtype=torch.int64, device=x.device).scatter_add_(0, index.long(), ones)


def stride_of(n: int) -> int:
    """Every how many-th of n elements is counted: odd, and without a factor in common with n."""
    stride = max(1, -(-n // SAMPLE))
    if stride == 1:
        return 1
    stride |= 1
    while np.gcd(stride, n) != 1:
        stride += 2
    return stride


def finish_histograms(counts_NB: NDArray[Any]) -> list[Histogram | None]:
    """The 63 buckets around zero of each row of 512 exponent counters; None where no finite value was counted."""
    grid_N2E = counts_NB.astype(np.int64).reshape(-1, 2, _EXPONENTS)[:, :, :-1]  # exponent 255 holds NaN and infinity
    magnitudes_NE = grid_N2E.sum(1)
    total_N = magnitudes_NE.sum(1)
    last_N = _EXPONENTS - 2 - (magnitudes_NE[:, ::-1] > 0).argmax(1)
    top_N = np.maximum(last_N, 1)  # exponent 0 holds zeros and denormals, which stay in the middle
    at_NO = top_N[:, None] + np.arange(1 - OCTAVES, 1)
    of_N11, side_21 = np.arange(len(at_NO))[:, None, None], np.arange(2)[:, None]
    inside_N2O = grid_N2E[of_N11, side_21, np.maximum(at_NO, 0)[:, None, :]] * (at_NO >= 1)[:, None, :]
    middle_N = total_N - inside_N2O.sum((1, 2))
    rows = np.concatenate([inside_N2O[:, 1, ::-1], middle_N[:, None], inside_N2O[:, 0]], 1).tolist()
    named = zip((top_N - 126).tolist(), rows, total_N.tolist(), strict=True)
    return [Histogram(top, tuple(counts)) if total else None for top, counts, total in named]
