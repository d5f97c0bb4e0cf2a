"""From a tensor to its sums: the eager functions, or the fused kernel with the same results where it applies.

Legend: C units.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.fused import kernel
from actdiag.collect.gradients import squares
from actdiag.collect.histogram import BINS, count_octaves, stride_of
from actdiag.collect.layout import Units
from actdiag.collect.moments import GateSums, GradientSums, Moments, measure, measure_gate, measure_gradient
from actdiag.collect.slopes import Over
from actdiag.collect.units import count_open

_HEAD, _COLUMNS = 6, 6
_MOMENTS, _GATE, _OPEN = 1, 2, 4
_FORMS = {None: 0, "open": 1, "square": 2, "table": 3}
_TABLE = (-20.0, 20.0, 8192)
"""Range and steps of tabulated gates: linear between entries 1/205 apart, which is right to 5e-6; flat beyond."""
_MANY_ELEMENTS, _MANY_THREADS = 1 << 22, 4
"""The kernel has one thread and reads once; eager functions read about eight times, with all threads. Large tensors
of a machine with more threads than that are theirs."""


class Reduction(NamedTuple):
    """What was asked for of one tensor, None for what was not. `open_C`: samples that opened each unit."""

    moments: Moments | None = None
    octaves: Tensor | None = None
    gate: GateSums | None = None
    open_C: Tensor | None = None


class Asked(NamedTuple):
    """What is wanted of one tensor. `gate` and `open` need facts that read it."""

    moments: bool = False
    octaves: bool = False
    gate: bool = False
    open: bool = False


class Reducer(Protocol):
    """How tensors are reduced. Nothing synchronizes; no tensor is kept."""

    def reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction:
        """Sums of one tensor; `facts` must be there where gates or openings are asked for."""

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[GradientSums, Tensor | None]:
        """Sums of a gradient, and its octave counters."""

    def squares(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sums of squares in float64, 0-d."""


def reducer() -> Reducer:
    """The fused reducer where its kernel can be had, else the eager one."""
    return Eager() if kernel() is None else Fused()


class Eager:
    """By torch operations, on any device."""

    def reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction:
        """See Reducer."""
        return Reduction(
            moments=measure(units) if asked.moments else None,
            octaves=count_octaves(units.x) if asked.octaves else None,
            gate=measure_gate(units.units_last(), facts) if asked.gate and facts is not None else None,
            open_C=count_open(units, facts) if asked.open and facts is not None else None,
        )

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[GradientSums, Tensor | None]:
        """See Reducer."""
        return measure_gradient(g), count_octaves(g) if octaves else None

    def squares(self, tensors: list[Tensor]) -> list[Tensor]:
        """See Reducer."""
        return squares(tensors)


