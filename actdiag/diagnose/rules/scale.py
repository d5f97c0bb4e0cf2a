"""exploding-activation: activations that grow without bound, over the training or over the depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import Why, bad_input, hidden, hidden_rms, looped, module_of, short
from actdiag.snapshot import Snapshot

_MIN_SITES = 4


def exploding_activation(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Hidden activations that have grown out of all proportion.

    What: the largest hidden activation (root mean square) is 1,000 times what it was in the first snapshot, and
    1,000 in size (error from 1e5 on); or, in two snapshots in a row, the last quarter of the layers is 100 times
    the first, growing all the way, and 100 in size (error from 1e4 on); or, with a loss scaler, a value is beyond
    half of the largest number of fp16.
    Why: gradients grow with them, small differences are lost in rounding, and the end is infinity.
    Not a problem when: a residual stream grows with depth by some factor (4 in healthy runs); the output of a
    regression takes the scale of its targets (outputs are left out); the inputs are large already.
    What to try: lower the learning rate; normalization; smaller initial weights (He for ReLU), or branches that
    begin at 0; clip the gradient norm; check the sign of the loss.
    Source: He et al. 2015; 100 times over the depth; healthy runs: up to 290 times over the training.
    """
    yield from _near_the_largest(history[-1], limits)
    grown = list(_over_time(history, limits))
    yield from grown
    if not grown and len(history) > 1 and _depth(history[-2], limits) is not None:
        yield from _over_depth(history[-1], limits)


def _near_the_largest(now: Snapshot, limits: Limits) -> Iterator[Verdict]:
    if now.loss_scale is None:
        return
    for name, site in hidden(now):
        reach = max(abs(site.low or 0.0), abs(site.high or 0.0))
        if limits.near_largest * limits.fp16_largest <= reach <= limits.fp16_largest:
            message = f"values up to {short(reach)}, close to the largest number of fp16 (65504)"
            yield _verdict("warning", name, message, reach / limits.fp16_largest, _LARGE)
            return


def _over_time(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    base = hidden_rms(history[0])
    sizes = [(site.rms, name) for name, site in hidden(history[-1]) if site.rms and site.role == "layer"]
    rms, name = max(sizes, default=(0.0, ""))
    if not base or not max(base, 1.0) * limits.exploding_activation <= rms < math.inf:
        return
    severity: Severity = "error" if rms >= limits.exploding_activation_error * base else "warning"
    was = f"no hidden activation was larger than {short(base)} at step {history[0].step}"
    yield _verdict(severity, name, f"its outputs have a size of {short(rms)}; {was}", rms / base, _UPDATES)


def _depth(snapshot: Snapshot, limits: Limits) -> tuple[str, float, float] | None:
    """Where the layers grow most, the last quarter and the first; None if they do not grow all the way."""
    loops = looped(snapshot)
    once = [(n, s) for n, s in hidden(snapshot) if module_of(n) not in loops and s.role == "layer" and s.rms]
    if len(once) < _MIN_SITES:
        return None
    sizes = [site.rms or 0.0 for _, site in once]
    if not all(map(math.isfinite, sizes)):
        return None
    part = max(1, len(sizes) // 4)
    quarters = [statistics.median(sizes[i * part : (i + 1) * part if i < 3 else None]) for i in range(4)]
    grows = all(b > a for a, b in pairwise(quarters))
    if not grows or quarters[3] < limits.exploding_depth * max(1.0, quarters[0]):
        return None
    steepest = max(range(1, len(once)), key=lambda i: sizes[i] / sizes[i - 1])
    return once[steepest][0], quarters[3], quarters[0]


def _over_depth(now: Snapshot, limits: Limits) -> Iterator[Verdict]:
    found = _depth(now, limits)
    if found is None:
        return
    name, late, early = found
    severity: Severity = "error" if late >= limits.exploding_depth_error * early else "warning"
    message = f"layers grow from a size of {short(early)} to {short(late)} through the depth, most of all here"
    why = _WEIGHTS
    if (odd := bad_input(now, limits)) is not None:
        why = (f"{why[0]}; and {odd}", (*why[1], "standardize the inputs"))
    yield _verdict(severity, name, message, late / early, why)


_LARGE: Why = (
    "activations come close to what fp16 can hold",
    ("use bf16 instead of fp16", "add normalization before this layer", "lower the learning rate"),
)
_UPDATES: Why = (
    "updates blew up the weights: the learning rate is too high, or the loss is followed upwards",
    (
        "lower the learning rate or warm it up",
        "clip the gradient norm",
        "check the sign of the loss",
        "restart from a checkpoint before it began",
    ),
)
_WEIGHTS: Why = (
    "each layer makes its input larger: the initial weights are too large, or residual branches are not normalized",
    (
        "use He initialization for ReLU, Xavier for tanh",
        "add batch or layer normalization",
        "initialize the last layer of each residual branch with 0",
    ),
)


def _verdict(severity: Severity, name: str, message: str, ratio: float, why: Why) -> Verdict:
    return Verdict(
        rule="exploding-activation",
        severity=severity,
        layer=name,
        message=f"{name}: {message}",
        evidence={"ratio": ratio, "healthy": "up to 290 times over the training, 4 times over the depth"},
        cause=why[0],
        advice=why[1],
        source="He et al. 2015; thresholds measured on healthy and faulty runs.",
    )
