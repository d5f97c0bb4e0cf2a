"""When to observe, and how dear it was: a pure decision a step, and a budget that lengthens the intervals."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

from actdiag.collect.saved import items, mapping, number, whole
from actdiag.config import Options

Mode = Literal["off", "watch", "record"]

_OBSERVED: tuple[Literal["watch", "record"], ...] = ("watch", "record")

FREE_SECONDS = 1.0
"""Cost that no budget saves: a run so short that this matters is over before anybody looks."""
ATTENTIVE_STEPS = 64
"""Steps watched one by one at the start, and from where units fall silent: four times the batches that a word about a
unit needs."""
RECORD_GAP_STEPS = 4
"""Between a recorded step and one that a look has asked for."""
_MIN_BASE_STEPS = 8
_RECORD_SHARE = 0.5


class Budget:
    """Times of whole steps, and the intervals that keep observing below a share of them.

    Only step boundaries are timed, so that what a writer thread takes from the training counts too. An interval
    is ceil(cost / (share · base)), with medians, and never shorter than configured; at one time it grows at most
    four times and shrinks to no less than half.
    """

    def __init__(self, max_overhead: float | None, clock: Callable[[], float]) -> None:
        self._spent_s = self._elapsed_s = 0.0
        self._max_overhead = max_overhead
        self._clock = clock
        self._begun: float | None = None
        self._base: deque[float] = deque(maxlen=64)
        self._cost: dict[str, deque[float]] = {"watch": deque(maxlen=8), "record": deque(maxlen=8)}
        self._interval = {"watch": 1, "record": 1}
        self._settled = {"watch": 0, "record": 0}
        self.last_ms: float | None = None

    def lap(self, mode: Mode) -> None:
        """One step has ended that was observed in `mode`. The first of each kind only warms up."""
        now = self._clock()
        begun, self._begun = self._begun, now
        if begun is None:
            return
        self._elapsed_s += now - begun
        if mode == "off":
            self._base.append(now - begun)
            return
        self._settled[mode] += 1
        if not self.known:
            return
        cost = now - begun - statistics.median(self._base)
        self._spent_s += max(0.0, cost)
        if mode == "record":
            self.last_ms = max(0.0, cost) * 1e3
        if self._settled[mode] > 1:
            self._cost[mode].append(max(0.0, cost))
            self._adapt(mode)

    def pass_over(self) -> None:
        """Steps have ended that were not observed: their time counts, but not as that of one step."""
        now = self._clock()
        if self._begun is not None:
            self._elapsed_s += now - self._begun
            self._begun = now

    @property
    def known(self) -> bool:
        """Whether enough bare steps were timed."""
        return len(self._base) >= _MIN_BASE_STEPS

    @property
    def percent(self) -> float | None:
        """Share of the time of all steps that observing took, in percent; None before a bare step is known."""
        return 100 * self._spent_s / self._elapsed_s if self.known else None

    def told(self) -> dict[str, float | None]:
        """What a snapshot tells of it."""
        return {"overhead_ms": self.last_ms, "overhead_percent": self.percent}

    def restart(self) -> None:
        """Something else took time (validation, a pause): the running step is not timed."""
        self._begun = None

    def state(self) -> dict[str, Any]:
        """What has been learned, as plain values. The running step is left out."""
        return {
            "spent_s": self._spent_s,
            "elapsed_s": self._elapsed_s,
            "base": list(self._base),
            "cost": {mode: list(costs) for mode, costs in self._cost.items()},
            "interval": dict(self._interval),
            "settled": dict(self._settled),
            "last_ms": self.last_ms,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`. Raises ValueError for other values, and may be half loaded then."""
        self._spent_s = number(state, "spent_s")
        self._elapsed_s = number(state, "elapsed_s", none=True) or self._spent_s  # an older state does not have it
        self._base.extend(_numbers(state, "base"))
        cost, interval, settled = (mapping(state, name) for name in ("cost", "interval", "settled"))
        for mode in _OBSERVED:
            self._cost[mode].extend(_numbers(cost, mode))
            self._interval[mode] = max(1, whole(interval, mode))
            self._settled[mode] = whole(settled, mode)
        self.last_ms = number(state, "last_ms", none=True)

    def _adapt(self, mode: Literal["watch", "record"]) -> None:
        if self._max_overhead is None:
            return
        share = self._max_overhead * (_RECORD_SHARE if mode == "record" else 1 - _RECORD_SHARE)
        base = max(statistics.median(self._base), 1e-9)
        wanted = math.ceil(statistics.median(self._cost[mode]) / (share * base))
        held = self._interval[mode]
        self._interval[mode] = max(1, min(max(wanted, held // 2), held * 4))

    def interval(self, mode: str, configured: int) -> int:
        """Steps between two observations of a kind. Every other step is left alone until a bare one is known."""
        if self._max_overhead is None:
            return configured
        if not self.known:
            return max(configured, 2)
        return configured if self._spent_s < FREE_SECONDS else max(configured, self._interval[mode])


class Schedule:
    """Which steps are observed. Without a budget a pure function of the step."""

    def __init__(self, options: Options, clock: Callable[[], float] = time.perf_counter) -> None:
        self._options = options
        self.budget = Budget(options.max_overhead, clock)
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
        schedule._next = {mode: whole(due, mode) if now[mode] == before.get(mode) else 0 for mode in _OBSERVED}
        schedule.budget.load(mapping(state, "budget"))
        if state.get("agreed") is not None:  # a state that each rank has saved of its own holds what it has measured
            agreed = mapping(state, "agreed")
            schedule._agreed = {mode: max(now[mode], whole(agreed, mode)) for mode in _OBSERVED}
        recorded, until = (whole(state, name, none=True) for name in ("recorded", "attentive_until"))
        schedule._recorded = -1 if recorded is None else recorded  # an older state has neither
        if schedule.attentive and until is not None:
            schedule._attentive_until = max(schedule._attentive_until, until)
        return schedule

    def _configured(self) -> dict[Literal["watch", "record"], int]:
        return {"watch": self._options.watch_every_n_steps, "record": self._options.log_every_n_steps}

    def _due(self, mode: Literal["watch", "record"], step: int, configured: int) -> bool:
        if step < self._next[mode]:
            return False
        interval = self._agreed[mode] if self._agreed is not None else self.budget.interval(mode, configured)
        grid = -(-interval // configured) * configured  # a lengthened interval stays on the configured grid
        start = self._options.start_step
        self._next[mode] = start + ((step - start) // grid + 1) * grid
        return True


def _numbers(state: Mapping[str, Any], name: str) -> list[float]:
    return [number({name: value}, name) for value in items(state, name)]
