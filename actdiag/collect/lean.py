"""The reducer of a machine without a compiler: NumPy, block by block, so that a block and its copy stay in the cache.

As in the kernel, sums are made in float32 about the mean of the first rows, and in float64 from block to block. Where
that is not good enough, the eager functions do the work: something is not finite, squares leave the range of a float,
or the mean of a unit lies more than two of its deviations from what it was thought to be.

Legend: R rows, C units, S samples, P positions, K columns (units, or units times positions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.histogram import count_octaves
from actdiag.collect.layout import Units
from actdiag.collect.number import Number, each
from actdiag.collect.plan import TABLE, Plan, plan_of, table_of
from actdiag.collect.reducing import Asked, Eager, Reduction, fits, quiet

Floats = NDArray[Any]

_BLOCK = 1 << 15
"""Elements; 128 KB of float32."""
_DEPTH = 64
"""Rows that are added up in float32."""
_WIDTH = 512
"""Columns that are worth a call of NumPy; rows of fewer are laid side by side."""
_NARROW = 256
"""Positions that are better reduced across samples first."""
_FIRST = 16
_TINY = 1e-26


class Sums(NamedTuple):
    """Of columns: sums about a shift and of squares, extremes. `zeros` of all of them."""

    shift_K: Floats
    sum_K: Floats
    square_K: Floats
    low_K: Floats
    high_K: Floats
    zeros: int


class Lean:
    """By NumPy where that is possible and the faster way; else by the eager functions."""

    def __init__(self) -> None:
        self._eager = Eager()
        # Of this reducer, not of the process: facts of PReLU hold a parameter of the user's.
        self._plan = lru_cache(maxsize=256)(_plan)

    def reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction:
        """See Reducer."""
        if not fits(units.x, copies=units.x.stride(2) != 1 and units.x.shape[2] > 1):
            return self._eager.reduce(units, facts, asked)
        with quiet(units.x):
            x = units.x.float().numpy()
            with np.errstate(over="ignore", invalid="ignore"):
                moments = _moments(x, units.unit_dim) if asked.moments else None
                gate = None
                if asked.gate and facts is not None:
                    gate = self._gates(x, facts, units.x.dtype, known=moments is not None)
            left = Asked(moments=asked.moments and moments is None, gate=asked.gate and gate is None, open=asked.open)
            found = self._eager.reduce(units, facts, left)
            return found._replace(
                columns_5C=found.columns_5C if moments is None else moments[0],
                counts_2=found.counts_2 if moments is None else moments[1],
                octaves=count_octaves(units.x) if asked.octaves else None,
                gate_4=found.gate_4 if gate is None else gate,
            )

    def _gates(self, x: Floats, facts: ActivationFacts, dtype: torch.dtype, *, known: bool) -> Tensor | None:
        """The fields of GateSums; None where something is not finite, or the gate is of another form.

        `known`: all that is in `x` is finite.
        """
        if facts.gate is None or facts.form is None:
            return None
        plan, table = self._plan(facts, dtype)
        total_4 = np.zeros(4)
        for block in _blocks(np.ascontiguousarray(x).reshape(-1)):
            gate = _GATES[facts.form](block, plan, table)
            if not (known or np.isfinite(block.sum())) or not np.isfinite(gate):
                return None
            total_4 += (block.size, gate, _beyond(block, plan.ends[:1]), _beyond(block, (np.nan, plan.ends[1])))
        return torch.from_numpy(total_4)

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[Tensor, Tensor | None]:
        """See Reducer."""
        if not fits(g, copies=not g.is_contiguous()):
            return self._eager.gradient(g, octaves=octaves)
        with quiet(g):
            total_4, wide = np.zeros(4), np.empty(min(_BLOCK, g.numel()))
            for block in _blocks(g.reshape(-1).float().numpy()):
                total_4 += _square_up(block, wide[: block.size])
            return torch.from_numpy(total_4), count_octaves(g) if octaves else None

    def squares(self, tensors: list[Tensor]) -> list[Number]:
        """See Reducer."""
        return self._eager.squares(tensors)

    def norms(self, tensors: list[Tensor]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        if not all(x.dtype == torch.float32 and fits(x) for x in tensors):
            return self._eager.norms(tensors)
        zeros = [torch.tensor(x.numel() - np.count_nonzero(x.numpy()), dtype=torch.float64) for x in tensors]
        return list(zip(self.squares(tensors), each(zeros), strict=True))

    def keep(self, flat: list[Tensor]) -> list[tuple[Tensor, Number]]:
        """See Reducer."""
        return self._eager.keep(flat)

    def updates(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        return self._eager.updates(pairs)


def _blocks(flat: Floats) -> Iterator[Floats]:
    return (flat[start : start + _BLOCK] for start in range(0, len(flat), _BLOCK))


def _square_up(block: Floats, wide: Floats) -> Floats:
    """Finite elements, their squares, zeros, and what is not finite. The square of a float is a finite double.

    Without a dot product: that is BLAS's, which wakes threads of its own, and they wait for each other by spinning.
    """
    wide[:] = block
    square = float(np.multiply(wide, wide, out=wide).sum())
    zeros = np.count_nonzero(block == 0)
    if square < np.inf:
        return np.array([block.size, square, zeros, 0])
    fine = np.isfinite(wide)
    return np.array([np.count_nonzero(fine), wide[fine].sum(), zeros, np.count_nonzero(~fine)])


def _moments(x: Floats, unit_dim: int) -> tuple[Tensor, Tensor] | None:
    """The columns of Moments and its counts; None where they would not be good enough."""
    s, a, b = x.shape
    n = float(x.size // x.shape[unit_dim])
    if unit_dim == 2:
        sums = _fold(_columns(x.reshape(s * a, b)), 1)
    elif b < _NARROW and x.strides[1] == b * x.strides[2]:
        sums = _fold(_columns(x.reshape(s, a * b), positions=b), b)
    else:
        sums = _rows(x)
    off = sums.sum_K * (sums.sum_K / n)
    m2_C = sums.square_K - off
    faint = (sums.square_K < _TINY) & (sums.low_K != sums.high_K)
    if not np.isfinite(sums.square_K).all() or faint.any() or (off > 4 * m2_C).any():
        return None
    mean_C = sums.shift_K + sums.sum_K / n
    columns = np.array([np.full_like(mean_C, n), mean_C, m2_C.clip(min=0), sums.low_K, sums.high_K])
    return torch.from_numpy(columns), torch.tensor([float(sums.zeros), 0.0], dtype=torch.float64)


def _guess(x_RK: Floats) -> Floats:
    """The mean of the first rows, 0 where it is not finite; of one row that row, which is its mean."""
    mean_K = x_RK[:_FIRST].mean(axis=0)
    return np.where(np.isfinite(mean_K), mean_K, 0).astype(x_RK.dtype, copy=False)


def _columns(x_RK: Floats, *, positions: int = 1) -> Sums:
    """Of each column of a matrix. The `positions` columns of a unit have one shift."""
    rows, width = x_RK.shape
    shift_K = _guess(x_RK)
    if positions > 1:
        shift_K = np.repeat(shift_K.reshape(-1, positions).mean(axis=1), positions)
    side = min(max(1, _WIDTH // width), max(1, rows // _DEPTH)) if x_RK.flags.c_contiguous else 1
    whole = rows // side * side
    total = _add_up(x_RK[:whole].reshape(-1, side * width), np.tile(shift_K, side))
    total = _fold(total._replace(shift_K=total.shift_K), side, across=True)
    return total if whole == rows else _join(total, _add_up(x_RK[whole:], shift_K))


def _add_up(x_RK: Floats, shift_K: Floats) -> Sums:
    rows, width = x_RK.shape
    depth = min(_DEPTH, max(1, _BLOCK // width))
    copies, equal = np.empty((2, depth, width), x_RK.dtype), np.empty((depth, width), np.bool_)
    sum_K, square_K = np.zeros(width), np.zeros(width)
    low_K, high_K = np.full(width, np.inf, x_RK.dtype), np.full(width, -np.inf, x_RK.dtype)
    zeros = 0
    for start in range(0, rows, depth):
        block = x_RK[start : start + depth]
        off = np.subtract(block, shift_K, out=copies[0, : len(block)])
        square_K += _halved(np.multiply(off, off, out=copies[1, : len(block)]))
        sum_K += _halved(off)
        np.minimum(low_K, block.min(axis=0), out=low_K)
        np.maximum(high_K, block.max(axis=0), out=high_K)
        zeros += int(np.count_nonzero(np.equal(block, 0, out=equal[: len(block)])))
    return Sums(shift_K, sum_K, square_K, low_K, high_K, zeros)


def _halved(x_RK: Floats) -> Floats:
    """The sum of the rows, in pairs, which rounds less than one after the other; what is given is spoilt."""
    left = len(x_RK)
    while left > 1:
        half = left // 2
        x_RK[:half] += x_RK[left - half : left]
        left -= half
    total_K: Floats = x_RK[0]
    return total_K


def _rows(x_SCP: Floats) -> Sums:
    """Of each unit of samples x units x positions, where positions are many."""
    samples, units, positions = x_SCP.shape
    shift_C = _guess(x_SCP[0, :, :_FIRST].T)
    parts = []
    step = max(1, _BLOCK // (units * positions))
    for start in range(0, samples, step):
        block = x_SCP[start : start + step]
        off = block - shift_C[:, None]
        sum_C = off.sum(axis=2).sum(axis=0, dtype=np.float64)
        square_C = np.multiply(off, off, out=off).sum(axis=2).sum(axis=0, dtype=np.float64)
        ends = block.min(axis=2).min(axis=0), block.max(axis=2).max(axis=0)
        parts.append(Sums(shift_C, sum_C, square_C, *ends, int(np.count_nonzero(block == 0))))
    total = parts[0]
    for part in parts[1:]:
        total = _join(total, part)
    return total


def _join(a: Sums, b: Sums) -> Sums:
    """Sums about the same shifts."""
    low_K, high_K = np.minimum(a.low_K, b.low_K), np.maximum(a.high_K, b.high_K)
    return Sums(a.shift_K, a.sum_K + b.sum_K, a.square_K + b.square_K, low_K, high_K, a.zeros + b.zeros)


def _fold(sums: Sums, times: int, *, across: bool = False) -> Sums:
    """Of `times` columns of one unit those of the unit: neighbours, or (`across`) one in each part of the width."""
    if times == 1:
        return sums
    axis, shape = (0, (times, -1)) if across else (1, (-1, times))
    shift, total, square, low, high = (column.reshape(shape) for column in sums[:5])
    return Sums(
        shift.take(0, axis=axis), total.sum(axis=axis), square.sum(axis=axis), low.min(axis=axis),
        high.max(axis=axis), sums.zeros,
    )  # fmt: skip


def _plan(facts: ActivationFacts, dtype: torch.dtype) -> tuple[Plan, Floats]:
    """Bounds, and the entries of a tabulated gate beside their differences."""
    table = table_of(facts, torch.device("cpu"))
    entries = np.zeros(1, np.float32) if table is None else table.numpy()
    return plan_of(facts, dtype), np.stack([entries, np.diff(entries, append=entries[-1:])])


def _beyond(block: Floats, bounds: Sequence[float]) -> int:
    """Elements at or beyond a lower and an upper bound; one that is NaN is none."""
    sides = zip((np.less_equal, np.greater_equal), bounds, strict=False)
    return sum(int(np.count_nonzero(compare(block, bound))) for compare, bound in sides if bound == bound)


def _open(block: Floats, plan: Plan, table: Floats) -> float:
    return float(block.size - _beyond(block, plan.closed))


def _square(block: Floats, plan: Plan, table: Floats) -> float:
    a, b, c = map(np.float32, plan.square)
    gate = block * c
    gate += b
    gate *= block
    gate += a
    return float(gate.sum())


def _tabulated(block: Floats, plan: Plan, table: Floats) -> float:
    """Linear between the entries of the table and flat beyond it, without the sign."""
    low, high, steps = TABLE
    at = block - np.float32(low)
    at *= np.float32(steps / (high - low))
    np.clip(at, 0, steps, out=at)
    left = at.astype(np.int32)
    at -= left
    at *= table[1].take(left, mode="clip")
    at += table[0].take(left, mode="clip")
    return float(np.abs(at, out=at).sum())


_GATES: dict[str, Callable[[Floats, Plan, Floats], float]] = {"open": _open, "square": _square, "table": _tabulated}
"""By the form of a gate, its sum over a block; not finite where something in the block is not."""
