"""Evidence about units: when did each one last open, on how many samples, and what follows from it.

What is observed between two recorded steps is counted on the device (`Recent`); a recorded step joins the ranks and
adds it to the evidence here, on the host, where it becomes states. Evidence and what is remembered of deaths survive
in plain values (`state`, `restored`), so that a resumed run goes on where it was.

Why silence and not zeros: with 20 % of the units truly dead a batch of 8 shows 21 % silent units and a batch of
1 shows 61 %; only silence over a window of samples is evidence. After n silent samples the firing rate is below
3/n with 95 % confidence (rule of three).

Legend: C units, T observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.layout import Units
from actdiag.collect.recent import Openings
from actdiag.collect.saved import saved_tensor, whole

RARE_RATE = 0.01
"""A unit that opens on fewer samples is rare. Source: SageMaker Debugger's DeadRelu, active < 1 % of the time."""
SUSPECT_SAMPLES = 300
"""Silent samples after which the rate is below RARE_RATE with 95 % confidence: 3 / 0.01."""
SELDOM_RATE = 0.004
"""A unit that opens on so few of a window, or fewer, is silent for a whole one at times. Source: the rules' limits."""
_MISSED = 3.0
MIN_OBSERVATIONS = 16
"""Batches of silence before any word about a unit: windows of 4 batches raise premature alarms in 3 of 10 runs,
of 16 batches in none (measured on ten dying and four healthy runs)."""
_FLICKER_SAMPLES, _FLICKER_OBSERVATIONS = 100, 6
"""A silence that a unit comes back from in a flicker is a third of what makes a suspect, or longer: three such openings
would have been missed then."""


def count_open(units: Units, facts: ActivationFacts) -> Tensor:
    """How many samples opened each unit's gate at any position, [C]. `units` hold what `facts` reads."""
    closed = facts.closed_mask(units.x)
    position = 3 - units.unit_dim
    if closed.shape[position] > 1:
        closed = closed.amin(dim=position, keepdim=True)  # a sample is closed where all its positions are
    return units.samples - closed.sum(units.reduced)


