"""collapsed-activation: what a network computes does not depend on its input any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import Named, Why, in_order, silent_fraction
from actdiag.snapshot import SiteStats, Snapshot

_MIN_CHAIN = 3
_GENTLE = frozenset({"Sigmoid", "Hardsigmoid"})


def collapsed_activation(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """From one layer on, all outputs are the same for every sample.

    What: from this layer to the output, three sites or more, the mean energy is 1 as far as float32 can tell: units
    may differ from each other, but not from sample to sample. Over 32 samples, in four snapshots and 50 steps:
    warning; in eight: error. It is over when more than 1e-6 depends on the sample.
    Why: whatever the network answers, it answers to every input, and all gradients before this layer are blind.
    Not a problem when: only the output is nearly constant (a target with a large offset, rare labels); a learned
    query, a position or a gate is constant by itself, and what follows is not; batches of one sample; a plateau at
    the start (a healthy autoencoder had 1.5e-6 left, and got away); dead units, which are a finding of their own.
    What to try: residual connections or normalization; He or Xavier initialization; another activation than sigmoid
    in hidden layers; fewer layers; check that the input reaches this layer.
    Source: Poole et al. 2016, Schoenholz et al. 2017 (correlations between samples go to 1); measured.
    """
    lasting: list[tuple[Snapshot, str]] = []
    for snapshot in reversed(history):
        name = _collapsed_from(snapshot, limits.collapsed_still, limits)
        if name is None:
            break
        lasting.append((snapshot, name))
    strict = sum(_collapsed_from(snapshot, limits.collapsed, limits) is not None for snapshot, _ in lasting)
    if strict < limits.collapsed_snapshots or history[-1].step - lasting[-1][0].step < limits.collapsed_steps:
        return
    severity: Severity = "error" if strict >= limits.collapsed_error_snapshots else "warning"
    begins = [name for _, name in lasting if name in history[-1].sites]
    yield _verdict(severity, max(begins, key=lambda name: history[-1].sites[name].order), history[-1])


def _chain(snapshot: Snapshot) -> list[Named]:
    return [(n, s) for n, s in in_order(snapshot) if s.role in ("layer", "activation", "normalization", "output")]


def _collapsed_from(snapshot: Snapshot, left: float, limits: Limits) -> str | None:
    """The first site after which nothing depends on the sample; None if something does, or it is not known."""
    chain = _chain(snapshot)
    constant = [_is_constant(site, left, limits) for _, site in chain]
    tail = 0
    while tail < len(chain) and constant[-1 - tail]:
        tail += 1
    if tail < _MIN_CHAIN or any(silent_fraction(site) >= limits.dead_error for _, site in chain):
        return None
    return chain[-tail][0]


def _is_constant(site: SiteStats, left: float, limits: Limits) -> bool:
    if site.mean_energy is None or not site.rms or (site.samples or 0) < limits.collapsed_samples:
        return False
    return site.mean_energy >= 1 - left and not site.nonfinite


def _verdict(severity: Severity, name: str, now: Snapshot) -> Verdict:
    why = _why(name, now)
    site = now.sites[name]
    return Verdict(
        rule="collapsed-activation",
        severity=severity,
        layer=name,
        message=f"{name}: its outputs are the same for all {site.samples} samples, and so is everything after it",
        evidence={"mean_energy": site.mean_energy, "std": site.std, "healthy": "below 0.99999"},
        cause=why[0],
        advice=why[1],
        source="Poole et al. 2016; Schoenholz et al. 2017; measured on healthy and faulty runs.",
    )


def _why(name: str, now: Snapshot) -> Why:
    if _chain(now)[0][0] == name:
        return (
            "the first layer is constant already: the input is, or its mean is so large that nothing else counts",
            ("look at the data: whether the inputs differ at all", "standardize the inputs"),
        )
    if any(s.kind in _GENTLE and s.role == "activation" for _, s in in_order(now)):
        return (
            "each sigmoid layer shrinks the differences between samples, until none is left",
            ("use tanh, ReLU or GELU in hidden layers", "add residual connections or batch normalization"),
        )
    return (
        "each layer shrinks the differences between samples: weights too small, or too deep without a way around",
        (
            "use He initialization for ReLU, Xavier for tanh",
            "add residual connections, or batch or layer normalization",
            "look whether the forward averages over the samples here",
        ),
    )
