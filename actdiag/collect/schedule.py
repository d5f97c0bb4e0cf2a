"""When to observe, and how dear it was: a pure decision a step, and a budget that lengthens the intervals."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from actdiag.config import Options

Mode = Literal["off", "watch", "record"]

FREE_SECONDS = 1.0
"""Cost that no budget saves: a run so short that this matters is over before anybody looks."""
_MIN_BASE_STEPS = 8
_RECORD_SHARE = 0.5


class Budget:
    """Times of whole steps, and the intervals that keep observing below a share of them.

    Only step boundaries are timed, so that what a writer thread takes from the training counts too. An interval
    is ceil(cost / (share · base)), with medians, and never shorter than configured; at one time it grows at most
    four times and shrinks to no less than half.
    """

    def __init__(self, max_overhead: float | None, clock: Callable[[], float]) -> None:
        self._spent_s = 0.0
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
        if mode == "off":
            self._base.append(now - begun)
            return
        self._settled[mode] += 1
        if len(self._base) < _MIN_BASE_STEPS:
            return
        cost = now - begun - statistics.median(self._base)
        self._spent_s += max(0.0, cost)
        if mode == "record":
            self.last_ms = max(0.0, cost) * 1e3
        if self._settled[mode] > 1:
            self._cost[mode].append(max(0.0, cost))
            self._adapt(mode)

    def restart(self) -> None:
        """Something else took time (validation, a pause): the running step is not timed."""
        self._begun = None

    def _adapt(self, mode: Literal["watch", "record"]) -> None:
        if self._max_overhead is None:
            return
        share = self._max_overhead * (_RECORD_SHARE if mode == "record" else 1 - _RECORD_SHARE)
        base = max(statistics.median(self._base), 1e-9)
        wanted = math.ceil(statistics.median(self._cost[mode]) / (share * base))
        held = self._interval[mode]
        self._interval[mode] = max(1, min(max(wanted, held // 2), held * 4))

    def interval(self, mode: Literal["watch", "record"], configured: int) -> int:
        """Steps between two observations of a kind. Every other step is left alone until a bare one is known."""
        if self._max_overhead is None:
            return configured
        if len(self._base) < _MIN_BASE_STEPS:
            return max(configured, 2)
        return configured if self._spent_s < FREE_SECONDS else max(configured, self._interval[mode])


class Schedule:
    """Which steps are observed. Without a budget a pure function of the step."""

    def __init__(self, options: Options, clock: Callable[[], float] = time.perf_counter) -> None:
        self._options = options
        self.budget = Budget(options.max_overhead, clock)
        self._next = {"watch": options.start_step, "record": options.start_step}

    def decide(self, step: int) -> Mode:
        """How the step that begins now is to be observed; called once for each step, in order."""
        if step < self._options.start_step or (self._options.end_step is not None and step >= self._options.end_step):
            return "off"
        record = self._due("record", step, self._options.log_every_n_steps)
        watch = self._due("watch", step, self._options.watch_every_n_steps)
        if record:
            return "record"
        return "watch" if watch else "off"

    def record_at(self, step: int) -> None:
        """Record this step, whatever the interval says."""
        self._next["record"] = step

    def _due(self, mode: Literal["watch", "record"], step: int, configured: int) -> bool:
        if step < self._next[mode]:
            return False
        interval = self.budget.interval(mode, configured)
        grid = -(-interval // configured) * configured  # a lengthened interval stays on the configured grid
        start = self._options.start_step
        self._next[mode] = start + ((step - start) // grid + 1) * grid
        return True
