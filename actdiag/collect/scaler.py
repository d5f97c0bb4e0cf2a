"""The GradScaler of a training: its scale, and how many steps it has skipped, without reading the device.

How often a scaler was updated is known on the host: every `update()` changes `_scale` in place, and PyTorch counts
such changes in `_version`. Scale and growth tracker are copied with everything else of a recorded step; from two
such readings, and from how many rounds of the scaler had a step of ours, follows how many it has skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from actdiag.collect.saved import number, whole
from actdiag.collect.scales import Scales
from actdiag.collect.sending import Fetched, Readout

_OWNER = "\0scaler"
"""Under which the numbers travel; no site or parameter can be named so."""
_MOST_GROWTHS = 64
_MANY_SKIPS = 16
"""Skips in a row after which one is told all the same: a scale of 65,536 is 1 by then, and still overflows."""


class Reading(NamedTuple):
    """A scaler after so many updates of its scale."""

    rounds: int
    scale: float
    tracker: int


class Law(NamedTuple):
    """How a scaler changes its scale: after `interval` good updates in a row, and after a bad one."""

    growth: float
    backoff: float
    interval: int


class Meeting(NamedTuple):
    """A scaler that was in use already when the watch met it; `steps` of ours had been made by then, if any could."""

    rounds: int
    steps: int | None
    scale: Tensor
    tracker: Tensor


class ScaleWatch:
    """Follows one scaler. `loss_scale` and `skipped` are of the last recorded step; None without a scaler.

    `scales` are those of all optimizers in the running step, `key` is the number among them of the one noted last.
    """

    def __init__(self, scaler: Any = None) -> None:
        self.loss_scale: float | None = None
        self.skipped: int | None = None
        self.overflowed = False
        self.scales = Scales()
        self.key: int | None = None
        self._partly = False
        self._in_row = 0
        self._noted: tuple[int, int] | None = None
        self._waiting: dict[str, Tensor | float] = {}
        self.scaler = scaler

    @property
    def scaler(self) -> Any:
        """The scaler that is followed, or None."""
        return self._scaler

    @scaler.setter
    def scaler(self, scaler: Any) -> None:
        self._scaler = scaler
        self._meet(None)

    def _meet(self, steps: int | None) -> None:
        """Begin to count. What a scaler in use has skipped before is not of this run, so it is read as it is now."""
        self._base: Reading | None = None
        self._met: Meeting | None = None
        self._stepped = steps or 0
        self._round: int | None = None
        self._loaded = getattr(self._scaler, "_init_scale", None)
        scale, tracker = (getattr(self._scaler, name, None) for name in ("_scale", "_growth_tracker"))
        if isinstance(scale, Tensor) and isinstance(tracker, Tensor):
            self._met = Meeting(scale._version, steps, scale.clone(), tracker.clone())

    @property
    def active(self) -> bool:
        """Whether there is a scaler that scales."""
        return self.scaler is not None and bool(self.scaler.is_enabled())

    def rounds(self) -> int | None:
        """How often the scale was updated; None if that cannot be told (no scale yet, a scaler of another make)."""
        scale = getattr(self.scaler, "_scale", None)
        return scale._version if isinstance(scale, Tensor) else None

    def found(self, scaler: Any, steps: int) -> bool:
        """A scaler shows itself after `steps` steps; whether it may have skipped some that nobody saw."""
        self._scaler = scaler
        self._meet(steps)
        return (self.rounds() or 0) > steps

    def stepping(self) -> None:
        """An optimizer of ours steps now. Costs no operation on a device."""
        if getattr(self._scaler, "_init_scale", None) is not self._loaded:
            self._was_loaded()
        now = self.rounds()
        if now is not None and now != self._round:
            self._stepped += self._round is not None
            self._round = now

    def _was_loaded(self) -> None:
        """The scaler's load_state_dict has been called: its scale jumps, which is neither a skip nor a growth."""
        if self._met is not None or self._round is not None or self._base is not None:
            self._meet(None)
        self._loaded = getattr(self._scaler, "_init_scale", None)

    def partly_skipped(self) -> None:
        """One of our optimizers has stepped in this step, and another's was skipped: it is left out, and a skip."""
        self._partly, self._round = True, None

    def note(self, optimizer: Optimizer | None = None, scaler: Any = None) -> None:
        """Copy the scale with which the gradients were made, on its device.

        `scaler`: whose they are, if not of the one that is followed. Of several optimizers the first one's scale is
        the one of the step; each one's is kept for its own parameters.
        """
        self.key = None
        scaler = self.scaler if scaler is None else scaler
        if scaler is None or not scaler.is_enabled():
            return
        self.key = self.scales.note(scaler)
        overflow = getattr(optimizer, "found_inf", None)
        if isinstance(overflow, Tensor):
            self._waiting["overflow"] = overflow + self._waiting.get("overflow", 0.0)
        if "scale" in self._waiting or scaler is not self.scaler:
            return
        scale = getattr(self.scaler, "_scale", None)
        if not isinstance(scale, Tensor):
            self._noted, self._waiting["scale"] = None, float(self.scaler.get_scale())
            return
        self._noted = scale._version, self._stepped
        self._waiting["scale"] = scale.clone()
        self._waiting["tracker"] = self.scaler._growth_tracker.clone()

    def skipped_again(self) -> bool:
        """One more observed step was skipped; whether so many were in a row that silence would hide a fault."""
        self._in_row += 1
        return self._in_row >= _MANY_SKIPS

    def forget(self) -> None:
        """What was noted belongs to a step that does not count."""
        self._waiting.clear()
        self.scales.forget()
        self._partly = False

    def note_updated(self) -> None:
        """The scaler has been updated since `note`: a scale that has fallen means that the step was skipped."""
        scale = getattr(self.scaler, "_scale", None)
        if self._waiting and isinstance(scale, Tensor):
            self._waiting["updated"] = scale.clone()

    def queue(self, out: Readout) -> None:
        """Add what was noted to the numbers that are copied."""
        self.scales.queue(out)
        if self._waiting and self._base is None and self._met is not None:
            out.add(_OWNER, "", "met scale", self._met.scale)
            out.add(_OWNER, "", "met tracker", self._met.tracker)
        for name, value in self._waiting.items():
            if isinstance(value, Tensor):
                out.add(_OWNER, "", name, value)

    def settle(self, fetched: Fetched) -> None:
        """Take the numbers that were noted, and count what has been skipped until then."""
        waiting, self._waiting = self._waiting, {}
        self.scales.settle(fetched)
        self.overflowed, self._partly = self._partly, False
        if "scale" not in waiting:
            return
        numbers = {name: float(value) for name, value in fetched.get(_OWNER, {}).get("", {}).items()}
        numbers |= {name: value for name, value in waiting.items() if isinstance(value, float)}
        scale = self.loss_scale = numbers["scale"]
        self.overflowed |= numbers.get("overflow", 0.0) > 0
        if "updated" in numbers:  # after each optimizer, so the next one's scale has fallen as well
            self.overflowed |= numbers["updated"] < scale or self.scales.fell
        self._in_row = self._in_row if self.overflowed else 0
        self.skipped = self.skipped or 0
        if self._noted is not None and "tracker" in numbers:
            rounds, stepped = self._noted
            before = self._start(numbers) if self._base is None else 0
            self._count(Reading(rounds, scale, int(numbers["tracker"])), stepped, before)

    def _start(self, numbers: Mapping[str, float]) -> int:
        """Take the reading to count from; how many of our steps were made before it.

        A scaler that shows itself at a step may be new, and have skipped steps that nobody saw: then every one of
        its rounds that was not a step of ours was a skip. Otherwise it was in use before.
        """
        self._base = self._first()
        met, self._met = self._met, None
        if met is None:
            return 0
        now = Reading(met.rounds, numbers["met scale"], int(numbers["met tracker"]))
        unseen = now.rounds - (met.steps or 0)
        if met.steps is not None and (unseen <= 0 or all_skipped(self._base, now, self._law(), unseen)):
            return 0
        self._base = now
        return met.steps or 0

    def _count(self, now: Reading, stepped: int, before: int) -> None:
        """`before`: so many of the steps were made before the base reading."""
        base = self._base or self._first()
        unstepped = now.rounds - base.rounds - (stepped - before)
        self.skipped = (self.skipped or 0) + count_skips(base, now, self._law(), max(0, unstepped))
        self._base = now
        self._stepped -= stepped

    def _first(self) -> Reading:
        """The scaler as it was made, or loaded."""
        return Reading(
            0, float(getattr(self.scaler, "_init_scale", 1.0)), int(getattr(self.scaler, "_init_growth_tracker", 0))
        )

    def _law(self) -> Law:
        ask = self.scaler
        return Law(ask.get_growth_factor(), ask.get_backoff_factor(), ask.get_growth_interval())

    def state(self) -> dict[str, Any]:
        """What the next process must know."""
        return {"loss_scale": self.loss_scale, "skipped": self.skipped}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`. Raises ValueError for other values."""
        self.loss_scale, self.skipped = number(state, "loss_scale", none=True), whole(state, "skipped", none=True)


def count_skips(before: Reading, now: Reading, law: Law, unstepped: int) -> int:
    """How many updates between two readings were skips.

    Each skip multiplies the scale by the backoff and clears the tracker, each growth by the growth factor; so the
    scale tells skips less growths. Among the counts that scale and tracker allow it is the one nearest to
    `unstepped`, the rounds in which no optimizer of ours has stepped: of those, some may belong to optimizers that
    we do not see, and an optimizer that unscales inside its step steps in a skipped round as well.
    """
    rounds = now.rounds - before.rounds
    found = [m for m, g in _courses(before.scale, now.scale, law, rounds) if _possible(before, now, law, (m, g))]
    if not found:
        return min(unstepped, rounds)
    return min(found, key=lambda m: (abs(m - unstepped), m))


def all_skipped(before: Reading, now: Reading, law: Law, unseen: int) -> bool:
    """Whether so many of the updates between two readings can all have been skips."""
    courses = _courses(before.scale, now.scale, law, now.rounds - before.rounds)
    return any(course[0] >= unseen and _possible(before, now, law, course) for course in courses)


def _courses(scale: float, now: float, law: Law, rounds: int) -> Iterable[tuple[int, int]]:
    """Pairs of skips and growths that lead from one scale to the other."""
    if not (0 < scale < math.inf and 0 < now < math.inf and 0 < law.backoff < 1 < law.growth):
        return
    for growths in range(min(rounds, _MOST_GROWTHS) + 1):
        exact = (math.log(now / scale) - growths * math.log(law.growth)) / math.log(law.backoff)
        skips = round(exact)
        if abs(exact - skips) < 1e-3 and 0 <= skips <= rounds - growths:
            yield skips, growths


def _possible(before: Reading, now: Reading, law: Law, course: tuple[int, int]) -> bool:
    """Whether the growth tracker can have become what it is; it counts good updates since a skip or a growth."""
    skips, growths = course
    good = now.rounds - before.rounds - skips
    if skips == 0:
        return before.tracker + good == growths * law.interval + now.tracker
    if now.tracker > good:
        return False
    most = law.interval - 1
    without_growth = max(0, most - before.tracker) + (skips - 1) * most + now.tracker
    if growths == 0:
        return good <= without_growth
    return before.tracker + good >= growths * law.interval
