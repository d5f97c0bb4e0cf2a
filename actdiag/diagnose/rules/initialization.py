"""poor-initialization: what the first step tells of the weights that training begins with."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.flow import medians, per_sample
from actdiag.diagnose.rules.once import once
from actdiag.diagnose.rules.reading import Named, bad_input, first_input, hidden, looped, module_of, percent, short
from actdiag.snapshot import SiteStats, Snapshot

SOURCE = (
    "Glorot & Bengio 2010; He et al. 2015 (arXiv:1502.01852); limits measured at the first step of 33 programs, 17 of "
    "them healthy."
)
_HEALTHY = (
    "a ratio of 0.08 to 2 through the depth; under 10 % saturated; gates open by 5 % and more; inputs that vary by 1"
)
_MIN_LAYERS = 4
_FIRST_STEPS = 1
Trend = tuple[str, float, float, float]
"""Of a size along the layers: the steepest layer, last over first, first and last."""


class Symptom(NamedTuple):
    """What is wrong at the start: where, how badly, and by which numbers."""

    kind: str
    severity: Severity
    layer: str
    message: str
    value: float
    cause: str
    advice: tuple[str, ...]


def poor_initialization(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Weights with which the first step is lost, as the signal fades, blows up, lies on flat ends, or is shut out.

    What: judged at the first step (recorded as step 0 or 1), and told for as long as it is still so. With four
    weighted hidden layers or more: the part of the layers' outputs that depends on the sample, or the gradient per
    sample on its way back, shrinks or grows 3,000 times from the first to the last quarter (100 times: info). Any
    hidden bounded activation with 60 % of its elements on the flat ends (30 %: info). Any hidden activation whose gates
    are open by 1 % or less. Inputs that vary by more than 5 around
    their means: info.
    Why: what the last layers learn from is rounding, or what the first ones receive is; training stands still for
    long, or blows up at its first steps.
    Not a problem when: the network is residual or normalized and the signal comes through (nothing is told then); a
    branch begins at 0 on purpose; training has repaired it (the finding is resolved).
    What to try: He initialization for ReLU and its kin, Xavier for tanh and sigmoid; normalization; residual
    connections; standardized inputs; zero biases.
    Source: Glorot & Bengio 2010; He et al. 2015, arXiv:1502.01852; limits measured at the first step of 33 programs.
    """
    first, now = history[0], history[-1]
    if first.step > _FIRST_STEPS:
        return
    began = _symptoms(first, limits)
    lasting = {symptom.kind for symptom in _symptoms(now, limits)} if began else set()
    for symptom in began:
        if symptom.kind in lasting:
            yield _verdict(symptom, first, limits)
            return


def _symptoms(snapshot: Snapshot, limits: Limits) -> list[Symptom]:
    """All that is wrong, what explains the others first."""
    looks = (_flat_ends, _shut, _forward, _backward, _inputs)
    return [symptom for look in looks if (symptom := look(snapshot, limits)) is not None]


def _flat_ends(snapshot: Snapshot, limits: Limits) -> Symptom | None:
    found = [(site.saturated_fraction, name) for name, site in _activations(snapshot) if site.saturated_fraction]
    share, name = max(found, default=(0.0, ""))
    if share < limits.initial_saturated_info:
        return None
    severity: Severity = "warning" if share >= limits.initial_saturated_warning else "info"
    message = f"{percent(share)} of its elements lie on the flat ends at the first step"
    cause = "the pre-activations are too large: large weights, or inputs that are not standardized"
    advice = ("standardize the inputs", "use Xavier initialization", "normalize before the activation")
    return Symptom("saturated", severity, name, message, share, cause, advice)


def _shut(snapshot: Snapshot, limits: Limits) -> Symptom | None:
    found = [
        (site.gate_mean, name)
        for name, site in _activations(snapshot)
        if site.gate_mean is not None and not site.saturated_fraction and (site.n or 0) >= limits.initial_elements
    ]
    share, name = min(found, default=(1.0, ""))
    if share > limits.initial_gate:
        return None
    message = f"its gates are open by {percent(share)} at the first step: next to nothing passes, forward or back"
    cause = "a negative bias, or inputs that lie on one side"
    advice = ("begin with zero biases", "center the inputs", "use He initialization")
    return Symptom("closed", "warning", name, message, share, cause, advice)


def _forward(snapshot: Snapshot, limits: Limits) -> Symptom | None:
    trend = _signal_through_depth(snapshot)
    if trend is None:
        return None
    name, ratio, first, last = trend
    severity = _severity(ratio, limits)
    if severity is None:
        return None
    what = "shrink" if ratio < 1 else "grow"
    message = (
        f"outputs {what} through the depth from {short(first)} to {short(last)} at the first step, most of all here"
    )
    return Symptom(f"forward {what}s", severity, name, message, ratio, *_weights(ratio))


