"""One-pass statistics of a tensor, per unit, with a merge law.

Legend: C units, S samples, P positions, K chunks, 5 the first fields of Moments. `_C` marks one number a unit.
Everything stays on the tensor's device; nothing here synchronizes or is collective.

A reduction works in float64 on the CPU and in float32 elsewhere, always about the tensor's own mean, and is
joined in float64: the variance survives mean/std = 1e4, half-precision inputs do not overflow (see
tests/test_moments.py). Non-finite elements are counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.layout import Units

# On a CPU a temporary that does not fit the cache costs a page fault an element; 64k elements fit.
_CHUNK_ELEMENTS = 1 << 16


class Moments(NamedTuple):
    """Sums of one tensor, or of several merged. All float64; `_C` one entry a unit, the rest 0-d.

    `n_C` counts finite elements; `m2_C` is the sum of squared deviations from `mean_C`; `low_C` and `high_C`
    are +inf and -inf where n_C = 0, and mean_C is 0 there.
    """

    n_C: Tensor
    mean_C: Tensor
    m2_C: Tensor
    low_C: Tensor
    high_C: Tensor
    zeros: Tensor
    nonfinite: Tensor


class GateSums(NamedTuple):
    """Sums over the elements of an activation, 0-d float64: elements, their gates, and saturated ends."""

    n: Tensor
    gate: Tensor
    low: Tensor
    high: Tensor


class GradientSums(NamedTuple):
    """Sums over the elements of a gradient, 0-d float64: finite elements, squares, zeros, non-finite."""

    n: Tensor
    squares: Tensor
    zeros: Tensor
    nonfinite: Tensor


def accumulator_dtype(x: Tensor) -> torch.dtype:
    """float64 where the device has it (MPS does not)."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.device.type == "cpu" or x.dtype == torch.float64 else torch.float32


