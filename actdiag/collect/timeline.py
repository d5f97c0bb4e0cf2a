"""When steps end: by the host's clock, or by that of the GPU which runs them, for which the host does not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Stamp = Any
"""Seconds of the host, an event of a GPU, or None for a time that is not known."""
_MOST_WAITING = 256
"""Marks that a GPU has not come to. Of more the oldest are given up, and the time since."""


class _Mark(NamedTuple):
    """`what` has ended at a time; None for what is not a step."""

    what: str | None
    at: Stamp


class Timeline:
    """Seconds between marks.

    Where CUDA is in use the marks are events on the current stream: a host that runs ahead of its GPU would measure how
    long it takes to launch a step. A GPU that has nothing to do comes to an event at once, so these are times of the
    slower of both. They are told when they are known, in order; nothing is waited for.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: of the host."""
        self.clock = clock
        self._waiting: deque[_Mark] = deque()
        self._last: Stamp = None
        self._by_host = False

    def mark(self, what: str) -> list[tuple[str, float | None]]:
        """`what` ends now. Returns what is known by now to have ended, and seconds since the mark before it.

        None where that is not known: at first, after `restart`, and while a CUDA graph is captured. A GPU that cannot
        be asked (another thread captures a graph) is not asked again: from then on the host's clock is taken.
        """
        if self._by_host or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._add(what, self.clock())
            return self._arrived()
        try:
            if torch.cuda.is_current_stream_capturing():
                self._add(what, None)
                return []
            self._add(what, _event())
            return self._arrived()
        except RuntimeError:
            self._by_host = True
            self._waiting.clear()
            self._last = self.clock()
            return [(what, None)]

    def restart(self) -> None:
        """What happens from here on, up to the next mark, is not timed."""
        self._add(None, None)

    def _add(self, what: str | None, at: Stamp) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            self._waiting.append(_Mark(None, None))
        self._waiting.append(_Mark(what, at))

    def _arrived(self) -> list[tuple[str, float | None]]:
        found = []
        while self._waiting and _has_come(self._waiting[0].at):
            what, at = self._waiting.popleft()
            if what is not None:
                found.append((what, _between(self._last, at)))
            self._last = at
        return found


def _event() -> Stamp:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _has_come(at: Stamp) -> bool:
    return at is None or isinstance(at, (int, float)) or at.query() is True


def _between(before: Stamp, after: Stamp) -> float | None:
    """Seconds; None if one of them is not known, or they are of different clocks."""
    if before is None or after is None:
        return None
    of_host = [isinstance(at, (int, float)) for at in (before, after)]
    if all(of_host):
        return float(after - before)
    if any(of_host):
        return None
    try:
        took_s = float(before.elapsed_time(after)) / 1e3
    except RuntimeError:  # events of two GPUs
        return None
    return took_s if took_s >= 0 else None  # of two streams the later event may come first
