"""vanishing-gradient and exploding-gradient: how the loss gradient travels back through the depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.limits import Limits
from actdiag.snapshot import SiteStats, Snapshot

_MIN_SITES = 4


class Flow(NamedTuple):
    """Gradient per sample at the early sites, at the last site, and the largest anywhere."""

    early: float
    last: float
    largest: float
    first_name: str


def flow(snapshot: Snapshot) -> Flow | None:
    """How much gradient arrives where; None with fewer than four sites that have a gradient.

    Per sample: grad_rms · sqrt(elements per sample), so that a wide or spatial layer compares with a narrow one.
    Early is the median over the first quarter of the sites in execution order.
    """
    norms = [(name, norm) for name, site in _in_order(snapshot) if (norm := _per_sample(site)) is not None]
    if len(norms) < _MIN_SITES:
        return None
    quarter = norms[: max(1, len(norms) // 4)]
    return Flow(
        early=statistics.median(norm for _, norm in quarter),
        last=norms[-1][1],
        largest=max(norm for _, norm in norms),
        first_name=norms[0][0],
    )


def gradient_ratio(snapshot: Snapshot) -> float | None:
    """Share of the largest gradient that reaches the early sites, in [0, 1]; None without a gradient."""
    found = flow(snapshot)
    return found.early / found.largest if found is not None and found.largest > 0 else None


def _in_order(snapshot: Snapshot) -> list[tuple[str, SiteStats]]:
    sites = [item for item in snapshot.sites.items() if item[1].role != "input"]
    return sorted(sites, key=lambda item: item[1].order)


def _per_sample(site: SiteStats) -> float | None:
    if site.grad_rms is None or not site.samples or not site.n or site.grad_nonfinite:
        return None
    return site.grad_rms * math.sqrt(site.n / site.samples)


def vanishing_gradient(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Almost no gradient reaches the early layers.

    What: gradient per sample at the first quarter of the sites, over the largest at any site, below 1e-3
    (warning) or 1e-4 (error) in two snapshots in a row. Measured on activations, not on weights: the ratio of
    weight gradients is 0.82 in a network whose activation gradients shrink by 3e-9, and 0.12 in a healthy one.
    Why: the early layers do not learn; the network trains on random features, or not at all.
    Not a problem when: the loss has converged and all gradients are tiny together (the ratio does not move), or
    the first steps of zero-initialized residual branches.
    What to try: Xavier (tanh) or He (ReLU) initialization; another activation than sigmoid; residual connections;
    batch or layer normalization.
    Source: Glorot & Bengio 2010; Hochreiter 1991; thresholds measured on 33 healthy runs.
    """
    flows = _recent_flows(history, limits.vanishing_snapshots)
    if not flows or any(f.largest <= 0 for f in flows):
        return
    ratio = max(f.early / f.largest for f in flows)
    if ratio >= limits.vanishing_warning:
        return
    f = flows[-1]
    share = f"only {ratio:.1e} of the gradient of the late layers" if ratio > 0 else "no gradient at all"
    cause, advice = _why_vanishing(history[-1], limits)
    yield Verdict(
        rule="vanishing-gradient",
        severity="error" if ratio < limits.vanishing_error else "warning",
        layer=f.first_name,
        message=f"{f.first_name}: the early layers receive {share}",
        evidence={"early": f.early, "largest": f.largest, "ratio": ratio, "healthy": "above 1e-2"},
        cause=cause,
        advice=advice,
        source="Glorot & Bengio 2010; thresholds measured on 33 healthy runs.",
    )


_SLOPES = {"Sigmoid": "1/4", "Hardsigmoid": "1/6"}