def _chunks(x: Tensor) -> Sequence[Tensor]:
    """Blocks along dimension 0 that fit the cache; the whole tensor off the CPU."""
    if x.device.type != "cpu" or x.numel() <= _CHUNK_ELEMENTS:
        return (x,)
    return torch.split(x, max(1, _CHUNK_ELEMENTS // x[0].numel()))


def measure(units: Units) -> Moments:
    """Reduce a tensor to its Moments. Source: two-pass algorithm with correction, Chan, Golub & LeVeque 1983."""
    parts = [_measure_block(block, units) for block in _chunks(units.x)]
    total = parts[0]
    for part in parts[1:]:
        total = merge(total, part)
    return total


def _measure_block(x: Tensor, units: Units) -> Moments:
    """Sums of one block. Non-finite elements count as 0 first and are taken out of the sums by their number."""
    dims, out = units.reduced, accumulator_dtype(x)
    clean = torch.nan_to_num(x, 0.0, 0.0, 0.0)
    bad_C = mask(torch.ne, x, clean).sum(dims).to(out)
    n_C = x.numel() // units.units - bad_C
    divisor_C = n_C.clamp(min=1)
    work = clean.to(_working_dtype(x))
    center = work.sum(dims, keepdim=True) / divisor_C.to(work.dtype).view(_column(units))
    center_C = center.reshape(-1).to(out)
    deviation = work - center
    shift_C = (deviation.sum(dims).to(out) + bad_C * center_C) / divisor_C
    square_C = deviation.square_().sum(dims).to(out) - bad_C * center_C.square()
    return Moments(
        n_C=n_C,
        mean_C=center_C + shift_C,
        m2_C=(square_C - n_C * shift_C.square()).clamp_(min=0),
        low_C=torch.nan_to_num(x, torch.inf, torch.inf, torch.inf).amin(dims).to(out),
        high_C=torch.nan_to_num(x, -torch.inf, -torch.inf, -torch.inf).amax(dims).to(out),
        zeros=count(torch.eq, x, 0.0),
        nonfinite=bad_C.sum(),
    )


def _column(units: Units) -> list[int]:
    shape = [1, 1, 1]
    shape[units.unit_dim] = units.units
    return shape


def mask(compare: Callable[..., Tensor], x: Tensor, other: Tensor | float) -> Tensor:
    """A comparison as float32 ones and zeros: summing those is several times faster on a CPU than bools."""
    buffer = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    compare(x, other, out=buffer)
    return buffer


def count(compare: Callable[..., Tensor], x: Tensor, other: Tensor | float) -> Tensor:
    """How many elements satisfy a comparison (NaN satisfies none but `ne`), 0-d."""
    ones = mask(compare, x, other)
    # Exact on the CPU, where a block is far smaller than 2^24 elements.
    return ones.sum().to(accumulator_dtype(x)) if x.device.type == "cpu" else ones.sum(dtype=accumulator_dtype(x))


def merge(a: Moments, b: Moments) -> Moments:
    """Join two reductions exactly.

    Source: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances". The between-part delta² · n_a · n_b / n is *added*. A part with n = 0 changes nothing.
    """
    n_C = a.n_C + b.n_C
    share_C = b.n_C / n_C.clamp(min=1)
    delta_C = b.mean_C - a.mean_C
    return Moments(
        n_C=n_C,
        mean_C=a.mean_C + delta_C * share_C,
        m2_C=a.m2_C + b.m2_C + delta_C.square() * a.n_C * share_C,
        low_C=torch.minimum(a.low_C, b.low_C),
        high_C=torch.maximum(a.high_C, b.high_C),
        zeros=a.zeros + b.zeros,
        nonfinite=a.nonfinite + b.nonfinite,
    )


def columns_of(a: Moments) -> Tensor:
    """n, mean, m2, low and high of each unit as one tensor [5, C]: one object to keep and to copy."""
    return torch.stack(a[:5])


def counts_of(a: Moments) -> Tensor:
    """Zeros and non-finite elements, [2]."""
    return torch.stack(a[5:])


def merge_columns(a_5C: Tensor, b_5C: Tensor) -> Tensor:
    """`merge` for what `columns_of` gives."""
    none = a_5C.new_zeros(())
    return columns_of(merge(_moments(a_5C, none), _moments(b_5C, none)))


def _moments(columns_5C: Tensor, none: Tensor) -> Moments:
    n_C, mean_C, m2_C, low_C, high_C = columns_5C.unbind()
    return Moments(n_C, mean_C, m2_C, low_C, high_C, none, none)


def measure_gate(x: Tensor, facts: ActivationFacts) -> GateSums:
    """Sums of the gate and of the saturated ends; `x` is the variable that `facts` reads, units last.

    Non-finite elements are left out of all of them. Saturated ends of an unbounded function stay 0.
    """
    total: GateSums | None = None
    for block in _chunks(x):
        # A clipped value must meet its bound as the tensor's own dtype rounds it.
        part = _gate_block(block if facts.clips else block.to(_working_dtype(block)), facts)
        total = part if total is None else add_gates(total, part)
    assert total is not None  # a tensor without elements is refused before
    return total


def _gate_block(x: Tensor, facts: ActivationFacts) -> GateSums:
    out = accumulator_dtype(x)
    zero = torch.zeros((), dtype=out, device=x.device)
    low, high = facts.saturated_low, facts.saturated_high
    clean = torch.nan_to_num(x, 0.0, 0.0, 0.0)
    finite = mask(torch.eq, x, clean)
    gate = zero if facts.gate is None else (facts.gate(clean) * finite).sum(dtype=out)
    return GateSums(
        n=finite.sum(dtype=out),
        gate=gate,
        low=zero if low is None else count(torch.le, x, low),
        high=zero if high is None else count(torch.ge, x, high),
    )


def add_gates(a: GateSums, b: GateSums) -> GateSums:
    """Gate sums add."""
    return GateSums(*(p + q for p, q in zip(a, b, strict=True)))


def measure_gradient(g: Tensor) -> GradientSums:
    """Sums of a gradient. In float64 throughout: the square of 1e-25 is 0 in float32."""
    total: GradientSums | None = None
    for x in _chunks(g.reshape(-1)):
        clean = torch.nan_to_num(x, 0.0, 0.0, 0.0)
        bad = count(torch.ne, x, clean)
        wide = clean.to(accumulator_dtype(x))
        part = GradientSums(
            n=x.numel() - bad, squares=torch.dot(wide, wide), zeros=count(torch.eq, x, 0.0), nonfinite=bad
        )
        total = part if total is None else add_gradients(total, part)
    assert total is not None
    return total


def add_gradients(a: GradientSums, b: GradientSums) -> GradientSums:
    """Gradient sums add."""
    return GradientSums(*(p + q for p, q in zip(a, b, strict=True)))
