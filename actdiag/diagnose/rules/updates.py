"""stalled-update and oversized-update: how far a step moves the weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.once import once
from actdiag.diagnose.rules.reading import Why, bad_input, hidden_rms, short
from actdiag.snapshot import ParameterStats, Snapshot

_TRAINABLE = ("trained", "zero_grad", "no_grad")
_BAND = "1e-4 to 0.08 of all weights; in fine-tuning from 1e-5"


@once
def relative_update(snapshot: Snapshot) -> float | None:
    """Size of the update over that of all weights that were updated; None if unknown, not finite, or all are 0.

    Taken over the whole model, a bias that began at 0 or another tensor of tiny norm cannot stand for it.
    """
    moved = [p for p in snapshot.parameters.values() if p.update_ratio is not None and p.weight_norm]
    weights = math.hypot(*(p.weight_norm or 0.0 for p in moved))
    update = math.hypot(*(_moved_by(p) for p in moved))
    if not weights or not math.isfinite(weights) or not math.isfinite(update):
        return None
    return update / weights


def _moved_by(parameter: ParameterStats) -> float:
    return (parameter.update_ratio or 0.0) * (parameter.weight_norm or 0.0)


@once
def weights_norm(snapshot: Snapshot) -> float | None:
    """Norm of all weights that can train; None if one is unknown, or it is 0 or not finite."""
    norms = [p.weight_norm for p in snapshot.parameters.values() if p.state in _TRAINABLE]
    if any(norm is None for norm in norms):
        return None
    norm = math.hypot(*(norm or 0.0 for norm in norms))
    return norm if 0 < norm < math.inf else None


def stalled_update(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Updates so small that nothing is learned, from the start on.

    What: the update of all weights together is below 3e-6 of their norm in every snapshot the rule sees (the first
    two of the run and the last ones), four or more over 100 steps, and does not rise, while the gradient is 1e-3 of
    the weights and more: warning; error from eight on.
    Why: at 1e-6 a step, a hundred thousand steps change the weights by a tenth at the most.
    Not a problem when: it is a warm-up that rises, or a decay after larger updates (both are in the run's own
    history); the gradients are tiny as well, since the loss has converged or its unit is small; fine-tuning with a
    small rate (1e-5 with Adam gives 2e-5).
    What to try: raise the learning rate by factors of ten; check that the schedule leaves its warm-up and that a
    parameter group does not set a rate of its own; keep the weights in float32.
    Source: measured, healthy runs 1.3e-4 and more; the fixed band 1e-4 to 1e-2 flags two of three healthy runs.
    """
    if len(history) < limits.stalled_snapshots or history[-1].step - history[0].step < limits.stalled_steps:
        return
    sizes = [size for snapshot in history if (size := relative_update(snapshot)) is not None]
    if (
        len(sizes) < max(limits.stalled_snapshots, limits.stalled_known * len(history))
        or max(sizes) >= limits.stalled_update
    ):
        return
    rises = statistics.median(sizes[-2:]) > limits.stalled_rise * statistics.median(sizes[:2])
    gradient = _smallest_gradient(history)
    if not rises and gradient is not None and gradient >= limits.stalled_gradient:
        yield _stalled(history[0].step, sizes, gradient, limits)


def _smallest_gradient(history: Sequence[Snapshot]) -> float | None:
    """Gradient over weights, the smallest of the run; None if it is unknown."""
    found = [
        snapshot.grad_norm_total / weights
        for snapshot in history
        if snapshot.grad_norm_total is not None and (weights := weights_norm(snapshot)) is not None
    ]
    return min(found, default=None)


def _stalled(since: int, sizes: Sequence[float], gradient: float, limits: Limits) -> Verdict:
    severity: Severity = "error" if len(sizes) >= limits.stalled_error_snapshots else "warning"
    why = _STANDS if max(sizes) == 0 else _LOW_RATE
    return Verdict(
        rule="stalled-update",
        severity=severity,
        layer="",
        message=f"an update moves the weights by {short(max(sizes))} of their size at most, since step {since}: too "
        "little to learn anything",
        evidence={"largest_update": max(sizes), "last_update": sizes[-1], "gradient": gradient, "healthy": _BAND},
        cause=why[0],
        advice=why[1],
        source="Measured on healthy runs (1.3e-4 and more) and on runs with a learning rate of 1e-7.",
    )


