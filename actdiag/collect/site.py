"""What is being added up at one site: accumulators of one step, and evidence about units over many."""

from __future__ import annotations

from collections.abc import Mapping

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
from actdiag.collect.units import UnitEvidence, UnitLedger, count_open
from actdiag.names import call_name
from actdiag.snapshot import Role


class Site:
    """One place where a tensor is observed. Holds sums, never a tensor of the user's.

    `traced`: its running call is one inside code that torch.compile has traced.
    """

    def __init__(self, name: str, kind: str, role: Role, facts: ActivationFacts | None) -> None:
        self.name = name
        self.kind = kind
        self.role = role
        self.facts = facts
        self.traced = False
        self.evidence: UnitEvidence | None = None
        self.ledger: UnitLedger | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the step, keep the evidence."""
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

    def add_evidence(self, read: Units, step: int, window: int) -> None:
        """Add one call to the evidence about units."""
        if self.facts is None or not self.facts.can_close:
            return
        if self.evidence is None or read.units != self.evidence.ages_3C.shape[1]:
            # Another number of units is another layer: what was known of the old ones says nothing of these.
            self.evidence = UnitEvidence.empty(read.units, read.x.device, window)
            self.ledger = UnitLedger(read.units)
        self.evidence.observe(count_open(read, self.facts), read.samples, step)

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


def name_calls(sites: Mapping[tuple[str, int], Site]) -> None:
    """Number the calls of each module that count; passes without gradients before them have no number."""
    calls: dict[str, list[Site]] = {}
    for (key, _), site in sorted(sites.items(), key=lambda item: item[0][1]):
        if site.moments is not None:
            calls.setdefault(key, []).append(site)
    for key, counted in calls.items():
        for index, site in enumerate(counted):
            site.name = call_name(key, index, several=len(counted) > 1)


def squashes(facts: ActivationFacts | None) -> bool:
    """Whether an activation ends at or above 0 on both sides, as a sigmoid does: it may be a gate."""
    return facts is not None and facts.saturated_low is not None and facts.saturated_low >= 0
