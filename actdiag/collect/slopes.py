"""Slopes of activation functions, where they take more than a line; tests hold them to autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def above(a: Tensor, bound: float) -> Tensor:
    """1 where a > bound, else 0, in a's dtype."""
    return torch.gt(a, bound, out=torch.empty_like(a))


def gaussian(z: Tensor) -> Tensor:
    """Density of N(0, 1)."""
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def gelu_slope(z: Tensor) -> Tensor:
    """Slope of the exact GELU."""
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * gaussian(z)


def gelu_tanh_slope(z: Tensor) -> Tensor:
    """Slope of GELU's tanh form."""
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)


def silu_slope(z: Tensor) -> Tensor:
    """Slope of SiLU."""
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def mish_slope(z: Tensor) -> Tensor:
    """Slope of Mish."""
    t = torch.tanh(torch.nn.functional.softplus(z))
    return t + z * (1 - t * t) * torch.sigmoid(z)


def hardswish_slope(z: Tensor) -> Tensor:
    """Slope of Hardswish; 1.5 just below 3."""
    between = (2 * z + 3) / 6
    return torch.where(z <= -3, torch.zeros_like(z), torch.where(z >= 3, torch.ones_like(z), between))


@dataclass(frozen=True)
class Over:
    """The gate: |slope| over the largest."""

    slope: Callable[[Tensor], Tensor]
    largest: float

    def __call__(self, z: Tensor) -> Tensor:
        return self.signed(z).abs()

    def signed(self, z: Tensor) -> Tensor:
        """With the sign of the slope, so that it has no kink where the slope vanishes."""
        return self.slope(z) / self.largest


def inside(low: float, high: float) -> Callable[[Tensor], Tensor]:
    """The gate of a clipping function, from its output: 1 strictly between the bounds."""
    return lambda a: above(a, low).mul_(torch.lt(a, high, out=torch.empty_like(a)))
