"""When to observe: a pure decision a step, at intervals that a budget lengthens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from actdiag.collect.budget import OBSERVED, Budget, Mode, Observed
from actdiag.collect.saved import mapping, whole
from actdiag.config import Options

ATTENTIVE_STEPS = 64
"""Steps watched one by one at the start, and from where units fall silent: four times the batches that a word about a
unit needs."""
RECORD_GAP_STEPS = 4
"""Between a recorded step and one that a look has asked for."""
SPARED_STEPS = 4
"""Until a bare step is known, one of so many is left alone to be timed."""


class Schedule:
    """Which steps are observed. Without a budget a pure function of the step."""

    def __init__(self, options: Options, clock: Callable[[], float] = time.perf_counter) -> None:
        self._options = options
        self.budget = Budget(options.max_overhead, clock, first={"record": options.log_every_n_steps})
        self._next = {"watch": options.start_step, "record": options.start_step}
        self._due_before = dict(self._next)
        self._decided = self._recorded = -1
        self._agreed: dict[str, int] | None = None
        given = options.attentive
        self.attentive = given if given is not None else options.max_overhead is not None
        self._attentive_until = options.start_step + ATTENTIVE_STEPS if self.attentive else 0

    def wanted(self) -> dict[str, int]:
        """The intervals that the budget asks for now: record and watch."""
        return {mode: self.budget.interval(mode, configured) for mode, configured in self._configured().items()}

    @property
    def agreed(self) -> dict[str, int] | None:
        """What ranks have agreed on."""
        return self._agreed

    def agree(self, intervals: Mapping[str, int] | None) -> None:
        """Ranks that merge keep to intervals they have agreed on, whatever each one's clock says; None: no more."""
        self._agreed = None if intervals is None else dict(intervals)

    def decide(self, step: int) -> Mode:
        """How the step that begins now is to be observed; called once for each step, in order."""
        self._due_before, self._decided = dict(self._next), step
        if step < self._options.start_step or (self._options.end_step is not None and step >= self._options.end_step):
            return "off"
        if self._is_spared(step):
            return "off"
        record = self._due("record", step, self._options.log_every_n_steps)
        watch = self._due("watch", step, 1 if self._close(step) else self._options.watch_every_n_steps)
        if record:
            self._recorded = step
            return "record"
        return "watch" if watch else "off"

    def left_alone(self, step: int) -> int:
        """How many steps from this one on, which is not observed, are followed by another that is not.

        As far as is known now; 0 while bare steps have still to be timed.
        """
        if not self.budget.known:
            return 0
        end = self._options.end_step
        over = end is not None and step >= end
        return sys.maxsize if over else max(0, min(self._next.values()) - 1 - step)

    def _is_spared(self, step: int) -> bool:
        """Whether a bare step has still to be timed, and this is one; what is due is so at the next step.

        Ranks that merge keep to what they agreed.
        """
        if self._options.max_overhead is None or self._agreed is not None or self.budget.known:
            return False
        return (step - self._options.start_step) % SPARED_STEPS == SPARED_STEPS - 1

    def _close(self, step: int) -> bool:
        """Whether every step is watched now, as far as the budget allows. Ranks that merge keep to what they agreed."""
        return step < self._attentive_until and self._agreed is None

    def heed(self, step: int, *, closer: bool, record: bool) -> None:
        """What a look after `step` asks for: every step to be watched for a while, the next one to be recorded."""
        if closer:
            self._attentive_until = step + 1 + ATTENTIVE_STEPS
            self._next["watch"] = min(self._next["watch"], step + 1)
        if record:
            self._next["record"] = min(self._next["record"], max(step + 1, self._recorded + RECORD_GAP_STEPS))

    def record_at(self, step: int) -> None:
        """Record this step, whatever the interval says."""
        self._next["record"] = step

    def state(self, next_step: int) -> dict[str, Any]:
        """When the next observations are due, how closely it is watched and what it has cost, as plain values.

        `next_step`: the first that has not ended. Where it has begun, it begins again after a resume.
        """
        due = self._next if self._decided < next_step else self._due_before
        return {
            "next": dict(due),
            "configured": self._configured(),
            "agreed": self._agreed,
            "attentive_until": self._attentive_until,
            "recorded": self._recorded if self._recorded >= 0 else None,
            "budget": self.budget.state(),
        }

    @staticmethod
    def restored(state: Mapping[str, Any], options: Options) -> Schedule:
        """A schedule that goes on from a `state`. Raises ValueError for other values.

        What is configured otherwise now is due at once: who resumes to look at every step must not wait for the next
        of the old interval.
        """
        schedule = Schedule(options)
        due, before = mapping(state, "next"), mapping(state, "configured")
        now = schedule._configured()
        schedule._next = {mode: whole(due, mode) if now[mode] == before.get(mode) else 0 for mode in OBSERVED}
        schedule.budget.load(mapping(state, "budget"))
        if state.get("agreed") is not None:  # a state that each rank has saved of its own holds what it has measured
            agreed = mapping(state, "agreed")
            schedule._agreed = {mode: max(now[mode], whole(agreed, mode)) for mode in OBSERVED}
        recorded, until = (whole(state, name, none=True) for name in ("recorded", "attentive_until"))
        schedule._recorded = -1 if recorded is None else recorded  # an older state has neither
        if schedule.attentive and until is not None:
            schedule._attentive_until = max(schedule._attentive_until, until)
        return schedule

    def _configured(self) -> dict[Observed, int]:
        return {"watch": self._options.watch_every_n_steps, "record": self._options.log_every_n_steps}

    def _due(self, mode: Observed, step: int, configured: int) -> bool:
        if step < self._next[mode]:
            return False
        interval = self._interval(mode, configured)
        grid = -(-interval // configured) * configured  # a lengthened interval stays on the configured grid
        start = self._options.start_step
        self._next[mode] = start + ((step - start) // grid + 1) * grid
        return True

    def _interval(self, mode: Observed, configured: int) -> int:
        if self._agreed is not None:
            return self._agreed[mode]
        if mode == "watch" and not self.budget.known:
            return configured  # steps are spared
        return self.budget.interval(mode, configured)
