"""vanishing-gradient and exploding-gradient: how the loss gradient travels back through the depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.flow import Flow, flow
from actdiag.diagnose.rules.reading import Why, looped
from actdiag.diagnose.rules.vanishing import blocked_output, why_vanishing
from actdiag.snapshot import Snapshot


def gradient_ratio(snapshot: Snapshot) -> float | None:
    """Share of the largest gradient that reaches the early sites, in [0, 1]; None without a gradient."""
    found = flow(snapshot)
    return found.early / found.largest if found is not None and found.largest > 0 else None


def vanishing_gradient(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Almost no gradient reaches the early layers.

    What: gradient per sample at the first quarter of the sites, over the largest at any site, below 1e-4 in two
    snapshots in a row (error) or below 1e-3 in three (warning). Measured on activations, not on weights: the ratio
    of weight gradients is 0.82 in a network whose activation gradients shrink by 3e-9, and 0.12 in a healthy one.
    An output activation that has let through no gradient since the first snapshot is an error as well.
    Why: the early layers do not learn; the network trains on random features, or not at all.
    Not a problem when: the loss has converged and all gradients are tiny together (the ratio does not move); the
    first steps of zero-initialized residual branches; a softmax or sigmoid at the output that is sure of itself
    (probabilities are left out of the ratio).
    What to try: Xavier (tanh) or He (ReLU) initialization; another activation than sigmoid; residual connections;
    batch or layer normalization. Dead or saturated layers on the way are the cause, and the first to cure.
    Source: Glorot & Bengio 2010; Hochreiter 1991; thresholds measured on healthy and faulty runs.
    """
    if (site := blocked_output(history, limits)) is not None:
        yield _vanishing(
            "error",
            layer=site,
            message=f"{site}: this output lets no gradient through; nothing before it has learned so far",
            evidence={"ratio": 0.0, "healthy": "above 1e-3"},
            why=(
                "its output does not depend on its input: a softmax over a single unit, or flat ends only",
                ("use one output with a sigmoid, and BCEWithLogitsLoss", "return the scores without an activation"),
            ),
        )
        return
    ratios = [gradient_ratio(snapshot) for snapshot in history[-limits.vanishing_weak_snapshots :]]
    f = flow(history[-1])
    severity = _how_faint(ratios, limits)
    if severity is None or f is None:
        return
    ratio = f.early / f.largest
    share = f"only {ratio:.1e} of the gradient of the late layers" if ratio > 0 else "no gradient at all"
    yield _vanishing(
        severity,
        layer=f.first_name,
        message=f"{f.first_name}: the early layers receive {share}",
        evidence={"early": f.early, "largest": f.largest, "ratio": ratio, "healthy": "above 1e-3"},
        why=why_vanishing(history[-1], limits, ratio),
    )


def _how_faint(ratios: Sequence[float | None], limits: Limits) -> Severity | None:
    """The severity of the last few ratios, oldest first; None if they are fine, unknown or too few."""

    def below(limit: float, snapshots: int) -> bool:
        recent = ratios[-snapshots:]
        return len(recent) == snapshots and all(ratio is not None and ratio < limit for ratio in recent)

    if below(limits.vanishing_error, limits.vanishing_snapshots):
        return "error"
    return "warning" if below(limits.vanishing_warning, limits.vanishing_weak_snapshots) else None


_SOURCES = {
    "vanishing-gradient": "Glorot & Bengio 2010; thresholds measured on healthy and faulty runs.",
    "exploding-gradient": "Pascanu et al. 2013; Glorot & Bengio 2010; healthy range measured.",
}


def _told(rule: str, severity: Severity, *, why: Why, **rest: Any) -> Verdict:
    return Verdict(rule=rule, severity=severity, cause=why[0], advice=why[1], source=_SOURCES[rule], **rest)


_vanishing = partial(_told, "vanishing-gradient")
_exploding = partial(_told, "exploding-gradient")


