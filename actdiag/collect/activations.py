"""What is known about activation functions, as data.

The gate is the slope at the pre-activation over the largest slope, g = |f'(z)| / max|f'|, in [0, 1]. An element
is *closed* where g < 0.01 and, for bounded functions only, *saturated* where g <= 0.0591 (that is |tanh| >= 0.97,
Karpathy, makemore part 3). Both are stated as ranges of the variable that is read: the output where it
determines the slope, the input where it does not (GELU, SiLU, Mish, Hardswish are not monotone; they are judged
on the tail, because the slope also vanishes at one healthy point). tests/test_activations.py recomputes every
number with autograd and quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from actdiag.collect.slopes import (
    Over,
    above,
    gelu_slope,
    gelu_tanh_slope,
    hardswish_slope,
    inside,
    mish_slope,
    silu_slope,
)

CLOSED_GATE = 0.01
SATURATED_GATE = 0.0591
_INF = math.inf


@dataclass(frozen=True, kw_only=True)
class ActivationFacts:
    """One activation function.

    - `reads`: whether `gate`, `closed_*` and `saturated_*` speak of the output or of the input.
    - `gate`: from that variable to g in [0, 1], elementwise; None where the slope cannot be told from it.
    - `closed_low`, `closed_high`: closed at or below / at or above; infinite where that side never closes.
    - `saturated_low`, `saturated_high`: the same for saturated; None for a function that is not bounded there.
    - `expected_mean`, `expected_std`: of f(z) for z ~ N(0, 1); None if unknown. "Mean 0.4 after ReLU" is normal.
    - `max_slope`: the largest |f'|.
    - `form`: how the fused kernel computes `gate`: "open", 1 where not closed; "square", a + b·x + c·x² of `square`;
      "table", read off 8,193 values, for a gate without jumps; None: it leaves that to `gate`.
    - `clips`: closed exactly at its bounds, so that comparisons are made in the tensor's own dtype.
    """

    name: str
    reads: Literal["output", "input"]
    gate: Callable[[Tensor], Tensor] | None
    closed_low: float = -_INF
    closed_high: float = _INF
    saturated_low: float | None = None
    saturated_high: float | None = None
    expected_mean: float | None = None
    expected_std: float | None = None
    max_slope: float = 1.0
    clips: bool = False
    form: Literal["open", "square", "table"] | None = None
    square: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def bounded(self) -> bool:
        """Whether "saturated" can be said of it."""
        return self.saturated_low is not None or self.saturated_high is not None

    @property
    def can_close(self) -> bool:
        """Whether a unit of it can be dead at all (LeakyReLU and PReLU: never)."""
        return self.closed_low > -_INF or self.closed_high < _INF

    def closed_mask(self, x: Tensor) -> Tensor:
        """Elementwise: 1 where closed, else 0, float32. NaN is 0: a broken unit must not be reported dead."""
        masks = []
        for compare, bound in ((torch.le, self.closed_low), (torch.ge, self.closed_high)):
            if math.isfinite(bound):
                mask = torch.empty(x.shape, dtype=torch.float32, device=x.device)
                masks.append(compare(x, bound, out=mask))
        if not masks:
            return torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        return masks[0] if len(masks) == 1 else masks[0].add_(masks[1])


_TANH_CLOSED = math.sqrt(1 - CLOSED_GATE)
_SIGMOID_CLOSED = ((1 - _TANH_CLOSED) / 2, (1 + _TANH_CLOSED) / 2)
_SOFTSIGN_CLOSED, _SOFTSIGN_SATURATED = 1 - math.sqrt(CLOSED_GATE), 1 - math.sqrt(SATURATED_GATE)

RELU = ActivationFacts(
    name="ReLU",
    reads="output",
    gate=lambda a: above(a, 0.0),
    closed_low=0.0,
    expected_mean=0.39894,
    expected_std=0.58382,
    clips=True,
    form="open",
)
# Zero is ReLU6's inactive end, as it is ReLU's: only the upper bound is called saturated.
RELU6 = replace(RELU, name="ReLU6", gate=inside(0.0, 6.0), closed_high=6.0, saturated_high=6.0)
TANH = ActivationFacts(
    name="Tanh",
    reads="output",
    gate=lambda a: 1 - a * a,
    form="square",
    square=(1.0, 0.0, -1.0),
    closed_low=-_TANH_CLOSED,
    closed_high=_TANH_CLOSED,
    saturated_low=-0.97,
    saturated_high=0.97,
    expected_mean=0.0,
    expected_std=0.62793,
)
SIGMOID = ActivationFacts(
    name="Sigmoid",
    reads="output",
    gate=lambda a: 4 * a * (1 - a),
    form="square",
    square=(0.0, 4.0, -4.0),
    closed_low=_SIGMOID_CLOSED[0],
    closed_high=_SIGMOID_CLOSED[1],
    saturated_low=0.015,
    saturated_high=0.985,
    expected_mean=0.5,
    expected_std=0.20828,
    max_slope=0.25,
)
HARDSIGMOID = ActivationFacts(
    name="Hardsigmoid",
    reads="output",
    gate=inside(0.0, 1.0),
    closed_low=0.0,
    closed_high=1.0,
    saturated_low=0.0,
    saturated_high=1.0,
    expected_mean=0.5,
    expected_std=0.16625,
    max_slope=1 / 6,
    clips=True,
    form="open",
)
SOFTSIGN = ActivationFacts(
    name="Softsign",
    reads="output",
    gate=lambda a: (1 - a.abs()) ** 2,
    form="table",
    closed_low=-_SOFTSIGN_CLOSED,
    closed_high=_SOFTSIGN_CLOSED,
    saturated_low=-_SOFTSIGN_SATURATED,
    saturated_high=_SOFTSIGN_SATURATED,
    expected_mean=0.0,
    expected_std=0.42780,
)
LOGSIGMOID = ActivationFacts(
    name="LogSigmoid",
    reads="output",
    gate=lambda a: -torch.expm1(a),
    form="table",
    closed_high=math.log1p(-CLOSED_GATE),
    expected_mean=-0.80606,
    expected_std=0.52107,
)
GELU = ActivationFacts(
    name="GELU",
    reads="input",
    gate=Over(gelu_slope, 1.12890),
    form="table",
    closed_low=-3.0217,
    expected_mean=0.28209,
    expected_std=0.58792,
    max_slope=1.12890,
)
GELU_TANH = replace(
    GELU,
    gate=Over(gelu_tanh_slope, 1.12899),
    closed_low=-3.0094,
    expected_mean=0.28204,
    max_slope=1.12899,
)
SILU = ActivationFacts(
    name="SiLU",
    reads="input",
    gate=Over(silu_slope, 1.09984),
    form="table",
    closed_low=-6.1429,
    expected_mean=0.20662,
    expected_std=0.55954,
    max_slope=1.09984,
)
QUICK_GELU = replace(
    SILU,
    name="QuickGELU",  # x * sigmoid(1.702 x)
    gate=Over(lambda z: silu_slope(1.702 * z), 1.09984),
    closed_low=-3.6092,
    expected_mean=0.28233,
    expected_std=0.58501,
)
MISH = ActivationFacts(
    name="Mish",
    reads="input",
    gate=Over(mish_slope, 1.08850),
    form="table",
    closed_low=-6.1588,
    expected_mean=0.24040,
    expected_std=0.62813,
    max_slope=1.08850,
)
HARDSWISH = ActivationFacts(
    name="Hardswish",
    reads="input",
    gate=Over(hardswish_slope, 1.5),
    closed_low=-3.0,
    expected_mean=0.16622,
    expected_std=0.55131,
    max_slope=1.5,
)


def hardtanh_facts(low: float, high: float) -> ActivationFacts:
    """Hardtanh and clamp with both bounds; the Gaussian mean is stated for [-1, 1] only."""
    standard = (low, high) == (-1.0, 1.0)
    return ActivationFacts(
        name="Hardtanh",
        reads="output",
        gate=inside(low, high),
        closed_low=low,
        closed_high=high,
        saturated_low=low,
        saturated_high=high,
        expected_mean=0.0 if standard else None,
        expected_std=0.71837 if standard else None,
        clips=True,
        form="open",
    )


def leaky_facts(name: str, slope: float | Tensor, *, default: float) -> ActivationFacts:
    """LeakyReLU and PReLU: never dead by family, since the slope is never 0.

    A tensor `slope` (PReLU) is read live; with one value a unit it is broadcast along the last dimension.
    With a negative slope the output does not tell the side, so the gate is not given.
    """
    known = isinstance(slope, float) and slope == default

    def gate(a: Tensor) -> Tensor:
        s = torch.as_tensor(slope, dtype=a.dtype, device=a.device).abs()
        return torch.where(a > 0, torch.ones_like(a), s.expand_as(a)) / s.clamp(min=1.0)

    negative = isinstance(slope, float) and slope < 0
    largest = max(1.0, abs(slope)) if isinstance(slope, float) else 1.0
    return ActivationFacts(
        name=name,
        reads="output",
        gate=None if negative else gate,
        expected_mean=0.39495 if known else None,
        expected_std=0.58657 if known else None,
        max_slope=largest,
    )


def elu_facts(name: str, alpha: float, *, scale: float = 1.0, celu: bool = False) -> ActivationFacts:
    """ELU, CELU and SELU: f = scale · x above 0; below, slope (a + floor) / width in the output a."""
    floor = scale * alpha
    width = alpha if celu else 1.0
    below_at_zero = floor / width
    largest = max(scale, below_at_zero)
    expected = {("ELU", 1.0): (0.16052, 0.78688), ("CELU", 1.0): (0.16052, 0.78688), ("SELU", alpha): (0.0, 1.0)}
    mean, std = expected.get((name, alpha), (None, None))

    def gate(a: Tensor) -> Tensor:
        return torch.where(a > 0, torch.full_like(a, scale), (a + floor) / width) / largest

    return ActivationFacts(
        name=name,
        reads="output",
        gate=gate,
        closed_low=CLOSED_GATE * largest * width - floor,
        expected_mean=mean,
        expected_std=std,
        max_slope=largest,
    )


def softplus_facts(beta: float) -> ActivationFacts:
    """Softplus: slope 1 - exp(-beta a) in the output a."""
    return ActivationFacts(
        name="Softplus",
        reads="output",
        gate=lambda a: -torch.expm1(-beta * a),
        closed_low=-math.log1p(-CLOSED_GATE) / beta,
        expected_mean=0.80606 if beta == 1 else None,
        expected_std=0.52107 if beta == 1 else None,
    )


SELU = elu_facts("SELU", 1.6732632423543772, scale=1.0507009873554805)
