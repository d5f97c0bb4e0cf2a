"""What observing costs: times of whole steps, and intervals that keep it below a share of the training's time."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

from actdiag.collect.saved import items, mapping, number, whole
from actdiag.collect.timeline import Timeline

Observed = Literal["watch", "record"]
Mode = Literal["off", "watch", "record"]

OBSERVED: tuple[Observed, ...] = ("watch", "record")

FREE_SECONDS = 1.0
"""Cost that no budget saves: a run so short that this matters is over before anybody looks."""
_LAST, _PASSED = "last", "passed"
"""Of steps that are left alone."""
_MIN_BASE_STEPS = 8
_MIN_STILL_STEPS = 4
_TRAILING = 2
_LATEST = 16
_RECORD_SHARE = 0.5
_REPAYING = 0.75


class Budget:
    """Times of whole steps, and the intervals that keep observing below a share of them.

    Only step boundaries are timed, so that what a writer thread takes from the training counts too, and so does what
    only a GPU does (see Timeline; its times are known a little later). An interval
    is ceil(cost / (share · base)), with medians, and never shorter than configured; at one time it grows at most
    four times and shrinks to no less than half. While more has been spent than the share (the start of a run is
    watched closely, and a new interval holds from the next observation on) three quarters of the share are aimed at.

    The two steps right after an observed one are slower than others (hooks are taken off, caches are cold). Where more
    follow it is these that tell what a bare step takes, and what the two take beyond that is cost as well: the median
    of each, since on a busy machine one of three steps is often slow for another reason.
    """

    def __init__(
        self, max_overhead: float | None, clock: Callable[[], float], *, first: Mapping[Observed, int] | None = None
    ) -> None:
        """`first`: the intervals from which those of the budget grow; 1 by default."""
        self._spent_s = self._elapsed_s = 0.0
        self._max_overhead = max_overhead
        self.timeline = Timeline(clock)
        self._base: deque[float] = deque(maxlen=64)
        self._still: deque[float] = deque(maxlen=64)
        self._observed: Observed = "watch"
        self._position = _TRAILING
        self._after = {mode: [deque[float](maxlen=_LATEST) for _ in range(_TRAILING)] for mode in OBSERVED}
        self._cost = {mode: deque[float](maxlen=_LATEST) for mode in OBSERVED}
        self._interval: dict[str, int] = {mode: (first or {}).get(mode, 1) for mode in OBSERVED}
        self._settled = {"watch": 0, "record": 0}
        self.last_ms: float | None = None

    def lap(self, mode: Mode) -> None:
        """One step has ended that was observed in `mode`. The first of each kind only warms up."""
        self._learn(self.timeline.mark(mode))

    def pass_over(self, *, last: bool) -> None:
        """Steps have ended that were not observed: the last one alone, or all before it. Their time counts."""
        self._learn(self.timeline.mark(_LAST if last else _PASSED))

    def _learn(self, ended: list[tuple[str, float | None]]) -> None:
        for what, took_s in ended:
            if what in (_LAST, _PASSED):
                self._position = _TRAILING
            if took_s is None:
                continue
            self._elapsed_s += took_s
            if what == _LAST:
                self._still.append(took_s)
            elif what == "off":
                self._trail(took_s)
            elif what != _PASSED:
                self._observe("record" if what == "record" else "watch", took_s)

    def _observe(self, mode: Observed, took_s: float) -> None:
        """An observed step took so long."""
        self._observed, self._position = mode, 0
        self._settled[mode] += 1
        if not self.known:
            return
        cost_s = max(0.0, took_s - self._bare_s)
        self._spent_s += cost_s
        if mode == "record":
            self.last_ms = cost_s * 1e3
        if self._settled[mode] > 1:
            self._cost[mode].append(cost_s)
            self._adapt(mode)

    def _trail(self, took_s: float) -> None:
        """A bare step that was timed: right after an observed one, what it takes more than others is of that."""
        self._base.append(took_s)
        if self._position >= _TRAILING:
            self._still.append(took_s)
            return
        if self._is_still:
            own = self._after[self._observed][self._position]
            own.append(took_s - self._bare_s)
            self._spent_s += max(0.0, statistics.median(own))
        self._position += 1

    def _after_s(self, mode: Observed) -> float:
        """What the steps after one that was observed in a mode take more than others."""
        return sum(max(0.0, statistics.median(own)) for own in self._after[mode] if own)

    @property
    def _is_still(self) -> bool:
        return len(self._still) >= _MIN_STILL_STEPS

    @property
    def _bare_s(self) -> float:
        return max(statistics.median(self._still if self._is_still else self._base), 1e-9)

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
        self.timeline.restart()

    def state(self) -> dict[str, Any]:
        """What has been learned, as plain values. The running step is left out."""
        return {
            "spent_s": self._spent_s,
            "elapsed_s": self._elapsed_s,
            "base": list(self._base),
            "still": list(self._still),
            "after": {mode: [list(own) for own in each] for mode, each in self._after.items()},
            "at": [OBSERVED.index(self._observed), self._position],
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
        if "still" in state:  # nor does it have this
            self._load_still(state)
        cost, interval, settled = (mapping(state, name) for name in ("cost", "interval", "settled"))
        for mode in OBSERVED:
            self._cost[mode].extend(_numbers(cost, mode))
            self._interval[mode] = max(1, whole(interval, mode))
            self._settled[mode] = whole(settled, mode)
        self.last_ms = number(state, "last_ms", none=True)

    def _load_still(self, state: Mapping[str, Any]) -> None:
        self._still.extend(_numbers(state, "still"))
        after, (observed, position) = mapping(state, "after"), _numbers(state, "at")
        for mode in OBSERVED:
            for own, values in zip(self._after[mode], items(after, mode), strict=True):
                own.extend(_numbers({"values": values}, "values"))
        if observed not in range(len(OBSERVED)) or position not in range(_TRAILING + 1):
            raise ValueError(f"at is {[observed, position]}")
        self._observed, self._position = OBSERVED[int(observed)], int(position)

    def _adapt(self, mode: Observed) -> None:
        if self._max_overhead is None:
            return
        share = self._max_overhead * (_RECORD_SHARE if mode == "record" else 1 - _RECORD_SHARE)
        if self._spent_s - FREE_SECONDS > self._max_overhead * self._elapsed_s:
            share *= _REPAYING
        cost_s = statistics.median(self._cost[mode]) + self._after_s(mode)
        wanted = math.ceil(cost_s / (share * self._bare_s))
        held = self._interval[mode]
        self._interval[mode] = max(1, min(max(wanted, held // 2), held * 4))

    def interval(self, mode: str, configured: int) -> int:
        """Steps between two observations of a kind; two at least until a bare one is known."""
        if self._max_overhead is None:
            return configured
        if not self.known:
            return max(configured, 2)
        return configured if self._spent_s < FREE_SECONDS else max(configured, self._interval[mode])


def _numbers(state: Mapping[str, Any], name: str) -> list[float]:
    return [number({name: value}, name) for value in items(state, name)]
