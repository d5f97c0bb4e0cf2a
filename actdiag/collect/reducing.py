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
from actdiag.collect.moments import (
    GateSums,
    GradientSums,
    Moments,
    count,
    measure,
    measure_gate,
    measure_gradient,
)
from actdiag.collect.units import count_open


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

    def norms(self, tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each tensor its sum of squares and its zeros."""

    def updates(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
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
            return Reduction(
                moments=measure(units) if asked.moments else None,
                octaves=count_octaves(units.x) if asked.octaves else None,
                gate=measure_gate(units.units_last(), facts) if asked.gate and facts is not None else None,
                open_C=count_open(units, facts) if asked.open and facts is not None else None,
            )

    def gradient(self, g: Tensor, *, octaves: bool) -> tuple[GradientSums, Tensor | None]:
        """See Reducer."""
        with quiet(g):
            return measure_gradient(g), count_octaves(g) if octaves else None

    def squares(self, tensors: list[Tensor]) -> list[Tensor]:
        """See Reducer."""
        return squares(tensors)

    def norms(self, tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """See Reducer."""
        real = [x.abs() if x.is_complex() else x for x in tensors]
        return [(norm, count(torch.eq, x, 0.0)) for norm, x in zip(squares(tensors), real, strict=True)]

    def updates(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """See Reducer."""
        moves, bases = squares([after - before for after, before in pairs]), squares([before for _, before in pairs])
        return list(zip(moves, bases, strict=True))
