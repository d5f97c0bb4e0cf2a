"""What is being added up at one site: accumulators of one step, and openings of units since the last recorded one."""

from __future__ import annotations

import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.histogram import count_octaves
from actdiag.collect.layout import Units
from actdiag.collect.moments import (
    GateSums,
    GradientSums,
    Moments,
    add_gates,
    add_gradients,
    measure,
    measure_gate,
    measure_gradient,
    merge,
)
from actdiag.collect.parallel import Place
from actdiag.collect.recent import Recent
from actdiag.collect.units import count_open
from actdiag.snapshot import Role


class Site:
    """One place where a tensor is observed. Holds sums, never a tensor of the user's.

    `traced`: its running call is one inside code that torch.compile has traced. `place`: which part of a layer it is,
    where layers are divided among ranks.
    """

    def __init__(self, name: str, kind: str, role: Role, facts: ActivationFacts | None) -> None:
        self.name = name
        self.kind = kind
        self.role = role
        self.facts = facts
        self.traced = False
        self.recent: Recent | None = None
        self.place: Place | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the step, keep what was observed of the units."""
        self.order = 0
        self.elements = 0
        self.samples = 0
        self.refused: str | None = None
        self.forward_calls = 0
        self.gradient_calls = 0
        self.moments: Moments | None = None
        self.gate: GateSums | None = None
        self.octaves: Tensor | None = None
        self.gradient: GradientSums | None = None
        self.gradient_octaves: Tensor | None = None

    def add_forward(self, units: Units, *, histogram: bool) -> bool:
        """Add one call's output to this step; whether it could be. Calls and micro-batches merge exactly."""
        part = measure(units)
        if self.moments is not None and self.moments.n_C.shape != part.n_C.shape:
            self.refused = f"its number of units changes: {len(self.moments.n_C)}, then {len(part.n_C)}"
            return False
        octaves = count_octaves(units.x) if histogram else None
        self.moments = part if self.moments is None else merge(self.moments, part)
        if octaves is not None:
            self.octaves = octaves if self.octaves is None else self.octaves + octaves
        self.elements += units.x.numel()
        self.samples += units.samples
        return True

    def add_gate(self, read: Units) -> None:
        """Add the gates of one call; `read` is the variable that the facts read."""
        if self.facts is None:
            return
        part = measure_gate(read.units_last(), self.facts)
        self.gate = part if self.gate is None else add_gates(self.gate, part)

    def add_evidence(self, read: Units, step: int) -> None:
        """Add one call to what was observed of the units since the last recorded step."""
        if self.facts is None or not self.facts.can_close:
            return
        if self.recent is None or read.units != self.recent.units:
            self.recent = Recent(read.units, read.x.device)
        self.recent.observe(count_open(read, self.facts), read.samples, step)

    def add_gradient(self, g: Tensor, *, histogram: bool) -> None:
        """Add one backward's gradient. Under create_graph the gradient has a graph: none of it is kept."""
        with torch.no_grad():
            g = g.detach()
            part = measure_gradient(g)
            octaves = count_octaves(g) if histogram else None
            self.gradient = part if self.gradient is None else add_gradients(self.gradient, part)
            if octaves is not None:
                self.gradient_octaves = octaves if self.gradient_octaves is None else self.gradient_octaves + octaves
            self.gradient_calls += 1


def is_tanh(facts: ActivationFacts | None) -> bool:
    """Whether an activation is tanh, which is half of a GELU that is written out: multiplied with 1 added to it."""
    return facts is not None and facts.name == "Tanh"


def squashes(facts: ActivationFacts | None) -> bool:
    """Whether an activation ends at or above 0 on both sides, as a sigmoid does: it may be a gate."""
    return facts is not None and facts.saturated_low is not None and facts.saturated_low >= 0
