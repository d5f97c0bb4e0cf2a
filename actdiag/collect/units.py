"""Evidence about units: when did each one last open, on how many samples, and what follows from it.

On the device, per site: three ages since the unit's gate last opened (in samples, in observations, in steps)
and how many samples opened it. On the host the ages
become states. Evidence and what is remembered of deaths survive in plain values (`state`, `restored`), so that a
resumed run goes on where it was.

Why silence and not zeros: with 20 % of the units truly dead a batch of 8 shows 21 % silent units and a batch of
1 shows 61 %; only silence over a window of samples is evidence. After n silent samples the firing rate is below
3/n with 95 % confidence (rule of three).

Legend: C units, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.layout import Units
from actdiag.collect.saved import host, saved_tensor, whole

RARE_RATE = 0.01
"""A unit that opens on fewer samples is rare. Source: SageMaker Debugger's DeadRelu, active < 1 % of the time."""
SUSPECT_SAMPLES = 300
"""Silent samples after which the rate is below RARE_RATE with 95 % confidence: 3 / 0.01."""
_MISSED = 3.0
MIN_OBSERVATIONS = 16
"""Batches of silence before any word about a unit: windows of 4 batches raise premature alarms in 3 of 10 runs,
of 16 batches in none (measured on ten dying and four healthy runs)."""


def count_open(units: Units, facts: ActivationFacts) -> Tensor:
    """How many samples opened each unit's gate at any position, [C]. `units` hold what `facts` reads."""
    closed = facts.closed_mask(units.x)
    position = 3 - units.unit_dim
    if closed.shape[position] > 1:
        closed = closed.amin(dim=position, keepdim=True)  # a sample is closed where all its positions are
    return units.samples - closed.sum(units.reduced)


@dataclass
class UnitEvidence:
    """What has been observed of the units of one site, on the device; counters of the host beside it."""

    ages_3C: Tensor
    open_C: Tensor
    open_before_C: Tensor
    window: int
    samples: int = 0
    observations: int = 0
    block: list[int] = field(default_factory=lambda: [0, 0])
    _last_step: int | None = None
    _grown: tuple[tuple[int, int], Tensor] | None = None

    @staticmethod
    def empty(count: int, device: torch.device, window: int) -> UnitEvidence:
        """No evidence yet about `count` units."""
        dtype = _dtype(device)
        return UnitEvidence(
            ages_3C=torch.zeros(3, count, dtype=dtype, device=device),
            open_C=torch.zeros(count, dtype=dtype, device=device),
            open_before_C=torch.zeros(count, dtype=dtype, device=device),
            window=window,
        )

    def observe(self, open_C: Tensor, samples: int, step: int) -> None:
        """Add one batch in which `open_C` of `samples` samples opened each unit. No synchronization."""
        if self.ages_3C.device != open_C.device:  # restored evidence begins on the host
            self.move(open_C.device)
        if self.block[0] >= self.window:
            self.open_before_C, self.open_C = self.open_C, torch.zeros_like(self.open_C)
            self.block = [0, self.block[0]]
        steps = step - self._last_step if self._last_step is not None else 1
        self.ages_3C.add_(self._growth(samples, steps)).masked_fill_(open_C > 0, 0)
        self.open_C.add_(open_C)
        self.block[0] += samples
        self.samples += samples
        self.observations += 1
        self._last_step = step

    def _growth(self, samples: int, steps: int) -> Tensor:
        """By how much every age grows, [3, 1]; kept, since it is nearly always the same."""
        key = samples, steps
        if self._grown is None or self._grown[0] != key:
            values = [[float(samples)], [1.0], [float(steps)]]
            self._grown = key, torch.tensor(values, dtype=self.ages_3C.dtype, device=self.ages_3C.device)
        return self._grown[1]

    def move(self, device: torch.device) -> None:
        """Go on on another device."""
        dtype = _dtype(device)
        self.ages_3C = self.ages_3C.to(device, dtype)
        self.open_C = self.open_C.to(device, dtype)
        self.open_before_C = self.open_before_C.to(device, dtype)
        self._grown = None

    def state(self) -> dict[str, Any]:
        """Everything known, as plain values and tensors of the host."""
        return {
            "ages": host(self.ages_3C),
            "open": host(self.open_C),
            "open_before": host(self.open_before_C),
            "samples": self.samples,
            "observations": self.observations,
            "block": list(self.block),
            "last_step": self._last_step,
        }

    @staticmethod
    def restored(state: Mapping[str, Any], window: int) -> UnitEvidence:
        """The inverse of `state`, on the host, judged by a window of today. Raises ValueError for other values."""
        ages = saved_tensor(state, "ages", torch.float64)
        if ages.ndim != 2 or ages.shape[0] != 3:
            raise ValueError(f"ages have the shape {tuple(ages.shape)}")
        block = state.get("block")
        if not isinstance(block, list) or len(block) != 2:
            raise ValueError(f"block cannot be {block!r:.40}")
        return UnitEvidence(
            ages_3C=ages,
            open_C=saved_tensor(state, "open", torch.float64, shape=ages.shape[1:]),
            open_before_C=saved_tensor(state, "open_before", torch.float64, shape=ages.shape[1:]),
            window=window,
            samples=whole(state, "samples"),
            observations=whole(state, "observations"),
            block=[whole({"block": size}, "block") for size in block],
            _last_step=whole(state, "last_step", none=True),
        )


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class UnitVerdict:
    """States of the units of one site at one step."""

    states: str
    evidence_samples: int
    first_death_step: int | None
    known: bool

    def count(self, letter: str) -> int | None:
        """Units in a state; None while there is too little evidence to say anything."""
        return self.states.count(letter) if self.known else None


