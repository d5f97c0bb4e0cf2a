"""What is being added up at one site: accumulators of one step, and openings of units since the last recorded one."""

from __future__ import annotations

import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.layout import Units
from actdiag.collect.moments import merge_columns
from actdiag.collect.parallel import Place
from actdiag.collect.recent import Recent
from actdiag.collect.reducing import Asked, Eager, Reducer, Reduction
from actdiag.snapshot import Role


class Site:
    """One place where a tensor is observed. Holds sums (see Reduction), never a tensor of the user's.

    `traced`: its running call is one inside code that torch.compile has traced. `place`: which part of a layer it is,
    where layers are divided among ranks.
    """

    def __init__(
        self, name: str, kind: str, role: Role, facts: ActivationFacts | None, *, reducer: Reducer | None = None
    ) -> None:
        self._reducer = reducer or Eager()
        self.name = name
        self.kind = kind
        self.role = role
        self.facts = facts
        self.traced = False
        self.recent: Recent | None = None
        self.place: Place | None = None
        self.clear()

    @property
    def ran(self) -> bool:
        """Whether an output was added up in this step."""
        return self.columns_5C is not None

    def begin(self, *, recording: bool) -> None:
        """A step begins: a watched one only counts its calls."""
        if recording:
            self.clear()
        self.forward_calls = 0

    def clear(self) -> None:
        """Forget the step, keep what was observed of the units."""
        self.order = 0
        self.elements = 0
        self.samples = 0
        self.refused: str | None = None
        self.forward_calls = 0
        self.gradient_calls = 0
        self.columns_5C: Tensor | None = None
        self.counts_2: Tensor | None = None
        self.gate_4: Tensor | None = None
        self.octaves: Tensor | None = None
        self.gradient_4: Tensor | None = None
        self.gradient_octaves: Tensor | None = None

    def add_forward(self, units: Units, *, histogram: bool, read: int | None = None) -> bool:
        """Add one call's output to this step; whether it could be. Calls and micro-batches merge exactly.

        `read`: the step, if this is also the variable that the facts read: gates and evidence are added too.
        """
        if self.columns_5C is not None and self.columns_5C.shape[1] != units.units:
            self.refused = f"its number of units changes: {self.columns_5C.shape[1]}, then {units.units}"
            return False
        gate, opens = self._reads(recording=True) if read is not None else (False, False)
        found = self._reducer.reduce(units, self.facts, Asked(True, histogram, gate, opens))
        if found.columns_5C is not None:
            known = self.columns_5C
            self.columns_5C = found.columns_5C if known is None else merge_columns(known, found.columns_5C)
        self.counts_2 = _sum(self.counts_2, found.counts_2)
        self.octaves = _sum(self.octaves, found.octaves)
        self.elements += units.x.numel()
        self.samples += units.samples
        self._add_read(units, found, read or 0)
        return True

    def add_read(self, units: Units, step: int, *, recording: bool) -> None:
        """Add gates (recorded steps) and evidence about units of one call; `units` hold what the facts read."""
        gate, opens = self._reads(recording=recording)
        if gate or opens:
            found = self._reducer.reduce(units, self.facts, Asked(gate=gate, open=opens))
            self._add_read(units, found, step)

    def _reads(self, *, recording: bool) -> tuple[bool, bool]:
        """Whether gates, and openings, are to be counted."""
        return recording and self.facts is not None, self.facts is not None and self.facts.can_close

    def _add_read(self, units: Units, found: Reduction, step: int) -> None:
        self.gate_4 = _sum(self.gate_4, found.gate_4)
        if found.open_C is None:
            return
        if self.recent is None or units.units != self.recent.units:
            self.recent = Recent(units.units, units.x.device)
        self.recent.observe(found.open_C, units.samples, step)

    def add_gradient(self, g: Tensor, *, histogram: bool) -> None:
        """Add one backward's gradient. Under create_graph the gradient has a graph: none of it is kept."""
        with torch.no_grad():
            part, octaves = self._reducer.gradient(g.detach(), octaves=histogram)
            self.gradient_4 = _sum(self.gradient_4, part)
            self.gradient_octaves = _sum(self.gradient_octaves, octaves)
            self.gradient_calls += 1


def _sum(known: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Sums add; None is nothing."""
    return more if known is None else known if more is None else known + more


def is_tanh(facts: ActivationFacts | None) -> bool:
    """Whether an activation is tanh, which is half of a GELU that is written out: multiplied with 1 added to it."""
    return facts is not None and facts.name == "Tanh"


def squashes(facts: ActivationFacts | None) -> bool:
    """Whether an activation ends at or above 0 on both sides, as a sigmoid does: it may be a gate."""
    return facts is not None and facts.saturated_low is not None and facts.saturated_low >= 0