class Fused:
    """By the kernel, for tensors of the CPU of 16 and 32 bits; what it does not know is left to the eager functions."""

    def __init__(self) -> None:
        library = kernel()
        assert library is not None
        self._library = library
        self._eager = Eager()

    def reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction:
        """See Reducer."""
        if not _fits(units.x):
            return self._eager.reduce(units, facts, asked)
        plan = _plan(facts, units.x.dtype) if facts is not None and (asked.gate or asked.open) else None
        x, dim = _rows(units)
        geometry = _geometry((x.shape[0], x.shape[1], x.shape[2]), x.stride(), dim)
        (zeros, nonfinite, *gate), (n_C, mean_C, m2_C, low_C, high_C, open_C) = self._sums(
            x, geometry, units.units, _MOMENTS * asked.moments + _GATE * asked.gate + _OPEN * asked.open, plan
        )
        return Reduction(
            moments=Moments(n_C, mean_C, m2_C, low_C, high_C, zeros, nonfinite) if asked.moments else None,
            octaves=self._octaves(x, geometry) if asked.octaves else None,
            gate=self._gate(units, facts, gate) if asked.gate else None,
            open_C=open_C if asked.open else None,
        )

    def _gate(self, units: Units, facts: ActivationFacts | None, found: list[Tensor]) -> GateSums | None:
        """What the kernel has found, unless it does not know the gate."""
        if facts is not None and facts.gate is not None and facts.form is None:
            return self._eager.reduce(units, facts, Asked(gate=True)).gate
        return GateSums(*found)

    def _sums(
        self, x: Tensor, geometry: ctypes.Array[ctypes.c_int64], units: int, parts: int, plan: _Plan | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        out = torch.empty(_HEAD + _COLUMNS * units, dtype=torch.float64)
        form, numbers, table = (0, None, None) if plan is None else (plan.form, plan.numbers, plan.table)
        self._library.actdiag_reduce(x.data_ptr(), geometry, parts, form, numbers, table, out.data_ptr())
        return out[:_HEAD].unbind(), out[_HEAD:].view(_COLUMNS, units).unbind()

    def _octaves(self, x: Tensor, geometry: ctypes.Array[ctypes.c_int64]) -> Tensor:
        counts = torch.empty(BINS, dtype=torch.int64)
        self._library.actdiag_octaves(x.data_ptr(), geometry, counts.data_ptr())
        return counts

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[GradientSums, Tensor | None]:
        """See Reducer."""
        if not _fits(g):
            return self._eager.gradient(g, octaves=octaves)
        x = g.reshape(-1).float()
        x = x if x.is_contiguous() else x.contiguous()
        out = torch.empty(4, dtype=torch.float64)
        self._library.actdiag_gradient(x.data_ptr(), x.numel(), out.data_ptr())
        counts = self._octaves(x, _geometry((1, 1, x.numel()), (x.numel(), x.numel(), 1), 2)) if octaves else None
        return GradientSums(*out.unbind()), counts

    def squares(self, tensors: list[Tensor]) -> list[Tensor]:
        """See Reducer."""
        if not all(x.dtype == torch.float32 and _is_dense(x) and _fits(x) for x in tensors):
            return self._eager.squares(tensors)
        out = torch.empty(len(tensors), dtype=torch.float64)
        pointers = (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
        sizes = (ctypes.c_int64 * len(tensors))(*(x.numel() for x in tensors))
        self._library.actdiag_squares(pointers, sizes, len(tensors), out.data_ptr())
        return list(out.unbind())


def _is_dense(x: Tensor) -> bool:
    """Whether its elements lie one after the other, in whatever order."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _fits(x: Tensor) -> bool:
    """Whether the kernel reads it, and is the faster way."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    return x.numel() <= _MANY_ELEMENTS or torch.get_num_threads() <= _MANY_THREADS


def _rows(units: Units) -> tuple[Tensor, int]:
    """As float32 with the last dimension contiguous, and which dimension counts the units."""
    x, dim = units.x.float(), units.unit_dim
    if dim == 1 and x.shape[2] == 1:
        x, dim = x.transpose(1, 2), 2
    return (x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()), dim


@lru_cache(maxsize=512)
def _geometry(shape: tuple[int, int, int], strides: tuple[int, ...], unit_dim: int) -> ctypes.Array[ctypes.c_int64]:
    n = shape[0] * shape[1] * shape[2]
    return (ctypes.c_int64 * 7)(*shape, strides[0], strides[1], unit_dim, stride_of(n))


def _inward(bound: float | None, towards: float) -> float:
    """The nearest float32 that lies at the bound or beyond it; NaN for no bound."""
    if bound is None:
        return float("nan")
    near = np.float32(bound)
    beyond = float(near) > bound if towards < 0 else float(near) < bound
    return float(np.nextafter(near, np.float32(towards)) if beyond else near)


class _Plan(NamedTuple):
    """Facts as the kernel reads them. `keep` owns the memory of the table."""

    form: int
    numbers: ctypes.Array[ctypes.c_float]
    table: int | None
    keep: Tensor | None


@lru_cache(maxsize=256)
def _plan(facts: ActivationFacts, dtype: torch.dtype) -> _Plan:
    """Bounds as the eager functions compare with them: closed ones, and those of what clips, in the tensor's own dtype.

    Other saturated ends are compared in float64, which is the same as with the next float32 inside.
    """

    def rounded(bound: float) -> float:
        return float(torch.tensor(bound, dtype=torch.float64).to(dtype).double())

    low_end, high_end = facts.saturated_low, facts.saturated_high
    if facts.clips:
        ends = [float("nan") if end is None else rounded(end) for end in (low_end, high_end)]
    else:
        ends = [_inward(low_end, -math.inf), _inward(high_end, math.inf)]
    form = _FORMS[facts.form] if facts.gate is not None else 0
    low, high, steps = _TABLE
    keep = None
    if form == _FORMS["table"] and facts.gate is not None:
        gate = facts.gate.signed if isinstance(facts.gate, Over) else facts.gate
        keep = gate(torch.linspace(low, high, steps + 1, dtype=torch.float64)).float().contiguous()
    closed = [rounded(end) if math.isfinite(end) else math.nan for end in (facts.closed_low, facts.closed_high)]
    numbers = (ctypes.c_float * 10)(*closed, *ends, *facts.square, low, high, steps)
    return _Plan(form, numbers, None if keep is None else keep.data_ptr(), keep)
