"""Histograms on a fixed grid of signed octaves, counted from the exponent bits.

On the device: 512 exact counters (sign x 256 exponents), which add over batches and ranks. On the host they
are cut to the 31 octaves below the largest magnitude, with everything smaller in the middle bucket.
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


def finish_histogram(counts: NDArray[Any]) -> Histogram | None:
    """The 63 buckets around zero of 512 exponent counters; None if no finite value was counted."""
    grid = counts.astype(np.int64).reshape(2, _EXPONENTS)[:, :-1]  # exponent 255 holds NaN and infinity
    magnitudes = grid.sum(0)
    used = np.flatnonzero(magnitudes)
    if not used.size:
        return None
    top = max(int(used[-1]), 1)  # exponent 0 holds zeros and denormals, which stay in the middle
    first = top - OCTAVES + 1
    below = max(first, 1)
    inside = np.zeros((2, OCTAVES), dtype=np.int64)
    inside[:, below - first :] = grid[:, below : top + 1]
    middle = int(magnitudes[:below].sum())
    return Histogram(top=top - 126, counts=(*inside[1, ::-1].tolist(), middle, *inside[0].tolist()))
