"""Slow, plain float64 truth for every statistic, written from the definitions and not from the product."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def rows(x: Tensor, unit_dim: int) -> NDArray[np.float64]:
    """All elements as [everything else, units] in float64."""
    if x.ndim == 0:
        x = x.reshape(1, 1)
    elif x.ndim == 1:
        x = x.reshape(-1, 1)
    else:
        x = x.movedim(unit_dim, -1)
    return x.detach().to(torch.float64).reshape(-1, x.shape[-1]).numpy()


def statistics(x: Tensor, unit_dim: int) -> dict[str, float | int | None]:
    """mean, std, rms, low, high, zero_fraction, nonfinite, mean_energy, over the finite elements."""
    a = rows(x, unit_dim)
    finite = np.isfinite(a)
    values = a[finite]
    result: dict[str, float | int | None] = {"n": a.size, "nonfinite": int((~finite).sum())}
    if values.size == 0:
        return result | dict.fromkeys(("mean", "std", "rms", "low", "high", "zero_fraction", "mean_energy"))
    columns = [a[finite[:, c], c] for c in range(a.shape[1])]
    columns = [column for column in columns if column.size]
    energy = sum(float(np.mean(column**2)) for column in columns)
    return result | {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "rms": float(np.sqrt(np.mean(values**2))),
        "low": float(values.min()),
        "high": float(values.max()),
        "zero_fraction": float((values == 0).mean()),
        "mean_energy": sum(float(np.mean(c)) ** 2 for c in columns) / energy if energy else None,
    }
