"""How much of the loss gradient arrives where, per sample."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from actdiag.diagnose.rules.reading import in_order, looped, module_of
from actdiag.snapshot import SiteStats, Snapshot

_MIN_SITES = 4
_PROBABILITIES = frozenset({"Softmax", "Softmax2d", "Softmin"})


class Flow(NamedTuple):
    """Gradient per sample at the early sites, at the last site, and the largest anywhere.

    `falls` tells that it never grows towards the loss: the median of each quarter of the sites is at least that of
    the next, and the last at least that of the last site.
    """

    early: float
    last: float
    largest: float
    first_name: str
    falls: bool


def flow(snapshot: Snapshot) -> Flow | None:
    """How much gradient arrives where; None with fewer than four sites that have a gradient.

    Per sample: grad_rms · sqrt(elements per sample), so that a wide or spatial layer compares with a narrow one.
    Early is the median over the first quarter of the sites in execution order. What turns scores into
    probabilities is left out: the gradient of the loss by a probability (1/p) says nothing about the layers.
    """
    norms = [
        (name, norm)
        for name, site in in_order(snapshot)
        if not gives_probabilities(site) and (norm := per_sample(site)) is not None
    ]
    if len(norms) < _MIN_SITES:
        return None
    values = [norm for _, norm in norms]
    quarters = _medians(values)
    return Flow(
        early=quarters[0],
        last=values[-1],
        largest=max(values),
        first_name=_name(norms[0][0], snapshot),
        falls=all(a >= b for a, b in zip(quarters, [*quarters[1:], values[-1]], strict=True)),
    )


def _medians(values: Sequence[float]) -> list[float]:
    """The median of each quarter; what does not divide by four is left to the last quarter."""
    size = max(1, len(values) // 4)
    return [statistics.median(values[i * size : (i + 1) * size if i < 3 else None]) for i in range(4)]


def _name(site: str, snapshot: Snapshot) -> str:
    return module_of(site) if module_of(site) in looped(snapshot) else site


def gives_probabilities(site: SiteStats) -> bool:
    """Softmax, and a bounded activation behind the last layer."""
    return site.kind in _PROBABILITIES or (site.role == "output" and site.saturated_fraction is not None)


def per_sample(site: SiteStats) -> float | None:
    """Norm of the gradient at a site by one sample; None for inputs, and where it is unknown or not finite."""
    if site.role == "input" or site.grad_rms is None or not site.samples or not site.n or site.grad_nonfinite:
        return None
    norm = site.grad_rms * math.sqrt(max(0.0, site.n / site.samples))
    return norm if math.isfinite(norm) else None
