"""From a tensor to its sums: what is asked for, what is given, and the eager functions that give it.

Legend: C units.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.gradients import squares
from actdiag.collect.histogram import count_octaves
from actdiag.collect.layout import Units
from actdiag.collect.moments import columns_of, count, counts_of, measure, measure_gate, measure_gradient
from actdiag.collect.number import Number, each
from actdiag.collect.units import count_open

_MOST_COPIED = 1 << 18
"""Elements that may be copied, 1 MB: half precision is widened, and a strided tensor made contiguous."""
_MANY_ELEMENTS, _MANY_THREADS = 1 << 22, 4
"""The kernel and NumPy have one thread; eager functions read about eight times, with all threads. Large tensors of a
machine with more threads than that are theirs."""


class Reduction(NamedTuple):
    """What was asked for of one tensor, float64, None for what was not. Few tensors: each costs some microseconds.

    `columns_5C`: n, mean, m2, low and high of each unit (Moments); `counts_2`: zeros and non-finite elements;
    `octaves`: int64 [512]; `gate_4`: the fields of GateSums; `open_C`: samples that opened each unit.
    """

    columns_5C: Tensor | None = None
    counts_2: Tensor | None = None
    octaves: Tensor | None = None
    gate_4: Tensor | None = None
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

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[Tensor, Tensor | None]:
        """The fields of GradientSums as one tensor, and octave counters."""

    def squares(self, tensors: list[Tensor]) -> list[Number]:
        """Sums of squares."""

    def norms(self, tensors: list[Tensor]) -> list[tuple[Number, Number]]:
        """Of each tensor its sum of squares and its zeros."""

    def keep(self, flat: list[Tensor]) -> list[tuple[Tensor, Number]]:
        """Copies of flat tensors, each with its sum of squares."""

    def updates(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Number, Number]]:
        """Of flat tensors after and before: sums of squares of the difference, and of what was before."""


@contextlib.contextmanager
def quiet(x: Tensor) -> Iterator[None]:
    """No gradient, no autocast, no function mode: statistics are computed in the dtype they ask for, unseen."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        if not torch.is_autocast_enabled(x.device.type):
            yield
            return
        with torch.autocast(x.device.type, enabled=False):
            yield


class Eager:
    """By torch operations, on any device."""

    def reduce(self, units: Units, facts: ActivationFacts | None, asked: Asked) -> Reduction:
        """See Reducer."""
        with quiet(units.x):
            moments = measure(units) if asked.moments else None
            gate = measure_gate(units.units_last(), facts) if asked.gate and facts is not None else None
            return Reduction(
                columns_5C=None if moments is None else columns_of(moments),
                counts_2=None if moments is None else counts_of(moments),
                octaves=count_octaves(units.x) if asked.octaves else None,
                gate_4=None if gate is None else torch.stack(gate),
                open_C=count_open(units, facts) if asked.open and facts is not None else None,
            )

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[Tensor, Tensor | None]:
        """See Reducer."""
        with quiet(g):
            return torch.stack(measure_gradient(g)), count_octaves(g) if octaves else None

    def squares(self, tensors: list[Tensor]) -> list[Number]:
        """See Reducer."""
        return each(squares(tensors))

    def norms(self, tensors: list[Tensor]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        real = [x.abs() if x.is_complex() else x for x in tensors]
        return list(zip(self.squares(tensors), each(count(torch.eq, x, 0.0) for x in real), strict=True))

    def keep(self, flat: list[Tensor]) -> list[tuple[Tensor, Number]]:
        """See Reducer."""
        return list(zip([x.clone() for x in flat], self.squares(flat), strict=True))

    def updates(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Number, Number]]:
        """See Reducer."""
        moves = self.squares([after - before for after, before in pairs])
        return list(zip(moves, self.squares([before for _, before in pairs]), strict=True))


def fits(x: Tensor, *, copies: bool = False) -> bool:
    """Whether one thread can read it as it lies in memory, or after a small copy, and is the faster way."""
    if not x.is_cpu or x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or x.is_neg():
        return False
    if (copies or x.dtype != torch.float32) and x.numel() > _MOST_COPIED:
        return False
    return x.numel() <= _MANY_ELEMENTS or torch.get_num_threads() <= _MANY_THREADS