class UnitLedger:
    """Host-side memory of one site: which units have died, when, and when they came back."""

    def __init__(self, count: int) -> None:
        self._died_at_C = np.full(count, -1, dtype=np.int64)
        self._revived_at_C = np.full(count, -1, dtype=np.int64)

    def state(self) -> dict[str, Any]:
        """What is remembered, as tensors: -1 where a unit has not died or not come back."""
        return {"died_at": torch.tensor(self._died_at_C), "revived_at": torch.tensor(self._revived_at_C)}

    @staticmethod
    def restored(state: Mapping[str, Any], count: int) -> UnitLedger:
        """The inverse of `state`. Raises ValueError for other values and another number of units."""
        ledger = UnitLedger(count)
        ledger._died_at_C = saved_tensor(state, "died_at", torch.int64, shape=(count,)).numpy()
        ledger._revived_at_C = saved_tensor(state, "revived_at", torch.int64, shape=(count,)).numpy()
        return ledger

    def judge(
        self, ages_3C: NDArray[np.float64], opened: NDArray[np.float64], evidence: UnitEvidence, step: int
    ) -> UnitVerdict:
        """States from ages and from how many samples opened each unit in the last one or two windows.

        dead: silent for the whole window; suspect: silent for at least 300 samples and for longer than its own
        rate before explains (at that rate 3 openings were missed, again 95 %); rare: opened on less than 1 % of
        the samples of the last one or two windows; revived: was dead, and has opened since less than a window
        ago; alive: everything else. Dead and suspect need 16 observed batches of silence.
        """
        silent = ages_3C[1] >= MIN_OBSERVATIONS
        dead = silent & (ages_3C[0] >= evidence.window)
        seen = sum(evidence.block)
        missed = opened / np.maximum(seen - ages_3C[0], np.maximum(opened, 1)) * ages_3C[0]
        suspect = silent & (ages_3C[0] >= SUSPECT_SAMPLES) & ~dead & ((opened == 0) | (missed >= _MISSED))
        rate = opened / max(seen, 1)
        rare = (rate < RARE_RATE) & (seen >= SUSPECT_SAMPLES) & ~dead & ~suspect
        revived = self._remember(dead, silent, ages_3C[2], evidence, step)
        letters = np.full(dead.shape, "a")
        for mask, letter in ((rare, "r"), (suspect, "s"), (revived & ~suspect & ~dead, "v"), (dead, "d")):
            letters[mask] = letter
        known = evidence.samples >= SUSPECT_SAMPLES and evidence.observations >= MIN_OBSERVATIONS
        died = self._died_at_C[self._died_at_C >= 0]
        return UnitVerdict(
            states="".join(letters),
            evidence_samples=min(evidence.samples, evidence.window),
            first_death_step=int(died.min()) if died.size else None,
            known=known,
        )

    def _remember(
        self,
        dead: NDArray[np.bool_],
        silent: NDArray[np.bool_],
        age_steps: NDArray[np.float64],
        evidence: UnitEvidence,
        step: int,
    ) -> NDArray[np.bool_]:
        """Note new deaths (dated by the step after the unit last opened) and revivals; who has revived.

        A unit that has been back for a window is as if it had never been dead.
        """
        n = evidence.samples
        settled = (self._revived_at_C >= 0) & (n - self._revived_at_C >= evidence.window) & ~dead
        self._died_at_C[settled] = self._revived_at_C[settled] = -1
        fresh = dead & (self._died_at_C < 0)
        self._died_at_C[fresh] = (step - age_steps[fresh] + 1).clip(min=0).astype(np.int64)
        back = (self._died_at_C >= 0) & (self._revived_at_C < 0) & ~silent
        self._revived_at_C[back] = n
        again = dead & (self._revived_at_C >= 0)
        self._revived_at_C[again] = -1
        return self._revived_at_C >= 0
