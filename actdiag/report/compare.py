"""Two runs side by side, as values: what was found in each, and how far apart what both have is, at the same step."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actdiag.diagnose.finding import SEVERITIES, Finding, Severity
from actdiag.report.run import Run
from actdiag.snapshot import Snapshot


@dataclass(frozen=True)
class Measure:
    """A number of a snapshot and how it is compared: shares and counts by B - A, scales by the log2 of B / A."""

    name: str
    title: str
    kind: Literal["share", "scale", "count"]


LAYER_MEASURES = (
    Measure("rms", "rms", "scale"),
    Measure("mean_energy", "mean energy", "share"),
    Measure("saturated_fraction", "saturated", "share"),
    Measure("dead_fraction", "dead units", "share"),
    Measure("grad_rms", "grad rms", "scale"),
)
PARAMETER_MEASURES = (Measure("update_ratio", "update ratio", "scale"),)
RUN_MEASURES = (
    Measure("grad_norm_total", "grad norm", "scale"),
    Measure("clip_coefficient", "clip coefficient", "share"),
    Measure("ranks", "processes", "count"),
)

POINTS_AS_A_FACTOR_OF_TWO = 10
"""Percentage points of a share that weigh as much as a factor of two, to put both in one order: about ten octaves lie
between a healthy gradient ratio and a vanished one (limits.py), as 100 points do between no dead unit and all."""


@dataclass(frozen=True)
class Difference:
    """One number in both runs; None where it does not apply."""

    measure: Measure
    a: float | None
    b: float | None

    @property
    def known(self) -> bool:
        """Whether a run has the number."""
        return self.a is not None or self.b is not None

    @property
    def change(self) -> float | None:
        """From A to B: octaves for a scale, else B - A. Infinite from or to 0; None if only one has the number."""
        if self.a == self.b:
            return 0.0
        if self.a is None or self.b is None:
            return None
        return _octaves(self.a, self.b) if self.measure.kind == "scale" else self.b - self.a

    @property
    def size(self) -> float:
        """How far apart, in octaves or what weighs as much; 0 is equal.

        A scale that only one has is infinitely far: nothing finite was left, or no gradient came. A share that only
        one has weighs nothing, as it needs an activation of a certain kind, or enough evidence.
        """
        if self.change is None:
            return math.inf if self.measure.kind == "scale" else 0.0
        return abs(self.change) * (100 / POINTS_AS_A_FACTOR_OF_TWO if self.measure.kind == "share" else 1)


def _octaves(a: float, b: float) -> float | None:
    """log2 of b / a, exactly opposite to that of a / b; None for what is no scale: a log may hold anything."""
    return None if min(a, b) < 0 else _log2(b) - _log2(a)


def _log2(value: float) -> float:
    return math.log2(value) if value > 0 else -math.inf


@dataclass(frozen=True)
class Pair:
    """A layer or a parameter that both runs have; `a` and `b` are its kind, or its state, in each."""

    name: str
    a: str
    b: str
    differences: tuple[Difference, ...]

    @property
    def differs(self) -> bool:
        """Whether a number differs, or the kind."""
        return self.a != self.b or any(d.a != d.b for d in self.differences)

    @property
    def weight(self) -> tuple[float, ...]:
        """A sort key: the largest difference decides, among equal ones (to what a reader sees) the next."""
        return tuple(sorted(-round(d.size, 3) for d in self.differences))


@dataclass(frozen=True)
class Match:
    """What both runs have, the most different first, and what only one has, as name -> kind in its order."""

    both: tuple[Pair, ...] = ()
    only_a: tuple[tuple[str, str], ...] = ()
    only_b: tuple[tuple[str, str], ...] = ()


def _match(
    a: Mapping[str, Any], b: Mapping[str, Any], measures: Sequence[Measure], kind: Callable[[Any], str]
) -> Match:
    place_a, place_b = ({name: i for i, name in enumerate(items)} for items in (a, b))
    pairs = [
        Pair(name, kind(item), kind(b[name]), _differences(item, b[name], measures))
        for name, item in a.items()
        if name in b
    ]
    return Match(
        tuple(sorted(pairs, key=lambda p: (p.weight, place_a[p.name] + place_b[p.name], p.name))),
        tuple((name, kind(item)) for name, item in a.items() if name not in b),
        tuple((name, kind(item)) for name, item in b.items() if name not in a),
    )


def _differences(a: Any, b: Any, measures: Iterable[Measure]) -> tuple[Difference, ...]:
    return tuple(Difference(m, getattr(a, m.name), getattr(b, m.name)) for m in measures)


@dataclass(frozen=True)
class Told:
    """What a run told of one rule at one layer, all episodes together; `resolved_step` is None while one is open.

    `severity` is the highest of the open episodes, or of all if none is; `message` that of the latest.
    """

    severity: Severity
    step: int
    resolved_step: int | None
    episodes: int
    message: str


@dataclass(frozen=True)
class FindingPair:
    """A rule and a layer that at least one of the runs told of."""

    rule: str
    layer: str
    a: Told | None
    b: Told | None


def _findings(a: Run, b: Run) -> tuple[FindingPair, ...]:
    """Open ones before those that are over in both; then worst first, then by layer and rule."""
    told_a, told_b = _told(a.findings), _told(b.findings)
    keys = {**told_a, **told_b}
    return tuple(sorted((FindingPair(*k, told_a.get(k), told_b.get(k)) for k in keys), key=_urgency))


def _told(findings: Iterable[Finding]) -> dict[tuple[str, str], Told]:
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        grouped.setdefault((finding.rule, finding.layer), []).append(finding)
    return {key: _joined(episodes) for key, episodes in grouped.items()}


def _joined(episodes: Sequence[Finding]) -> Told:
    still = [f for f in episodes if f.resolved_step is None]
    return Told(
        severity=max((f.severity for f in still or episodes), key=SEVERITIES.index),
        step=min(f.step for f in episodes),
        resolved_step=None if still else max(f.resolved_step for f in episodes if f.resolved_step is not None),
        episodes=len(episodes),
        message=max(episodes, key=lambda f: f.step).message,
    )


def _urgency(pair: FindingPair) -> tuple[bool, int, str, str]:
    told = [side for side in (pair.a, pair.b) if side is not None]
    worst = max(SEVERITIES.index(side.severity) for side in told)
    return all(side.resolved_step is not None for side in told), -worst, pair.layer, pair.rule


@dataclass(frozen=True)
class Steps:
    """The steps that are compared, how many steps both runs recorded, and why it is these if it is not plain."""

    a: int
    b: int
    common: int
    note: str = ""


def align(a: Sequence[int], b: Sequence[int], wanted: int | None = None) -> Steps | None:
    """The last step in both, or the one that is wanted; what comes nearest if there is none. None if a run is empty."""
    if not a or not b:
        return None
    common = sorted(set(a) & set(b))
    if common:
        step = common[-1] if wanted is None else _nearest(common, wanted)
        strange = wanted not in (None, step)
        note = f"step {wanted} was not recorded by both; the nearest that was is step {step}" if strange else ""
        return Steps(step, step, len(common), note)
    near_a, near_b = _closest(a, b) if wanted is None else (_nearest(a, wanted), _nearest(b, wanted))
    to = "each other" if wanted is None else f"step {wanted}"
    note = f"no step was recorded by both; compared are step {near_a} of A and step {near_b} of B, the nearest to {to}"
    return Steps(near_a, near_b, 0, note)


def _nearest(steps: Iterable[int], wanted: int) -> int:
    """The later of two that are equally near."""
    return min(steps, key=lambda step: (abs(step - wanted), -step))


def _closest(a: Iterable[int], b: Iterable[int]) -> tuple[int, int]:
    """A step of each, with the least distance; the latest of several such pairs."""
    others = sorted(b)
    ends = [(step, bisect_left(others, step)) for step in a]
    pairs = [(step, other) for step, i in ends for other in others[max(0, i - 1) : i + 1]]
    return min(pairs, key=lambda pair: (abs(pair[0] - pair[1]), -sum(pair)))


@dataclass(frozen=True)
class Comparison:
    """Two runs and how they differ; without `steps`, one of them recorded none, and only findings are compared.

    `notes` say what a reader must know of the comparison; what could not be read is told by the runs.
    """

    a: Run
    b: Run
    steps: Steps | None
    findings: tuple[FindingPair, ...]
    run: tuple[Difference, ...]
    layers: Match
    parameters: Match
    notes: tuple[str, ...]


def compare(a: Run, b: Run, step: int | None = None) -> Comparison:
    """Compare at a step, by default the last that both recorded. Reads no more than two snapshots at once."""
    places_a, places_b = ({number: i for i, number in enumerate(run.steps)} for run in (a, b))
    steps = align(list(places_a), list(places_b), step)
    left, right = (
        (Snapshot(step=0), Snapshot(step=0))
        if steps is None
        else (a.snapshots[places_a[steps.a]], b.snapshots[places_b[steps.b]])
    )
    return Comparison(
        a,
        b,
        steps,
        _findings(a, b),
        _differences(left, right, RUN_MEASURES),
        _match(left.sites, right.sites, LAYER_MEASURES, lambda site: site.kind),
        _match(left.parameters, right.parameters, PARAMETER_MEASURES, lambda parameter: parameter.state),
        tuple(_notes(a, b, steps)),
    )


def _notes(a: Run, b: Run, steps: Steps | None) -> list[str]:
    notes = [f"{name} has no recorded step" for name, run in (("A", a), ("B", b)) if not run.snapshots]
    if a.folder is not None and b.folder is not None and a.folder.resolve() == b.folder.resolve():
        notes += ["A and B are the same run"] if a.prefix == b.prefix else []
    return notes + ([steps.note] if steps is not None and steps.note else [])
