"""The reducer of a GPU: two launches of Triton a tensor, and the same results as those of the eager functions.

Nothing synchronizes, no shape depends on data, nothing is tuned by trying. While a CUDA graph is captured nothing is
compiled and nothing made that the graph would share with what runs outside of it: a kernel that has not run before is
left to the eager functions, a table is made by the graph itself.

Legend: C units, K parts, B programs or blocks, E octaves.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.arena import Arena, Arenas, capturing
from actdiag.collect.histogram import BINS, stride_of
from actdiag.collect.layout import Units
from actdiag.collect.number import Number
from actdiag.collect.plan import Plan, plan_of, table_of
from actdiag.collect.reducing import Asked, Eager, Reducer, Reduction, quiet
from actdiag.collect.tiling import OCTAVE_BLOCK, Limits, Tiling, tiling_of

logger = logging.getLogger("actdiag")

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_UNBOUND = Plan(0, (math.nan, math.nan), (math.nan, math.nan), (0.0, 0.0, 0.0))
_LONGEST = 1 << 29
"""Of a dimension: its index has 32 bits, and there are up to five numbers a unit. The tensor may be larger."""
_MERGED_PARTS, _MERGED_UNITS = 64, 16
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}
"""Of the compiler. Its default for fused multiplications differs between releases, and so would the last bits."""
_MOST_KNOWN = 4096
"""Layouts that are remembered: sequences may have any length."""


def wanted() -> bool:
    """Whether there may be tensors for it, in a torch with CUDA. ACTDIAG_FUSED=0 leaves it out.

    Asks no device: that would start CUDA in a process that may fork. ROCm is left to eager functions: not tried.
    """
    return os.environ.get("ACTDIAG_FUSED", "1") != "0" and bool(torch.version.cuda)


class _Known(NamedTuple):
    """What follows from a layout and facts. `table` is shared by all layouts."""

    tiling: Tiling
    plan: Plan
    table: Tensor | None


class _Octaves(NamedTuple):
    """Every how many-th element is counted, how many that are, and by how many programs; parts and sums."""

    every: int
    sampled: int
    blocks: int
    parts_BE: Tensor
    sums_E: Tensor | None


class Triton:
    """By two launches, for tensors of a GPU of 16 and 32 bits; all other tensors are left to `rest`.

    What fails once (triton cannot be imported, a kernel not be compiled) is not tried again. `device`: the type of
    the tensors; "cpu" under Triton's interpreter.
    """

    def __init__(
        self,
        rest: Reducer | None = None,
        *,
        device: str = "cuda",
        limits: Limits | None = None,
        arenas: Arenas | None = None,
    ) -> None:
        self._rest: Reducer = rest or Eager()
        self._device, self._limits = device, limits or Limits()
        self._failed = False
        self._known: dict[tuple[Any, ...], _Known | None] = {}
        self._tables: dict[tuple[ActivationFacts, torch.device], Tensor | None] = {}
        self._arenas = arenas or Arenas()

    def reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction:
        """See Reducer. Two launches, and eager ones for a gate that the kernel does not know."""
        found: Reduction | None = None
        if self._takes(units.x):
            try:
                with quiet(units.x), _on(units.x):
                    found = self._reduce(units, facts, asked)
            except Exception as error:
                self._give_up(error)
        return self._rest.reduce(units, facts, asked) if found is None else found

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[Tensor, Tensor | None]:
        """See Reducer. Two launches."""
        found: tuple[Tensor, Tensor | None] | None = None
        if self._takes(g):
            try:
                with quiet(g), _on(g):
                    found = self._gradient(g, octaves)
            except Exception as error:
                self._give_up(error)
        return self._rest.gradient(g, octaves=octaves) if found is None else found

    def squares(self, tensors: list[Tensor]) -> list[Number]:
        """See Reducer. Torch has kernels for lists of tensors, which are better than two launches for each."""
        return self._rest.squares(tensors)

    def norms(self, tensors: list[Tensor]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        return self._rest.norms(tensors)

    def keep(self, flat: list[Tensor]) -> list[tuple[Tensor, Number]]:
        """See Reducer."""
        return self._rest.keep(flat)

    def updates(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        return self._rest.updates(pairs)

    def _takes(self, x: Tensor) -> bool:
        if self._failed or x.device.type != self._device:
            return False
        fits = x.dtype in _DTYPES and x.layout == torch.strided and not x.is_neg()
        return fits and x.numel() > 0 and max(x.shape, default=1) <= _LONGEST

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        logger.debug("actdiag: no Triton kernel, statistics are computed by torch (%s)", error)

    def _reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction | None:
        if facts is None:
            asked = asked._replace(gate=False, open=False)
        unknown = asked.gate and facts is not None and facts.gate is not None and facts.form is None
        ours = asked._replace(gate=asked.gate and not unknown)
        read = facts if ours.gate or ours.open else None
        x = units.x
        key = (units.unit_dim, ours, read, *_layout(x))
        known = self._known.get(key) or (None if capturing(x.device) else self._prepare(units, read))
        if known is None:
            return None
        if known.table is not None and read is not None and capturing(x.device):
            known = known._replace(table=table_of(read, x.device))
        found = _launch(units, known, ours, self._arenas.of(x.device))
        self._remember(key, known)
        if unknown:
            found = found._replace(gate_4=self._rest.reduce(units, facts, Asked(gate=True)).gate_4)
        return found

    def _prepare(self, units: Units, facts: ActivationFacts | None) -> _Known:
        tiling = tiling_of(_sizes(units), units_inner=_units_inner(units), limits=self._limits)
        if facts is None:
            return _Known(tiling, _UNBOUND, None)
        at = (facts, units.x.device)
        if at not in self._tables:
            self._tables[at] = table_of(*at)
        return _Known(tiling, plan_of(facts, units.x.dtype), self._tables[at])

    def _remember(self, key: tuple[Any, ...], known: _Known | None) -> None:
        if key in self._known:
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = known

    def _gradient(self, g: Tensor, octaves: bool) -> tuple[Tensor, Tensor | None] | None:
        at = _flat(g)
        key = ("gradient", octaves, *_layout(g))
        if at is None or (key not in self._known and capturing(g.device)):
            return None
        found = _launch_gradient(g, at, octaves, limits=self._limits, arena=self._arenas.of(g.device))
        self._remember(key, None)
        return found


def _on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _layout(x: Tensor) -> tuple[Any, ...]:
    """What a kernel is compiled for, and more: with the same layout nothing has to be compiled."""
    return x.device, x.dtype, x.shape, x.stride(), x.data_ptr() % 16


def _sizes(units: Units) -> tuple[int, int, int]:
    return units.samples, units.x.shape[3 - units.unit_dim], units.units


def _units_inner(units: Units) -> bool:
    """Whether neighbours in memory are units rather than positions."""
    position = 3 - units.unit_dim
    return units.x.shape[position] == 1 or units.x.stride(units.unit_dim) <= units.x.stride(position)


def _octaves(x: Tensor, wanted: bool, arena: Arena) -> _Octaves:
    if not wanted:  # the kernel has code for them that does not run
        return _Octaves(1, 0, 0, torch.empty(0, BINS, dtype=torch.int32, device=x.device), None)
    every = stride_of(x.numel())
    sampled = -(-x.numel() // every)
    blocks = -(-sampled // OCTAVE_BLOCK)
    parts_BE = torch.empty(blocks, BINS, dtype=torch.int32, device=x.device)
    return _Octaves(every, sampled, blocks, parts_BE, arena.take(BINS, dtype=torch.int64))


def _launch(units: Units, known: _Known, asked: Asked, arena: Arena) -> Reduction:
    from actdiag.collect.triton_kernel import reduce_parts
    from actdiag.collect.triton_merge import merge_parts

    x, tiling, plan = units.x, known.tiling, known.plan
    samples, positions, count = _sizes(units)

    def empty(wanted: bool, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor | None:
        return torch.empty(shape, dtype=dtype, device=x.device) if wanted else None

    summed = asked.moments or asked.gate
    octaves = _octaves(x, asked.octaves, arena)
    units_K5C = empty(asked.moments, tiling.parts, 5, count)
    open_KC = empty(asked.open, tiling.parts, count, dtype=torch.int32)
    sums_5B = empty(summed, 5, tiling.programs)
    columns_5C = arena.take(5, count) if asked.moments else None
    sums_6 = arena.take(6) if summed else None
    open_C = empty(asked.open, count)  # is kept from step to step
    steps = (x.stride(0), x.stride(3 - units.unit_dim), x.stride(units.unit_dim))
    reduce_parts[(octaves.blocks + tiling.programs,)](
        x, known.table, units_K5C, open_KC, sums_5B, octaves.parts_BE, samples, positions, count, *steps,
        tiling.per_group, tiling.splits, tiling.per_split, tiling.unit_tiles, octaves.blocks, octaves.sampled,
        octaves.every, *plan.closed, *plan.ends, *plan.square, MOMENTS=asked.moments, GATE=asked.gate, FORM=plan.form,
        OPEN=asked.open, UNITS_LAST=units.unit_dim == 2, BS=tiling.at_once, BP=tiling.positions, BC=tiling.units,
        **_OPTIONS,
    )  # fmt: skip
    tiles = -(-count // _MERGED_UNITS) if asked.moments or asked.open else 0
    merge_parts[(tiles + 1 + asked.octaves,)](
        units_K5C, open_KC, sums_5B, octaves.parts_BE, columns_5C, open_C, sums_6, octaves.sums_E,
        tiling.groups, tiling.splits, count, tiles, tiling.programs, x.numel(), octaves.blocks,
        MOMENTS=asked.moments, OPEN=asked.open, SUMS=summed, OCTAVES=asked.octaves, BK=_MERGED_PARTS, BC=_MERGED_UNITS,
        enable_fp_fusion=False,
    )  # fmt: skip
    return Reduction(
        columns_5C=columns_5C,
        counts_2=sums_6[4:] if sums_6 is not None and asked.moments else None,
        octaves=octaves.sums_E,
        gate_4=sums_6[:4] if sums_6 is not None and asked.gate else None,
        open_C=open_C,
    )


def _flat(g: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], bool] | None:
    """Three sizes and strides in the order of the dimensions, and whether elements lie one after the other.

    None where it takes more than three of them.
    """
    if g.is_contiguous():
        return (1, 1, g.numel()), (g.numel(), g.numel(), 1), True
    if g.ndim > 3:
        try:
            g = g.view(g.shape[0], g.shape[1], -1)
        except RuntimeError:
            return None
    missing = 3 - g.ndim
    return (1,) * missing + tuple(g.shape), (0,) * missing + g.stride(), False


def _launch_gradient(
    g: Tensor, at: tuple[tuple[int, ...], tuple[int, ...], bool], wanted: bool, *, limits: Limits, arena: Arena
) -> tuple[Tensor, Tensor | None]:
    from actdiag.collect.triton_kernel import gradient_parts
    from actdiag.collect.triton_merge import merge_parts

    n, octaves, size = g.numel(), _octaves(g, wanted, arena), max(1, limits.tile // 2)
    (_, *sizes), strides, dense = at
    blocks = -(-n // size)
    per_program = -(-blocks // min(blocks, limits.programs))
    programs = -(-blocks // per_program)
    sums_5B = torch.empty(5, programs, dtype=torch.float64, device=g.device)
    sums_6 = arena.take(6)
    gradient_parts[(octaves.blocks + programs,)](
        g, sums_5B, octaves.parts_BE, n, *sizes, *strides, per_program, octaves.blocks, octaves.sampled, octaves.every,
        DENSE=dense, SIZE=size, **_OPTIONS,
    )  # fmt: skip
    merge_parts[(1 + wanted,)](
        None, None, sums_5B, octaves.parts_BE, None, None, sums_6, octaves.sums_E, 0, 1, 0, 0, programs, n,
        octaves.blocks, MOMENTS=False, OPEN=False, SUMS=True, OCTAVES=wanted, BK=_MERGED_PARTS, BC=_MERGED_UNITS,
        enable_fp_fusion=False,
    )  # fmt: skip
    return sums_6[:4], octaves.sums_E