def _why_vanishing(now: Snapshot, limits: Limits) -> tuple[str, tuple[str, ...]]:
    """What blocks the way: silent units, flat ends, a small slope, or small weights."""
    hidden = {name: site for name, site in now.sites.items() if site.role == "activation"}
    silent = {n: _silent_fraction(site) for n, site in hidden.items()}
    blocked = max(silent, key=lambda n: silent[n], default="")
    if blocked and silent[blocked] >= limits.silent_warning:
        return (
            f"{silent[blocked]:.0%} of the units of {blocked} are dead or silent and pass no gradient",
            ("cure the dead units first: lower the learning rate, or restart from an earlier checkpoint",),
        )
    flat = [n for n, site in hidden.items() if (site.saturated_fraction or 0) >= limits.saturated_warning]
    if flat:
        return f"{flat[0]} lies on its flat ends", ("cure the saturation first: scale the inputs or the weights",)
    gentle = [n for n, site in hidden.items() if site.kind in _SLOPES]
    if gentle:
        kind = hidden[gentle[0]].kind
        return (
            f"{kind} has a slope of at most {_SLOPES[kind]} at every layer",
            ("use tanh, ReLU or GELU in hidden layers", "add residual connections or batch normalization"),
        )
    return (
        "each layer passes on less gradient than it receives: the weights are too small",
        (
            "use He initialization for ReLU, Xavier for tanh",
            "add residual connections",
            "add batch or layer normalization",
        ),
    )


def _silent_fraction(site: SiteStats) -> float:
    if not site.units or site.dead_units is None:
        return 0.0
    return (site.dead_units + (site.suspect_units or 0)) / site.units


def _recent_flows(history: Sequence[Snapshot], n: int) -> list[Flow]:
    flows = [flow(snapshot) for snapshot in history[-n:]]
    known = [f for f in flows if f is not None]
    return known if len(known) == n else []


def exploding_gradient(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """The gradient grows on its way back, or from one snapshot to the next.

    What: gradient per sample at the first quarter of the sites above 1,000 times that of the last site in two
    snapshots in a row; or a total gradient norm above 100 times the median of the snapshots before.
    Why: one such update can undo the training, or end it in NaN.
    Not a problem when: the loss is summed instead of averaged, or its unit is small: absolute norms of healthy
    runs span 9e-9 to 6e4, so none is thresholded here.
    What to try: clip the gradient norm; lower the learning rate or warm it up; smaller initial weights;
    normalization; for recurrent networks gated cells and shorter sequences.
    Source: Pascanu et al. 2013; Glorot & Bengio 2010; healthy range measured on 33 runs.
    """
    yield from _through_depth(history, limits)
    yield from _through_time(history, limits)


def _through_depth(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    flows = _recent_flows(history, limits.vanishing_snapshots)
    if not flows or any(f.last <= 0 for f in flows):
        return
    ratio = min(f.early / f.last for f in flows)
    if ratio > limits.exploding_depth:
        yield _exploding(
            f"{flows[-1].first_name}: the gradient grows {ratio:.1e} times from the last layer to the first",
            layer=flows[-1].first_name,
            evidence={
                "early": flows[-1].early,
                "last": flows[-1].last,
                "ratio": ratio,
                "healthy": "below 1e2",
            },
            cause="each layer passes on more gradient than it receives: the weights are too large",
        )


def _through_time(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    norms = [s.grad_norm_total for s in history if s.grad_norm_total is not None and math.isfinite(s.grad_norm_total)]
    now = history[-1].grad_norm_total
    if now is None or not math.isfinite(now) or len(norms) <= limits.exploding_history:
        return
    usual = statistics.median(norms[:-1])
    clip = history[-1].clip_coefficient
    if (
        usual > 0
        and now > limits.exploding_jump * usual
        and (clip is None or clip * now > limits.exploding_jump * usual)
    ):
        yield _exploding(
            f"the total gradient norm is {now:.3g}, {now / usual:.0f} times its usual {usual:.3g}",
            layer="",
            evidence={"grad_norm_total": now, "usual": usual, "healthy": "below 10 times the median"},
            cause="an unusual batch, or a learning rate that has left the stable range",
        )


def _exploding(message: str, *, layer: str, evidence: dict[str, object], cause: str) -> Verdict:
    return Verdict(
        rule="exploding-gradient",
        severity="error",
        layer=layer,
        message=message,
        evidence=evidence,
        cause=cause,
        advice=("clip the gradient norm", "lower the learning rate or warm it up", "use smaller initial weights"),
        source="Pascanu et al. 2013; healthy range measured on 33 runs.",
    )
