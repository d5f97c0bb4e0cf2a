"""How findings are held against labels: pure functions of what was said and what is true."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cases.truth import DEAD_SHARE, GRID_STEPS, onset

LABELS: Mapping[str, frozenset[str]] = {
    "dead-units": frozenset({"dead_units"}),
    "saturated-activation": frozenset({"saturation"}),
    "off-center": frozenset({"uncentred"}),
    "exploding-activation": frozenset({"exploding_activation"}),
    "exploding-gradient": frozenset({"exploding_gradient"}),
    "vanishing-gradient": frozenset({"vanishing_gradient"}),
    "collapsed-activation": frozenset({"vanishing_gradient"}),
    "gradient-underflow": frozenset({"vanishing_gradient"}),
    "non-finite": frozenset({"nan"}),
    "no-gradient": frozenset({"not_learning"}),
    "stalled-update": frozenset({"not_learning"}),
    "oversized-update": frozenset({"not_learning"}),
    "poor-initialization": frozenset(
        {"vanishing_gradient", "exploding_gradient", "exploding_activation", "saturation"}
    ),
}
"""Slug -> the labels that it stands for. Other tools' rules are told under the slug that is nearest."""


@dataclass(frozen=True)
class Said:
    """One warning or error of a tool: when first, where, and under which slug."""

    rule: str
    layer: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of one program: its labels, its layers in order, when units died, and what each tool has said."""

    name: str
    seed: int
    label: str
    also: Sequence[str] = ()
    tolerate: Mapping[str, str] = field(default_factory=dict)
    at_fault: Sequence[str] = ()
    layers: Sequence[str] = ()
    shares: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    said: Mapping[str, Sequence[Said]] = field(default_factory=dict)
    forecasts: Mapping[str, Sequence[Said]] = field(default_factory=dict)

    @property
    def onsets(self) -> dict[str, int]:
        """Layer that is dead at the end -> first measured step from which it stayed so."""
        found = {layer: onset(shares) for layer, shares in self.shares.items()}
        return {layer: step for layer, step in found.items() if step is not None}

    @property
    def faulty(self) -> bool:
        """Whether there is a fault to be found."""
        return self.label != "healthy"


def matching(case: Case, tool: str) -> list[Said]:
    """What a tool said of a faulty run that is of a right kind."""
    true = {case.label, *case.also}
    return [said for said in case.said[tool] if LABELS.get(said.rule, frozenset()) & true]


def alarms(case: Case, tool: str) -> list[Said]:
    """What a tool said of a healthy run that is not tolerated there."""
    return [s for s in case.said[tool] if case.tolerate.get(s.layer) not in LABELS.get(s.rule, frozenset())]


def in_place(case: Case, said: Said) -> bool:
    """Whether a layer at fault is named, or the module right before or after it: a layer and its activation."""
    named = said.layer.partition("#")[0].removesuffix(":in")
    if said.layer in case.at_fault or named in case.at_fault:
        return True
    if named not in case.layers:
        return False
    at = case.layers.index(named)
    return any(name in case.at_fault for name in case.layers[max(0, at - 1) : at + 2])


def latencies(case: Case, tool: str) -> dict[str, int]:
    """Layer that is dead at the end -> steps to the first word of its dead units; layers not told are left out.

    They count from when its share of dead units last reached 45 % before the word. Where the share is lower at the word
    (it may have died and come back before) they are negative: the steps to the next time.
    """
    first: dict[str, int] = {}
    for said in case.said[tool]:
        if said.rule == "dead-units" and said.layer in case.onsets:
            first[said.layer] = min(said.step, first.get(said.layer, said.step))
    return {layer: step - _beginning(case.shares[layer], step) for layer, step in first.items()}


def _beginning(shares: Sequence[tuple[int, float]], told: int) -> int:
    """When the layer began to be dead: the last time up to `told`, or to a measurement just after, or the next."""
    for latest in (told, told + GRID_STEPS):
        began = onset([one for one in shares if one[0] <= latest])
        if began is not None:
            return began
    return next(step for step, share in shares if step > told and share >= DEAD_SHARE)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One tool on some runs. Counts; `median_latency` in steps, None where no onset was told."""

    faulty: int
    detected: int
    placed: int
    healthy: int
    false_alarms: int
    onsets: int
    told: int
    premature: int
    median_latency: float | None


def score(cases: Sequence[Case], tool: str) -> Score:
    """A tool's counts. Onsets are known to GRID_STEPS, so a word is premature only if earlier than that."""
    faulty, healthy = [c for c in cases if c.faulty], [c for c in cases if not c.faulty]
    found = [matching(case, tool) for case in faulty]
    late = [steps for case in faulty for steps in latencies(case, tool).values()]
    return Score(
        faulty=len(faulty),
        detected=sum(bool(said) for said in found),
        placed=sum(any(in_place(c, s) for s in said) for c, said in zip(faulty, found, strict=True)),
        healthy=len(healthy),
        false_alarms=sum(bool(alarms(case, tool)) for case in healthy),
        onsets=sum(len(case.onsets) for case in faulty),
        told=len(late),
        premature=sum(steps < -GRID_STEPS for steps in late),
        median_latency=statistics.median(late) if late else None,
    )


def forecasts(cases: Sequence[Case], tool: str) -> tuple[list[int], list[Said]]:
    """Lead times in steps of the forecasts of death that came true, and those that did not; told late is not true."""
    leads, wrong = list[int](), list[Said]()
    for case in cases:
        for told in case.forecasts.get(tool, ()):
            onset = case.onsets.get(told.layer)
            if onset is not None and told.step <= onset:
                leads.append(onset - told.step)
            else:
                wrong.append(told)
    return leads, wrong


def by_label(cases: Sequence[Case], tool: str) -> dict[str, tuple[int, int]]:
    """Primary label -> detected, all."""
    found: dict[str, tuple[int, int]] = {}
    for case in cases:
        if case.faulty:
            hit, total = found.get(case.label, (0, 0))
            found[case.label] = (hit + bool(matching(case, tool)), total + 1)
    return dict(sorted(found.items()))


def case_from(raw: Mapping[str, Any]) -> Case:
    """A Case from plain values, as a run of one program prints them."""
    told = {
        kind: {tool: [Said(*one) for one in given] for tool, given in raw.get(kind, {}).items()}
        for kind in ("said", "forecasts")
    }
    return Case(**{**raw, **told})
