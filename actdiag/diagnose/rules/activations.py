"""saturated-activation and off-center: where in its range an activation works."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import (
    IDLE,
    Layer,
    Why,
    bad_input,
    centering,
    is_idle,
    layers,
    percent,
    short,
)
from actdiag.snapshot import SiteStats, Snapshot


def saturated_activation(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """A hidden bounded activation that lies on its flat ends.

    What: share of elements with gate <= 0.0591 (|tanh| >= 0.97; |2 sigmoid - 1| >= 0.97; clipped for hard ones)
    at least 0.5 (warning) or 0.7 (error) in two snapshots in a row.
    Why: the slope there is below 6 % of its peak, so what lies before learns slowly. With large weights the
    gradient may even grow: saturation and vanishing are separate findings.
    Not a problem when: it is an output (sigmoid before a loss) or a gate (its output multiplies another tensor):
    those saturate when they have decided, and are left alone. A hidden layer may decide too (a code, the last layers
    of a long training): what came by training, with inputs in order and the first layer open, is told as info, and
    as a warning or error only if 95 % of a layer stay flat for six snapshots.
    What to try: standardize the inputs; Xavier initialization (tanh gain 5/3); batch or layer normalization
    before the activation; a lower learning rate; ReLU or GELU.
    Source: measured, tanh 6 x 128 with eight gains: accuracy suffers from about 0.7 on; 0.97 after Karpathy,
    makemore part 3; Glorot & Bengio 2010.
    """
    recent = history[-limits.saturated_snapshots :]
    if len(recent) < limits.saturated_snapshots:
        return
    hidden = [layer for layer in _hidden(history[-1]) if layer.site.saturated_fraction is not None]
    lowest = {layer.name: _lowest(recent, layer.name) for layer in hidden}
    flat = [layer for layer in hidden if lowest[layer.name] >= limits.saturated_warning]
    stuck = [layer for layer in flat if lowest[layer.name] >= limits.saturated_error]
    everywhere = len(stuck) > 1 and stuck[0] is hidden[0]
    for layer in flat:
        severity: Severity = "error" if lowest[layer.name] >= limits.saturated_error else "warning"
        if is_idle(layer.site, history[-1]):
            yield _saturated(layer, "info", IDLE)
        elif everywhere or _imposed(layer, history, limits):
            yield _saturated(layer, severity, _cause(layer, history, limits))
        else:
            yield _saturated(layer, "info", _DECIDED)


def _hidden(snapshot: Snapshot) -> list[Layer]:
    return [layer for layer in layers(snapshot) if layer.site.role == "activation"]


def _share(sites: Sequence[SiteStats], what: str) -> float | None:
    """A share over all calls of a layer; None if it is not known of one."""
    counted = [(site.n or 0, getattr(site, what)) for site in sites]
    total = sum(n for n, _ in counted)
    if not total or any(share is None for _, share in counted):
        return None
    return float(sum(n * share for n, share in counted) / total)


def _share_at(snapshot: Snapshot, name: str) -> float | None:
    layer = next((layer for layer in _hidden(snapshot) if layer.name == name), None)
    return None if layer is None else _share([site for _, site in layer.calls], "saturated_fraction")


def _lowest(snapshots: Sequence[Snapshot], name: str) -> float:
    """The smallest saturated share of a layer; 0 if it is unknown in one of the snapshots."""
    return min((_share_at(snapshot, name) or 0.0 for snapshot in snapshots), default=0.0)


def _imposed(layer: Layer, history: Sequence[Snapshot], limits: Limits) -> bool:
    """Whether the saturation has not been learned: there from the start, due to the inputs, or shut for long.

    A history that is too short for the last holds the start, where the layer was open.
    """
    if _lowest(history[:1], layer.name) >= limits.saturated_warning or bad_input(history[-1], limits) is not None:
        return True
    return _lowest(history[-limits.shut_snapshots :], layer.name) >= limits.shut_share


_DECIDED: Why = (
    "it came to this by training, while the first layers stay open: it may have decided, as codes do",
    (
        "watch whether the loss still falls",
        "lower the learning rate if it does not",
        "put batch or layer normalization before the activation",
    ),
)


def _cause(layer: Layer, history: Sequence[Snapshot], limits: Limits) -> Why:
    smaller = (
        f"use Xavier initialization{' with gain 5/3' if layer.site.kind == 'Tanh' else ''}",
        "put batch or layer normalization before the activation",
    )
    if (odd := bad_input(history[-1], limits)) is not None:
        return odd, ("standardize the inputs: subtract the mean, divide by the std", *smaller)
    if _lowest(history[:1], layer.name) >= limits.saturated_warning:
        return "the initial weights before it are too large for its range", (*smaller, "use ReLU or GELU")
    return (
        "updates made the weights before it too large for its range: the learning rate is too high",
        ("lower the learning rate or warm it up", "clip the gradient norm", *smaller),
    )


def _saturated(layer: Layer, severity: Severity, why: Why) -> Verdict:
    sites = [site for _, site in layer.calls]
    shares = {what: _share(sites, what) for what in ("saturated_fraction", "saturated_low", "saturated_high")}
    ends = [
        f"{percent(shares[what] or 0)} {end}"
        for what, end in (("saturated_low", "low"), ("saturated_high", "high"))
        if shares[what] is not None
    ]
    where = f" ({', '.join(ends)})" if ends else ""
    return Verdict(
        rule="saturated-activation",
        severity=severity,
        layer=layer.name,
        message=f"{layer.name}: {percent(shares['saturated_fraction'] or 0)} of the {layer.site.kind} outputs lie on a "
        f"flat end{where}, where the slope is below 6% of its peak",
        evidence={
            **shares,
            "gate_mean": _share(sites, "gate_mean"),
            "healthy": "at most 0.25 at the start, 0.76 by training",
        },
        cause=why[0],
        advice=why[1],
        source="Measured gain sweep; threshold after Karpathy, makemore part 3; Glorot & Bengio 2010.",
    )


def off_center(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """The network's input is mostly mean.

    What: the mean energy of the first layer's input, sum mu_u^2 / sum E[x_u^2], is above 0.9: more than 90 % of
    its second moment does not depend on the sample. The 1/n that a mean over n samples has by chance is taken
    off, and 32 samples are needed, over several snapshots if batches are small.
    Why: gradients of a unit's weights then all share one sign, the largest curvature grows with the offset (13
    to 763 for an offset of 5 std), learning slows down and ReLU units die at initialization.
    Not a problem when: hidden ReLU layers show it; their mean energy rises with depth (0.3 to 0.8) in nets that
    train well, so hidden layers are shown and never reported. Images in [0, 1] have up to 0.72 (dark background)
    or 0.89 (bright) and train.
    What to try: subtract the mean of each feature (and divide by its std); then nothing else need change.
    Source: LeCun et al. 1998, "Efficient BackProp"; measured on breast cancer data shifted by 0 to 20 std.
    """
    for name, site in history[-1].sites.items():
        energy = _energy(name, history, limits) if site.role == "input" else None
        if energy is not None and energy > limits.input_mean_energy:
            yield _off_center(name, site, energy)


def _energy(name: str, history: Sequence[Snapshot], limits: Limits) -> float | None:
    """Median mean energy of an input over as few of the last snapshots as hold enough samples."""
    found: list[float] = []
    samples = 0
    for snapshot in reversed(history):
        site = snapshot.sites.get(name)
        energy = None if site is None else centering(site)
        if site is None or energy is None:
            continue
        found.append(energy)
        samples += site.samples or 0
        if samples >= limits.input_samples:
            return statistics.median(found)
    return None


def _off_center(name: str, site: SiteStats, energy: float) -> Verdict:
    return Verdict(
        rule="off-center",
        severity="warning",
        layer=name.removesuffix(":in"),
        message=f"{name}: {percent(energy)} of the input's energy is its mean (mean {short(site.mean)}, "
        f"std {short(site.std)}); the inputs are not centered",
        evidence={
            "mean_energy": energy,
            "mean": site.mean,
            "std": site.std,
            "healthy": "0 when standardized, at most 0.9",
        },
        cause="the features were not standardized",
        advice=("subtract each feature's mean and divide by its std, computed on the training data",),
        source='LeCun et al. 1998, "Efficient BackProp"; measured with inputs shifted by 0 to 20 std.',
    )