def exploding_gradient(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """The gradient grows on its way back, or from one snapshot to the next.

    What: gradient per sample at the first quarter of the sites above 100 times (warning) or 1,000 times (error)
    that of the last ones, growing all the way; or a total gradient norm, after clipping, above 100 times the median
    of the snapshots before and 10 times the largest of them (error if it happens twice in a row).
    Why: one such update can undo the training, or end it in NaN.
    Not a problem when: the loss is summed instead of averaged, or its unit is small: absolute norms of healthy
    runs span 9e-9 to 6e4, so none is thresholded here. After convergence the norm swings by much, below where it
    began.
    What to try: clip the gradient norm; lower the learning rate or warm it up; smaller initial weights;
    normalization; for recurrent networks gated cells and shorter sequences.
    Source: Pascanu et al. 2013; Glorot & Bengio 2010; healthy range measured: up to 10 through the depth.
    """
    f = flow(history[-1])
    if f is not None and _explodes(f, limits):
        yield _through_depth(f, history[-1], limits)
    yield from _through_time(history, limits)


def _explodes(f: Flow, limits: Limits) -> bool:
    """Late sites may be faint by themselves (experts with a few easy samples), the last site alone decides little."""
    if not f.grows or f.late <= 0:
        return False
    return f.early > limits.exploding_warning * f.late and f.early > limits.exploding_last * f.last


def _through_depth(f: Flow, now: Snapshot, limits: Limits) -> Verdict:
    ratio = f.early / f.late
    if f.first_name in looped(now):
        cause = "the same weights are applied at every time step, and each step back multiplies the gradient"
        advice: tuple[str, ...] = (
            "clip the gradient norm",
            "use a gated cell (LSTM, GRU), or orthogonal recurrent weights",
            "shorten the sequences",
        )
    else:
        cause = "each layer passes on more gradient than it receives: the weights are too large"
        advice = (
            "use He initialization for ReLU, Xavier for tanh",
            "add batch or layer normalization",
            "clip the gradient norm",
        )
    return _exploding(
        "error" if ratio > limits.exploding_error else "warning",
        layer=f.first_name,
        message=f"{f.first_name}: the gradient grows {ratio:.3g} times on its way from the last layers to the first",
        evidence={"early": f.early, "late": f.late, "ratio": ratio, "healthy": "below 10"},
        why=(cause, advice),
    )


def _through_time(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    jump = _jump(history, limits)
    if jump is None:
        return
    norm, usual = jump
    again = _jump(history[:-1], limits) is not None
    where = _largest_gradient(history[-1])
    yield _exploding(
        "error" if again else "warning",
        layer="",
        message=f"the total gradient norm is {norm:.3g}, {norm / usual:.0f} times its usual {usual:.3g}"
        + (f"; the largest part is in {where}" if where else ""),
        evidence={"grad_norm_total": norm, "usual": usual, "largest": where, "healthy": "below 10 times the median"},
        why=(
            "the training has left the stable range: the learning rate is too high"
            if again
            else "an unusual batch, or a learning rate that has left the stable range",
            (
                "clip the gradient norm",
                "lower the learning rate or warm it up",
                "look at the batch of this step",
            ),
        ),
    )


def _jump(history: Sequence[Snapshot], limits: Limits) -> tuple[float, float] | None:
    """The last total norm, as the update saw it, and the usual one, if it has left the range of those before."""
    norms = [_norm(snapshot) for snapshot in history]
    before = [norm for norm in norms[:-1] if norm is not None]
    now = norms[-1] if norms else None
    if now is None or len(before) < limits.exploding_history:
        return None
    usual = statistics.median(before)
    if usual <= 0 or now <= limits.exploding_jump * usual or now <= limits.exploding_record * max(before):
        return None
    return now, usual


def _norm(snapshot: Snapshot) -> float | None:
    """Total gradient norm after clipping; None if it is unknown or not finite."""
    norm, clip = snapshot.grad_norm_total, snapshot.clip_coefficient
    if norm is None or not math.isfinite(norm):
        return None
    return norm if clip is None or not 0 <= clip <= 1 else norm * clip


def _largest_gradient(snapshot: Snapshot) -> str | None:
    norms = {name: p.grad_norm for name, p in snapshot.parameters.items() if p.grad_norm is not None}
    return max(norms, key=lambda name: norms[name] or 0.0, default=None)
