"""A look at the units between two recorded steps, that decides nothing but where to look closer.

Verdicts are of recorded steps only. But a layer that falls silent just after one would wait a whole interval for the
next, and its units would be looked at only every few steps until then; so after each watched step it is asked whether
many more units are silent than a little while ago, or a verdict needs two windows (then every step is watched for a
while), and whether so many have been silent for so long that a verdict is due (then the next step is recorded).

It is asked of numbers that are on the host already: those of a device arrive in pinned memory, and are looked at one
watched step later. Nothing waits for them. A look goes back no further than a window, so that it costs the same however
long no step has been recorded.

Legend: C units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from actdiag.collect.coming import Coming
from actdiag.collect.memory import Key, Memory
from actdiag.collect.recent import Openings
from actdiag.collect.site import Site
from actdiag.collect.units import MIN_OBSERVATIONS, SUSPECT_SAMPLES, UnitEvidence

CLOSER_RISE = 0.2
"""So much larger a share of the units silent in the last batch than at the last recorded step has every step watched.
Of healthy runs it is noise of small batches at worst, and costs watched steps, which the budget bounds."""
RECORD_RISE = (0.1, 0.1, 0.1, math.inf)
"""A verdict has been given of what was silent at the last recorded step; so much more must have followed for another,
if it is not just enough for a graver one."""
Verges = Callable[[int, int], Sequence[float]]
"""From the units of a site and how many of them opened seldom, the shares at which a verdict changes: suspect, half,
window and double of Silence; infinite where two windows make no difference."""


def no_verges(units: int, seldom: int) -> Sequence[float]:
    """Verdicts change with the rise alone."""
    return 1.0, 1.0, 1.0, math.inf


class Sight(NamedTuple):
    """What is to be done: watch every step for a while, record the next one."""

    closer: bool
    record: bool


class Silence(NamedTuple):
    """Shares of a site: silent in the last batch, long enough to be suspect, for half the window, for all, for two."""

    last: float
    suspect: float
    half: float
    window: float
    double: float


NO_SILENCE = Silence(0.0, 0.0, 0.0, 0.0, 0.0)
_NEVER = (math.inf,) * 4


class _Share(NamedTuple):
    """A share of silent units, and the one at which a verdict of it begins."""

    silent: float
    begins: float

    @property
    def tells(self) -> bool:
        return self.silent >= self.begins


class _Reading(NamedTuple):
    """What is silent in a site: in the last batch, and what verdicts are of (suspect, half, window, double)."""

    last: float
    shares: tuple[_Share, ...]


def silence(ages_3C: NDArray[np.float64], window: int) -> Silence:
    """From samples, observations and steps since each unit last opened. Zeros where there are no units."""
    if not ages_3C.shape[1]:
        return NO_SILENCE
    units = ages_3C.shape[1]
    samples_C, observations_C = ages_3C[0], ages_3C[1]
    last = np.count_nonzero(observations_C >= 1) / units
    long_C = samples_C[observations_C >= MIN_OBSERVATIONS]
    if not long_C.size:  # of most layers, at most steps
        return Silence(last, 0.0, 0.0, 0.0, 0.0)
    ages = (SUSPECT_SAMPLES, max(window / 2, SUSPECT_SAMPLES), window, 2 * window)
    suspect, half, whole, double = (np.count_nonzero(long_C >= age) / units for age in ages)
    return Silence(last, suspect, half, whole, double)


class _Enough(TypedDict):
    """How far back a look goes: silence beyond that makes no difference to it."""

    samples: float
    observations: int


class Glance:
    """Remembers of each site the silence that has been told, or has asked for something.

    `warning`: the share of silent units at which a verdict may be due, the least that any warning of them needs.
    """

    def __init__(self, window: int, warning: float, verges: Verges = no_verges) -> None:
        self._window, self._warning, self._verges = window, warning, verges
        self._most: dict[Key, _Reading] = {}
        self._settled: dict[Key, UnitEvidence] = {}
        self._coming: dict[Key, _Openings] = {}

    def look(self, sites: Mapping[Key, Site], memory: Memory) -> Sight:
        """What the watched step that has just ended asks for. Does not wait for a device."""
        closer = record = False
        for key, site in sites.items():
            seen, known = self._seen(key, site), memory.known.get(key)
            if seen is None or known is None:
                continue
            evidence = memory.evidence_with(known, seen)
            if known.ledger is not None:
                known.ledger.note(evidence)
            now, before = self._read(evidence), self._before(key)
            if before is not None:
                due = self._due(before, now)
                closer |= now.last >= before.last + CLOSER_RISE or self._awaits(now)
                record |= any(due)
                now = self._raise(before, now, due)
            self._most[key] = now
        return Sight(closer, record)

    def settle(self, memory: Memory) -> None:
        """A step has been recorded: what is silent now has been told."""
        self._coming.clear()
        self._settled = {key: own.evidence for key, own in memory.known.items() if own.evidence is not None}

    def _before(self, key: Key) -> _Reading | None:
        """What a site's silence is compared with; that at a recorded step is asked for by the next look, if any."""
        settled = self._settled.pop(key, None)
        if settled is not None:
            self._most[key] = self._read(settled)
        return self._most.get(key)

    def _read(self, evidence: UnitEvidence) -> _Reading:
        last, *silent = silence(evidence.ages_3C, self._window)
        quiet = max(silent) < self._warning  # most layers, at most steps
        verges = _NEVER if quiet else self._verges(evidence.units, evidence.seldom_units)
        return _Reading(last, tuple(map(_Share, silent, verges)))

    def _due(self, before: _Reading, now: _Reading) -> list[bool]:
        """Of each share but the last batch's, whether a verdict of it is due."""
        shares = zip(now.shares, before.shares, RECORD_RISE, strict=True)
        return [
            a.silent >= self._warning and (a.silent >= b.silent + rise or (a.tells and not b.tells))
            for a, b, rise in shares
        ]

    def _awaits(self, now: _Reading) -> bool:
        """Whether a verdict needs two windows. Only samples that are watched count in them."""
        _, half, _, double = now.shares
        return half.silent >= double.begins and not any(share.tells for share in now.shares)

    def _raise(self, before: _Reading, now: _Reading, due: Sequence[bool]) -> _Reading:
        """What has asked for something once does not ask again; a share that did not is not kept."""
        last = now.last if now.last >= before.last + CLOSER_RISE else before.last
        return _Reading(
            last, tuple(a if asks else b for a, b, asks in zip(now.shares, before.shares, due, strict=True))
        )

    def _enough(self, units: int) -> _Enough:
        windows = 1 if math.isinf(self._verges(units, units)[-1]) else 2
        return {"samples": max(windows * self._window, SUSPECT_SAMPLES), "observations": MIN_OBSERVATIONS}

    def _seen(self, key: Key, site: Site) -> Openings | None:
        recent = site.recent
        if recent is None:
            return None
        enough = self._enough(recent.units)
        if recent.last_C.device.type == "cpu":
            return recent.openings(**enough)
        if recent.last_C.device.type != "cuda":
            return None
        coming = self._coming.get(key)
        if coming is not None and not coming.coming.arrived():
            return None
        times = recent.times(**enough)
        if times[0].size:
            self._coming[key] = _Openings(Coming([recent.opens_C, recent.last_C]), times)
        return coming.read() if coming is not None else None


class _Openings(NamedTuple):
    """Openings on their way, and their times."""

    coming: Coming
    times: tuple[NDArray[np.int64], NDArray[np.float64]]

    def read(self) -> Openings:
        """A copy on the host."""
        opens_C, last_C = self.coming.read()
        return Openings(*self.times, opens_C.double().numpy(), last_C.numpy())