@dataclass(frozen=True, kw_only=True)
class UnitEvidence:
    """What has been observed of the units of one site until the last recorded step. Plain numbers on the host.

    `ages_3C`: samples, observations and steps since a unit last opened. `open_C` and `open_before_C` count the samples
    that opened it in the running block of observations and in the one before; `block` has their samples. A block ends
    with the first recorded step at which it has a window of samples.
    """

    ages_3C: NDArray[np.float64]
    open_C: NDArray[np.float64]
    open_before_C: NDArray[np.float64]
    window: int
    samples: int = 0
    observations: int = 0
    block: tuple[int, int] = (0, 0)
    last_step: int | None = None

    @staticmethod
    def empty(count: int, window: int) -> UnitEvidence:
        """No evidence yet about `count` units."""
        none_C = np.zeros(count)
        return UnitEvidence(ages_3C=np.zeros((3, count)), open_C=none_C, open_before_C=none_C, window=window)

    @property
    def units(self) -> int:
        return len(self.open_C)

    @property
    def seldom_units(self) -> int:
        """Units that opened in the running block or the one before, on 0.4 % of a window at most; silent ones too."""
        opened_C, most = self.open_C + self.open_before_C, SELDOM_RATE * min(self.samples, self.window)
        return int(np.count_nonzero((opened_C > 0) & (opened_C <= most)))

    def absorb(self, seen: Openings) -> UnitEvidence:
        """With what has been observed since, by one rank or by several together."""
        if not len(seen.stamps_T):
            return self
        total = int(seen.samples)
        turned = self.block[0] >= self.window
        open_C, before_C = (0.0, self.open_C) if turned else (self.open_C, self.open_before_C)
        done, before = (0, self.block[0]) if turned else self.block
        return UnitEvidence(
            ages_3C=self._ages(seen),
            open_C=open_C + seen.opens_C,
            open_before_C=before_C,
            window=self.window,
            block=(done + total, before),
            samples=self.samples + total,
            observations=self.observations + len(seen.stamps_T),
            last_step=seen.span[1],
        )

    def _ages(self, seen: Openings) -> NDArray[np.float64]:
        """What was silent throughout grows older by everything; else by what came after it last opened."""
        (first, last), n = seen.span, len(seen.stamps_T)
        since = first - 1 if self.last_step is None else self.last_step
        growth = np.array([[seen.samples], [n], [last - since]], dtype=np.float64)
        opened_C = seen.last_C > 0
        if n == 1:  # what has opened has just opened
            return (self.ages_3C + growth) * ~opened_C
        steps_T, samples_T = seen.steps_T, seen.samples_T.cumsum()
        after_3T = np.array([samples_T[-1] - samples_T, np.arange(n)[::-1], steps_T[-1] - steps_T])
        at_C = np.searchsorted(seen.stamps_T, seen.last_C).clip(max=n - 1)
        return np.where(opened_C, after_3T[:, at_C], self.ages_3C + growth)

    def state(self) -> dict[str, Any]:
        """Everything known, as plain values and tensors of the host."""
        return {
            "ages": torch.tensor(self.ages_3C),
            "open": torch.tensor(self.open_C),
            "open_before": torch.tensor(self.open_before_C),
            "samples": self.samples,
            "observations": self.observations,
            "block": list(self.block),
            "last_step": self.last_step,
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
        first, second = (whole({"block": size}, "block") for size in block)
        return UnitEvidence(
            ages_3C=ages.numpy(),
            open_C=saved_tensor(state, "open", torch.float64, shape=ages.shape[1:]).numpy(),
            open_before_C=saved_tensor(state, "open_before", torch.float64, shape=ages.shape[1:]).numpy(),
            window=window,
            samples=whole(state, "samples"),
            observations=whole(state, "observations"),
            block=(first, second),
            last_step=whole(state, "last_step", none=True),
        )


@dataclass(frozen=True)
class UnitVerdict:
    """States of the units of one site at one step."""

    states: str
    evidence_samples: int
    first_death_step: int | None
    half_window: int
    double_window: int
    flickering: int
    seldom: int
    known: bool

    def count(self, letter: str) -> int | None:
        """Units in a state; None while there is too little evidence to say anything."""
        return self.states.count(letter) if self.known else None


class UnitLedger:
    """Host-side memory of one site: which units have died, when, when they came back, and which of them flicker."""

    def __init__(self, count: int) -> None:
        self._died_at_C = np.full(count, -1, dtype=np.int64)
        self._revived_at_C = np.full(count, -1, dtype=np.int64)
        self._back_from_C, self._flickers = np.zeros(count), False
        self._deaths = False
        self._noted: UnitEvidence | None = None

    def state(self) -> dict[str, Any]:
        """What is remembered, as tensors: -1 where a unit has not died or not come back, 0 where it did not flicker."""
        return {
            "died_at": torch.tensor(self._died_at_C),
            "revived_at": torch.tensor(self._revived_at_C),
            "back_from": torch.tensor(self._back_from_C),
        }

    @staticmethod
    def restored(state: Mapping[str, Any], evidence: UnitEvidence) -> UnitLedger:
        """The inverse of `state`, for the evidence that was saved with it.

        Raises ValueError for other values and another number of units.
        """
        count = evidence.units
        ledger = UnitLedger(count)
        ledger._died_at_C = saved_tensor(state, "died_at", torch.int64, shape=(count,)).numpy()
        ledger._deaths = bool((ledger._died_at_C >= 0).any())
        ledger._revived_at_C = saved_tensor(state, "revived_at", torch.int64, shape=(count,)).numpy()
        if "back_from" in state:  # an older state does not have it
            ledger._back_from_C = saved_tensor(state, "back_from", torch.float64, shape=(count,)).numpy()
            ledger._flickers = bool(ledger._back_from_C.any())
        ledger._noted = evidence
        return ledger

    def note(self, evidence: UnitEvidence) -> None:
        """Remember which units flicker: they came back from a silence, on less than 1 % of the samples since it began.

        Asked at every look, recorded or not; the more often, the fewer flickers escape it. A unit that opens again
        before it has been silent anew does not flicker any more.
        """
        if evidence.units != len(self._back_from_C):
            return  # another layer, which a recorded step will make a ledger of its own for
        before, self._noted = self._noted, evidence
        new = 0 if before is None else evidence.samples - before.samples
        if before is None or new <= 0:
            return
        opened = evidence.ages_3C[0] < new
        back = opened & (before.ages_3C[1] >= _FLICKER_OBSERVATIONS) & (before.ages_3C[0] >= _FLICKER_SAMPLES)
        if self._flickers:
            self._back_from_C[opened] = 0
        if np.count_nonzero(back):
            same_block = evidence.block[0] == before.block[0] + new
            opens_C = evidence.open_C - before.open_C if same_block else evidence.open_C
            seldom = back & (opens_C < RARE_RATE * (before.ages_3C[0] + new))
            self._back_from_C[seldom] = before.ages_3C[0][seldom]
            self._flickers |= bool(seldom.any())

    def _flickering(self, evidence: UnitEvidence) -> int:
        """Units whose last opening was a flicker, until they have missed three more at that rate, or are dead."""
        return int(np.count_nonzero(evidence.ages_3C[0] < (_MISSED * self._back_from_C).clip(max=evidence.window)))

    def judge(self, evidence: UnitEvidence, step: int) -> UnitVerdict:
        """States from ages and from how many samples opened each unit in the last one or two windows.

        dead: silent for the whole window; suspect: silent for at least 300 samples and for longer than its own
        rate before explains (at that rate 3 openings were missed, again 95 %); rare: opened on less than 1 % of
        the samples of the last one or two windows; revived: was dead, and has opened since less than a window
        ago; alive: everything else. Dead and suspect need 16 observed batches of silence.
        """
        self.note(evidence)
        silent, seen = evidence.ages_3C[1] >= MIN_OBSERVATIONS, sum(evidence.block)
        letters = np.full(silent.shape, ord("a"), np.uint8)
        if seen >= SUSPECT_SAMPLES:
            letters[(evidence.open_C + evidence.open_before_C) / seen < RARE_RATE] = ord("r")
        # Of most layers, at most steps, no unit is silent, and none has ever been dead.
        some = self._deaths or np.count_nonzero(silent)
        half, double = self._mark(letters, silent, evidence, step) if some else (0, 0)
        known = evidence.samples >= SUSPECT_SAMPLES and evidence.observations >= MIN_OBSERVATIONS
        return UnitVerdict(
            states=letters.tobytes().decode("ascii"),
            evidence_samples=min(evidence.samples, evidence.window),
            first_death_step=int(self._died_at_C[self._died_at_C >= 0].min()) if self._deaths else None,
            half_window=half,
            double_window=double,
            flickering=self._flickering(evidence) if self._flickers else 0,
            seldom=evidence.seldom_units,
            known=known,
        )

    def _mark(
        self, letters: NDArray[np.uint8], silent: NDArray[np.bool_], evidence: UnitEvidence, step: int
    ) -> tuple[int, int]:
        """Mark what has revived, is suspect, is dead; how many were silent for half of the window, and for two."""
        samples_C, opened = evidence.ages_3C[0], evidence.open_C + evidence.open_before_C
        dead = silent & (samples_C >= evidence.window)
        missed = opened / np.maximum(sum(evidence.block) - samples_C, np.maximum(opened, 1)) * samples_C
        suspect = silent & (samples_C >= SUSPECT_SAMPLES) & ((opened == 0) | (missed >= _MISSED))
        if self._deaths or np.count_nonzero(dead):
            letters[self._remember(dead, silent, evidence, step)] = ord("v")
        letters[suspect] = ord("s")
        letters[dead] = ord("d")
        long_C = samples_C[silent]
        half = int(np.count_nonzero(long_C >= max(evidence.window / 2, SUSPECT_SAMPLES)))
        return half, int(np.count_nonzero(long_C >= 2 * evidence.window))

    def _remember(
        self, dead: NDArray[np.bool_], silent: NDArray[np.bool_], evidence: UnitEvidence, step: int
    ) -> NDArray[np.bool_]:
        """Note new deaths (dated by the step after the unit last opened) and revivals; who has revived.

        A unit that has been back for a window is as if it had never been dead.
        """
        n, revived = evidence.samples, self._revived_at_C >= 0
        if np.count_nonzero(revived):
            settled = revived & (n - self._revived_at_C >= evidence.window) & ~dead
            self._died_at_C[settled] = self._revived_at_C[settled] = -1
        fresh = dead & (self._died_at_C < 0)
        if np.count_nonzero(fresh):
            self._died_at_C[fresh] = (step - evidence.ages_3C[2, fresh] + 1).clip(min=0).astype(np.int64)
        died = self._died_at_C >= 0
        self._revived_at_C[died & (self._revived_at_C < 0) & ~silent] = n
        self._revived_at_C[dead] = -1
        self._deaths = bool(np.count_nonzero(died))
        return self._revived_at_C >= 0