_LOW_RATE: Why = (
    "the learning rate is far too small, or a warm-up does not end",
    (
        "raise the learning rate by factors of ten",
        "check the schedule: that it leaves its warm-up, and counts steps rather than epochs",
        "look at the rates of the optimizer's parameter groups",
    ),
)
_STANDS: Why = (
    "the learning rate is 0, or the weights are kept in a precision in which small updates are lost",
    ("check the schedule and the learning rate", "keep the weights in float32, and use autocast for the forward"),
)


def oversized_update(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Updates that replace the weights instead of improving them.

    What: the update of all weights together is above 0.1 of their norm in three snapshots in a row; or above 0.2
    and 10 times the usual of this run; or the norm of all weights has grown 10 times (error: 100 times) in 50 steps,
    or since the snapshot before, 500 steps ago at most, and the hidden activations 10 times.
    Why: what was learned is lost at once, units die, and the loss becomes large or NaN.
    Not a problem when: it is the first step (Adam moves every weight by the whole rate); tensors begin at 0 or are
    tiny (all weights are taken together); small initial weights grow to their size (activations stay below 10).
    What to try: lower the learning rate or warm it up; clip the gradient norm; standardize inputs and targets;
    restart from a checkpoint before this step.
    Source: measured, healthy runs up to 0.08 after the first snapshot.
    """
    later = [(s, relative_update(s)) for s in history[1:]]
    sizes = [size for _, size in later if size is not None]
    if not later or later[-1][1] is None:
        yield from _grown(history, limits)
        return
    recent = sizes[-limits.oversized_snapshots :]
    usual = statistics.median(sizes[:-1]) if len(sizes) > limits.oversized_snapshots else math.inf
    if len(recent) == limits.oversized_snapshots and min(recent) > limits.oversized_update:
        severity: Severity = "error" if min(recent) > limits.oversized_error else "warning"
        yield _oversized(severity, history, _replaced(min(recent)), limits)
    elif sizes[-1] > limits.oversized_jump and sizes[-1] > limits.oversized_over_usual * usual:
        times = f"{sizes[-1] / usual:.0f} times the usual" if usual else "and usually by nothing"
        message = f"this update moves the weights by {short(sizes[-1])} of their size, {times}"
        yield _oversized("warning", history, message, limits)
    else:
        yield from _grown(history, limits)


def _replaced(size: float) -> str:
    return f"every update moves the weights by {short(size)} of their size or more: what was learned is lost"


def _grown(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """What updates between two snapshots have done, seen in the weights and in what they make of the data."""
    now, before = history[-1], _some_steps_ago(history, limits)
    old, new = weights_norm(before), weights_norm(now)
    was, has = hidden_rms(before), hidden_rms(now)
    if old is None or new is None or not was or has is None or now.step - before.step > limits.grown_steps_at_most:
        return
    if new >= limits.grown_weights * old and has >= max(limits.grown_rms, limits.grown_weights * was):
        message = f"all weights together have grown {short(new / old)} times since step {before.step}"
        yield _oversized("error" if new >= limits.grown_error * old else "warning", history, message, limits)


def _some_steps_ago(history: Sequence[Snapshot], limits: Limits) -> Snapshot:
    """The snapshot before, or one further back if they lie close."""
    near = [s for s in history[:-1] if s.step >= history[-1].step - limits.grown_steps]
    return near[0] if near else history[max(0, len(history) - 2)]


def _oversized(severity: Severity, history: Sequence[Snapshot], message: str, limits: Limits) -> Verdict:
    now = history[-1]
    name = max(now.parameters, key=lambda name: _moved_by(now.parameters[name]), default="")
    odd = bad_input(now, limits)
    return Verdict(
        rule="oversized-update",
        severity=severity,
        layer="",
        message=f"{message}, most of all in {name}" if name else message,
        evidence={"update": relative_update(now), "weights": weights_norm(now), "largest": name, "healthy": _BAND},
        cause="the learning rate is too high" + (f", and {odd}" if odd else ", or the targets are not scaled"),
        advice=(
            "lower the learning rate or warm it up",
            "clip the gradient norm",
            "standardize inputs and targets",
            "restart from a checkpoint before this step",
        ),
        source="Measured: healthy runs stay below 0.1 after the first step.",
    )
