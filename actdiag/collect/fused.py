"""The reducer of the C kernel: one pass over a tensor, and the same results as those of the eager functions.

Legend: C units.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.arena import Arenas
from actdiag.collect.histogram import BINS, stride_of
from actdiag.collect.kernel import kernel
from actdiag.collect.layout import Units
from actdiag.collect.lean import Lean
from actdiag.collect.number import Number, rows_of
from actdiag.collect.plan import PACKED, TABLE, packed, plan_of, table_of
from actdiag.collect.reducing import Asked, Eager, Reducer, Reduction, fits
from actdiag.collect.triton_reducer import Triton, wanted

_HEAD, _COLUMNS = 6, 5
_MOMENTS, _GATE, _OPEN = 1, 2, 4
_SHARED = 1 << 16


def reducer(arenas: Arenas | None = None) -> Reducer:
    """The fused reducer where its kernel can be had, else the lean one; with Triton's where there may be a GPU.

    `arenas`: where what that one counts is to lie.
    """
    host: Reducer = Lean() if kernel() is None else Fused()
    return Triton(host, arenas=arenas) if wanted() else host


class Fused:
    """By the kernel, for tensors of the CPU of 16 and 32 bits; what it does not know is left to the eager functions."""

    def __init__(self) -> None:
        library = kernel()
        assert library is not None
        self._library = library
        self._eager = Eager()
        # Of this reducer, not of the process: facts of PReLU hold a parameter of the user's.
        self._plan = lru_cache(maxsize=256)(_plan)

    def reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction:
        """See Reducer."""
        if not fits(units.x, copies=units.x.stride(2) != 1 and units.x.shape[2] > 1):
            return self._eager.reduce(units, facts, asked)
        plan = self._plan(facts, units.x.dtype) if facts is not None and (asked.gate or asked.open) else None
        x, dim = _rows(units)
        geometry = _geometry((x.shape[0], x.shape[1], x.shape[2]), x.stride(), dim)
        sums = np.empty(_HEAD) if asked.moments or asked.gate else None
        columns = _numbers(_COLUMNS, units.units) if asked.moments else None
        open_C = _numbers(units.units) if asked.open else None
        octaves = _counters() if asked.octaves else None
        form, numbers, table = (0, None, None) if plan is None else (plan.form, plan.numbers, plan.table)
        parts = _MOMENTS * asked.moments + _GATE * asked.gate + _OPEN * asked.open
        head = None if sums is None else torch.from_numpy(sums)
        at = (_address(head), _address(columns), _address(open_C), _address(octaves))
        self._library.actdiag_reduce(x.data_ptr(), geometry, parts, form, numbers, table, *at)
        return Reduction(
            columns_5C=columns,
            counts_2=torch.from_numpy(sums[:2]) if sums is not None and asked.moments else None,
            octaves=octaves,
            gate_4=self._gate(units, facts, torch.from_numpy(sums[2:])) if sums is not None and asked.gate else None,
            open_C=open_C,
        )

    def _gate(self, units: Units, facts: ActivationFacts | None, found_4: Tensor) -> Tensor | None:
        """What the kernel has found, unless it does not know the gate."""
        if facts is not None and facts.gate is not None and facts.form is None:
            return self._eager.reduce(units, facts, Asked(gate=True)).gate_4
        return found_4

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[Tensor, Tensor | None]:
        """See Reducer."""
        if not fits(g, copies=not g.is_contiguous()):
            return self._eager.gradient(g, octaves=octaves)
        x = g if g.dtype == torch.float32 and g.is_contiguous() else g.reshape(-1).float().contiguous()
        n, out, counts = x.numel(), _numbers(4), _counters() if octaves else None
        every = _every(n) if octaves else 1
        self._library.actdiag_gradient(x.data_ptr(), n, out.data_ptr(), every, _address(counts))
        return out, counts

    def squares(self, tensors: list[Tensor]) -> list[Number]:
        """See Reducer."""
        return self._norms(tensors)[0] if _all_dense(tensors) else self._eager.squares(tensors)

    def norms(self, tensors: list[Tensor]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        return list(zip(*self._norms(tensors), strict=True)) if _all_dense(tensors) else self._eager.norms(tensors)

    def _norms(self, tensors: list[Tensor]) -> list[list[Number]]:
        n = len(tensors)
        out = _numbers(2, n)
        self._library.actdiag_squares(_pointers(tensors), _wholes([x.numel() for x in tensors]), n, *_rows_of(out))
        return rows_of(out)

    def keep(self, flat: list[Tensor]) -> list[tuple[Tensor, Number]]:
        """See Reducer."""
        if not flat or not _all_dense(flat):
            return self._eager.keep(flat)
        sizes, out = [x.numel() for x in flat], _numbers(1, len(flat))
        copies = _copies(sizes)
        to = (_pointers(flat), _pointers(copies), _wholes(sizes), len(flat), out.data_ptr())
        self._library.actdiag_keep(*to)
        return list(zip(copies, rows_of(out)[0], strict=True))

    def updates(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        after, before = [a for a, _ in pairs], [b for _, b in pairs]
        if not _all_dense(before) or not all(a.dtype == torch.float32 and fits(a) for a in after):
            return self._eager.updates(pairs)
        n, out = len(pairs), _numbers(2, len(pairs))
        strides, sizes = _wholes([a.stride(0) for a in after]), _wholes([a.numel() for a in after])
        self._library.actdiag_updates(_pointers(after), strides, _pointers(before), sizes, n, *_rows_of(out))
        return list(zip(*rows_of(out), strict=True))


def _all_dense(tensors: list[Tensor]) -> bool:
    return all(x.dtype == torch.float32 and _is_dense(x) and fits(x) for x in tensors)


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))


def _wholes(numbers: list[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _rows_of(out: Tensor) -> tuple[int, int]:
    """Where the two rows of a float64 tensor begin."""
    return out.data_ptr(), out.data_ptr() + 8 * out.shape[1]


def _numbers(*shape: int) -> Tensor:
    """Memory for float64: NumPy gives and cuts it in a third of the time that torch takes."""
    return torch.from_numpy(np.empty(shape))


def _copies(sizes: list[int]) -> list[Tensor]:
    """Memory for copies. Small ones share it; a large one finds room among what activations have left."""
    found, group = list[Tensor](), list[int]()
    for at, size in enumerate(sizes):
        group.append(size)
        if at + 1 == len(sizes) or sum(group) + sizes[at + 1] > _SHARED:
            found += torch.split(torch.empty(sum(group)), group)
            group = []
    return found


def _counters() -> Tensor:
    return torch.from_numpy(np.empty(BINS, np.int64))


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _is_dense(x: Tensor) -> bool:
    """Whether its elements lie one after the other, in whatever order."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _rows(units: Units) -> tuple[Tensor, int]:
    """As float32 with the last dimension contiguous, and which dimension counts the units."""
    x, dim = units.x.float(), units.unit_dim
    if dim == 1 and x.shape[2] == 1:
        x, dim = x.transpose(1, 2), 2
    return (x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()), dim


@lru_cache(maxsize=512)
def _geometry(shape: tuple[int, int, int], strides: tuple[int, ...], unit_dim: int) -> ctypes.Array[ctypes.c_int64]:
    n = shape[0] * shape[1] * shape[2]
    return (ctypes.c_int64 * 7)(*shape, strides[0], strides[1], unit_dim, _every(n))


_every = lru_cache(maxsize=512)(stride_of)


class _Plan(NamedTuple):
    """Facts as the kernel reads them. `keep` owns the memory of the table."""

    form: int
    numbers: ctypes.Array[ctypes.c_float]
    table: int | None
    keep: Tensor | None


def _plan(facts: ActivationFacts, dtype: torch.dtype) -> _Plan:
    form, closed, ends, square = plan_of(facts, dtype)
    keep = table_of(facts, torch.device("cpu"))
    words = None if keep is None else packed(keep)
    if words is not None:
        form, keep = PACKED[0], words
    scale = TABLE[2] / (TABLE[1] - TABLE[0])
    numbers = (ctypes.c_float * 13)(*closed, *ends, *square, *TABLE, scale, -TABLE[0] * scale, PACKED[1])
    return _Plan(form, numbers, None if keep is None else keep.data_ptr(), keep)