def _backward(snapshot: Snapshot, limits: Limits) -> Symptom | None:
    trend = _gradient_through_depth(snapshot)
    if trend is None or not trend[1]:
        return None  # a gradient of exactly 0 is the business of no-gradient and gradient-underflow
    name, ratio, first, last = trend
    severity = _severity(1 / ratio, limits)
    if severity is None:
        return None
    what = "shrinks" if ratio > 1 else "grows"
    message = (
        f"the gradient {what} on its way back from {short(last)} to {short(first)} at the first step, most of all here"
    )
    return Symptom(f"backward {what}", severity, name, message, 1 / ratio, *_weights(1 / ratio))


def _inputs(snapshot: Snapshot, limits: Limits) -> Symptom | None:
    found = first_input(snapshot)
    size = None if found is None else signal(found[1])
    if found is None or size is None or size <= limits.input_rms:
        return None
    message = f"the inputs vary by {short(size)} around their means; standardized ones vary by 1"
    cause = "the inputs are not standardized"
    advice = ("standardize the inputs: subtract the mean and divide by the standard deviation of the training set",)
    return Symptom("inputs", "info", module_of(found[0]), message, size, cause, advice)


def signal(site: SiteStats) -> float | None:
    """The size of what depends on the sample: root mean square without the units' means. None where it is unknown."""
    if site.rms is None or not math.isfinite(site.rms) or (site.samples or 0) < 2:
        return None
    return site.rms * math.sqrt(max(0.0, 1 - (site.mean_energy or 0.0)))


def _activations(snapshot: Snapshot) -> list[Named]:
    return [(name, site) for name, site in hidden(snapshot) if site.role == "activation"]


@once
def _signal_through_depth(snapshot: Snapshot) -> Trend | None:
    return _through_depth(snapshot, signal)


@once
def _gradient_through_depth(snapshot: Snapshot) -> Trend | None:
    return _through_depth(snapshot, per_sample)


def _through_depth(snapshot: Snapshot, value: Callable[[SiteStats], float | None]) -> Trend | None:
    """How a size goes along the weighted layers.

    First and last are medians of the first and last quarter; None for fewer than four layers, and where the quarters
    go up and down. Layers whose weights are 0 begin so on purpose (residual branches) and are left out.
    """
    loops = looped(snapshot)
    sizes = [
        (name, size)
        for name, site in hidden(snapshot)
        if site.role == "layer" and module_of(name) not in loops and (size := value(site)) is not None
        and not _is_zero(module_of(name), snapshot)
    ]  # fmt: skip
    if len(sizes) < _MIN_LAYERS:
        return None
    quarters = medians([size for _, size in sizes])
    falls, rises = (all(one(a, b) for a, b in pairwise(quarters)) for one in (operator.ge, operator.le))
    if not quarters[0] or not (falls or rises):
        return None
    steps = [(b[1] / a[1] if a[1] else 1.0, b[0]) for a, b in pairwise(sizes)]
    return (max(steps) if rises else min(steps))[1], quarters[-1] / quarters[0], quarters[0], quarters[-1]


def _is_zero(module: str, snapshot: Snapshot) -> bool:
    weight = snapshot.parameters.get(f"{module}.weight")
    return weight is not None and weight.weight_norm == 0


def _severity(ratio: float, limits: Limits) -> Severity | None:
    size = max(ratio, 1 / ratio) if ratio else math.inf
    if size >= limits.initial_ratio_warning:
        return "warning"
    return "info" if size >= limits.initial_ratio_info else None


def _weights(ratio: float) -> tuple[str, tuple[str, ...]]:
    better = "use He initialization for ReLU and its kin, Xavier for tanh and sigmoid"
    rest = ("add batch or layer normalization", "add residual connections")
    if ratio < 1:
        return "the initial weights are too small for the activations in use", (better, "use ReLU or tanh", *rest)
    return "the initial weights are too large", (better, *rest, "clip the gradient norm")


def _verdict(symptom: Symptom, first: Snapshot, limits: Limits) -> Verdict:
    odd = None if symptom.kind == "inputs" else bad_input(first, limits)
    return Verdict(
        rule="poor-initialization",
        severity=symptom.severity,
        layer=symptom.layer,
        message=f"{symptom.layer}: {symptom.message}",
        evidence={
            "symptom": symptom.kind,
            "value": symptom.value,
            "first_step": first.step,
            "healthy": _HEALTHY,
        },
        cause=symptom.cause if odd is None else f"{symptom.cause}; {odd}",
        advice=symptom.advice,
        source=SOURCE,
    )
